"""Word-level tokenizer of the scene worlds, and the framing ids that every tokenizer must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data.errors import UserError

BOS, EOS, SOI, EOI = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
PAD, UNK = "<|pad|>", "<|unk|>"


@dataclass(frozen=True)
class SpecialIds:
    """Ids that frame segments. A text is [bos] + words + [eos]; a picture is [soi] + tokens + [eoi]."""

    bos: int
    eos: int
    soi: int
    eoi: int
    pad: int


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One id per distinct word (order kept, specials first), split at spaces; unknown words become <|unk|>."""
    listed = dict.fromkeys([PAD, UNK, BOS, EOS, SOI, EOI, *words])
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(listed)}, unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[SOI, EOI],
        clean_up_tokenization_spaces=False,
    )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """Look the framing tokens up; UserError names a token that the tokenizer lacks."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (BOS, EOS, SOI, EOI) if token not in vocabulary]
    if missing:
        raise UserError(f"the tokenizer has no {', '.join(missing)}", "Load it with model.tokenizer.load_tokenizer")
    pad: Any = tokenizer.pad_token_id
    bos, eos, soi, eoi = (vocabulary[token] for token in (BOS, EOS, SOI, EOI))
    return SpecialIds(bos, eos, soi, eoi, int(pad) if pad is not None else eos)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read tokenizer files; the four framing tokens are added only where they are absent, as the official loader
    does."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer can be read from {folder}: {error}", "Give a complete model folder") from error
    missing = [token for token in (BOS, EOS, SOI, EOI) if token not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_tokens(missing)
    return tokenizer


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Plain ids without frame; packing and the context add it."""
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def decode_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Texts of plain ids; framing and padding ids are skipped."""
    frame = {v for k, v in tokenizer.get_vocab().items() if k in {BOS, EOS, SOI, EOI, PAD}}
    return [str(tokenizer.decode([i for i in row if i not in frame])).strip() for row in ids]


def allowed_words(tokenizer: PreTrainedTokenizerBase, rows: int) -> Any:
    """(rows,) bool over the model's vocabulary: real words and eos, so that sampling never leaves the tokenizer."""
    import torch

    mask = torch.zeros(rows, dtype=torch.bool)
    mask[: min(len(tokenizer), rows)] = True
    vocabulary = tokenizer.get_vocab()
    for token in {BOS, SOI, EOI, PAD, UNK} & set(vocabulary):
        mask[vocabulary[token]] = False
    return mask

"""Word-level tokenizer of the scene worlds, and the special ids that every tokenizer must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class SpecialIds:
    """Ids that frame segments. A text is [bos] + words + [eos]; a picture is [soi] + tokens + [eoi]."""

    bos: int
    eos: int
    soi: int
    eoi: int
    pad: int


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One id per word (order kept, specials first), split at spaces; unknown words become <unk>."""
    raise NotImplementedError


def special_ids(tokenizer: PreTrainedTokenizerFast) -> SpecialIds:
    """Look the framing tokens up; UserError names a token that the tokenizer lacks."""
    raise NotImplementedError


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read tokenizer files; the four framing tokens are added only when absent (as the official loader does)."""
    raise NotImplementedError


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Plain ids without bos/eos; packing and the context add the frame."""
    raise NotImplementedError


def decode_texts(tokenizer: PreTrainedTokenizerFast, ids: Sequence[Sequence[int]]) -> list[str]:
    """Text of plain ids; framing and padding ids are skipped."""
    raise NotImplementedError

"""A model folder as one object: model, autoencoder, tokenizer.

Layout of this project's folder: config.json, model.safetensors (or shards and their index), vae/, tokenizer/.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from data.errors import UserError
from model import distributed
from model.adapters import folded, is_adapted
from model.atomic import replace_folder
from model.images import Pixels
from model.loading import load_model, load_vae
from model.modeling import EditModel
from model.official import is_official
from model.pictures import Grid, Pictures
from model.tokenizer import SpecialIds, allowed_words, load_tokenizer, special_ids
from model.vae import decode, encode


@dataclass(frozen=True)
class Bundle:
    """What the trainers, the evaluation and the pipeline work with."""

    model: EditModel
    vae: AutoencoderKL
    tokenizer: PreTrainedTokenizerBase
    special: SpecialIds

    def encode(self, images: Pixels) -> Pictures:
        """Table of uint8 pictures (N, H, W, 3) of one size."""
        return encode(self.vae, images, self.model.config).to(self.model.device)

    def decode(self, latents: Tensor, grid: Grid) -> Pixels:
        """uint8 (N, H, W, 3) of latents (N, rows*columns, C)."""
        return decode(self.vae, latents, grid, self.model.config)

    @property
    def allowed(self) -> Tensor:
        """(V,) bool: ids that a trace for a user may hold; RL samples and replays the whole vocabulary."""
        rows = self.model.get_output_embeddings().weight.shape[0]
        return allowed_words(self.tokenizer, rows).to(self.model.device)

    def save(self, folder: Path, max_shard_size: str = "5GB", state: dict[str, Tensor] | None = None) -> Path:
        """Write the folder in one step: a reader sees the whole model or none. UserError when `folder` exists.

        `state`: the model's tensors, where it does not hold them itself.
        """
        if folder.exists():
            raise UserError(f"{folder} exists already", "Name a new folder")
        logging.disable_progress_bar()  # checkpoints are written while others report progress
        temporary = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        self.model.save_pretrained(temporary, max_shard_size=max_shard_size, state_dict=state)
        self.vae.register_to_config(_name_or_path="")  # or the folder it was loaded from would travel with the model
        self.vae.save_pretrained(temporary / "vae")
        self.tokenizer.save_pretrained(temporary / "tokenizer")
        replace_folder(temporary, folder)
        return folder

    def publish(self, work: Path, folder: Path) -> Path:
        """Save the finished model of a training: in its `work` folder first, then under its own name.

        All ranks must call it; the first one writes.
        """
        elsewhere = is_adapted(self.model) or distributed.world() > 1  # some of its tensors, or shards of them
        state = distributed.collected(self.model.state_dict()) if elsewhere else None
        if distributed.rank() == 0:
            shutil.rmtree(work / "finished", ignore_errors=True)  # of a run that was killed right here
            plain = None if state is None else folded(self.model, state)
            replace_folder(self.save(work / "finished", state=plain), folder)
        distributed.barrier(f"{folder.name} published")
        return folder


def load(folder: Path, dtype: str | None = None, device: str = "cpu") -> Bundle:
    """Read this project's folder or the official one; UserError names what is missing or does not fit."""
    folder = Path(folder)
    model = load_model(folder, dtype, device)
    vae = load_vae(folder, dtype, device)
    tokenizer = load_tokenizer(folder if is_official(folder) else folder / "tokenizer")
    return Bundle(model, vae, tokenizer, special_ids(tokenizer))

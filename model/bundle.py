"""A model folder as one object: model, autoencoder, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from model.modeling import EditModel
from model.packing import Pictures
from model.tokenizer import SpecialIds


@dataclass(frozen=True)
class Bundle:
    """What the trainers, the evaluation and the pipeline work with."""

    model: EditModel
    vae: AutoencoderKL
    tokenizer: PreTrainedTokenizerFast
    special: SpecialIds

    def encode(self, images: np.ndarray) -> Pictures:
        """`model.vae.encode` with this bundle's parts."""
        raise NotImplementedError

    def decode(self, latents: Tensor, grid: tuple[int, int]) -> np.ndarray:
        """`model.vae.decode` with this bundle's parts."""
        raise NotImplementedError

    def save(self, folder: Path) -> Path:
        """config.json, model.safetensors, vae/, tokenizer/."""
        raise NotImplementedError


def load(folder: Path, dtype: str | None = None, device: str = "cpu") -> Bundle:
    """Read this project's folder or the official BAGEL folder; UserError names what is missing."""
    raise NotImplementedError

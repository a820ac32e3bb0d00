"""Folders to modules: this project's layout and the official one, lazily, fail-closed, with a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from data.errors import UserError
from model.checkpoints import Checkpoint, LoadReport, Shape, check, fill, shapes_of, to_dtype
from model.configuration import EditConfig
from model.modeling import EditModel
from model.official import is_official, official_config, official_vae, vae_key, vae_shape, vae_tensor

PATCHES = "vit_model.vision_model.embeddings.patch_embedding.weight"


def model_on_meta(config: EditConfig) -> EditModel:
    """The architecture without memory."""
    with torch.device("meta"):
        return EditModel(config)


def load_model(folder: Path, dtype: str | torch.dtype | None = None, device: str = "cpu") -> EditModel:
    """Read either layout. dtype None keeps the stored precision, that of most weights where there are several;
    UserError names every tensor that does not fit."""
    official = is_official(folder)
    if not official and not (folder / "config.json").exists():
        raise UserError(f"{folder} is no model folder (no config.json)", "Give the folder of a trained model")
    stored = Checkpoint(folder / ("ema.safetensors" if official else "model.safetensors"))
    if official:
        config, remarks = official_config(folder, stored.shapes)
    else:
        config, remarks = EditConfig.from_pretrained(folder), []
    model = model_on_meta(config)
    check(shapes_of(model), linear_patches(stored.shapes), str(stored.path))
    state = _read(stored, to_dtype(dtype), device)
    kinds = sorted({str(t.dtype) for t in state.values()}) if dtype is None else sorted(_stored_kinds(stored))
    main = _precision(state)
    if odd := [name for name, tensor in state.items() if tensor.dtype != main]:  # no layer takes two of them
        state |= {name: state[name].to(main) for name in odd}
        remarks = [*remarks, f"brought to {main}: {', '.join(odd)}"]
    fill(model, state)
    size = sum(t.numel() * t.element_size() for t in state.values())
    layout = "official" if official else "own"
    model.load_report = LoadReport(str(folder), layout, len(state), size, tuple(kinds), tuple(remarks))
    return model.eval()


def linear_patches(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """SigLIP checkpoints may hold the patch embedding as a convolution (out, channel, row, column)."""
    shape = shapes.get(PATCHES, ())
    if len(shape) != 4:
        return dict(shapes)
    return {**shapes, PATCHES: (shape[0], shape[1] * shape[2] * shape[3])}


def _read(stored: Checkpoint, dtype: torch.dtype | None, device: str) -> dict[str, Tensor]:
    state = {}
    for name, tensor in stored.tensors(device):
        if name == PATCHES and tensor.dim() == 4:
            tensor = tensor.permute(0, 2, 3, 1).flatten(1)
        state[name] = tensor.to(dtype) if dtype is not None else tensor
    return state


def _precision(state: Mapping[str, Tensor]) -> torch.dtype:
    """That of most weights."""
    weights: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        weights[tensor.dtype] += tensor.numel()
    return weights.most_common(1)[0][0]


def _stored_kinds(stored: Checkpoint) -> set[str]:
    from safetensors import safe_open

    kinds = set()
    for file in set(stored.file_of.values()):
        with safe_open(str(file), framework="pt") as opened:
            kinds |= {str(opened.get_slice(name).get_dtype()) for name in opened.keys()}  # noqa: SIM118
    return kinds


def load_vae(folder: Path, dtype: str | torch.dtype | None = None, device: str = "cpu") -> AutoencoderKL:
    """The autoencoder of a model folder of either layout (official: ae.safetensors; own: vae/)."""
    if not is_official(folder):
        return _load_own_vae(folder / "vae", to_dtype(dtype), device)
    stored = Checkpoint(folder / "ae.safetensors")
    with torch.device("meta"):
        vae = official_vae(folder)
    levels = len(vae.config["block_out_channels"])
    renamed = {vae_key(name, levels): vae_shape(name, shape) for name, shape in stored.shapes.items()}
    check(shapes_of(vae), renamed, str(stored.path))
    kind = to_dtype(dtype)
    state = {vae_key(n, levels): vae_tensor(n, t).to(kind or t.dtype) for n, t in stored.tensors(device)}
    fill(vae, state)
    return vae.eval()


def _load_own_vae(folder: Path, dtype: torch.dtype | None, device: str) -> AutoencoderKL:
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is no autoencoder folder", "Give the folder of a trained model")
    stored = Checkpoint(folder / "diffusion_pytorch_model.safetensors")
    options: Any = AutoencoderKL.load_config(str(folder), local_files_only=True)
    with torch.device("meta"):
        vae: AutoencoderKL = AutoencoderKL.from_config(options)
    check(shapes_of(vae), stored.shapes, str(stored.path))
    fill(vae, {name: tensor.to(dtype or tensor.dtype) for name, tensor in stored.tensors(device)})
    return vae.eval()

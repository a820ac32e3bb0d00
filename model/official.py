"""The official BAGEL folder: configuration from its json files and checkpoint shapes, and the autoencoder's key map."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from data.errors import UserError
from model.checkpoints import Shape
from model.configuration import EditConfig

# The released autoencoder's numbers are constants of its code, in no file; vae_config.json overrides them.
VAE_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "z_channels": 16,
    "scale_factor": 0.3611,
    "shift_factor": 0.1159,
}
BAGEL_KEYS = (
    "latent_patch_size",
    "connector_act",
    "interpolate_pos",
    "timestep_shift",
)


def is_official(folder: Path) -> bool:
    """Whether the folder has the official layout."""
    return (folder / "llm_config.json").exists()


def read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """A json object, {} for an absent optional file; UserError otherwise."""
    if not path.exists():
        if required:
            raise UserError(f"{path} does not exist", "Give a complete model folder")
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no json object: {error}", "Fetch the file again") from error


def vae_numbers(folder: Path) -> dict[str, Any]:
    """The autoencoder's hyperparameters."""
    return {**VAE_DEFAULTS, **read_json(folder / "vae_config.json", required=False)}


def official_config(folder: Path, shapes: Mapping[str, Shape]) -> tuple[EditConfig, list[str]]:
    """Configuration and remarks. The sides of the position tables come from the checkpoint, never from a json."""
    llm, vit = read_json(folder / "llm_config.json"), read_json(folder / "vit_config.json")
    extra = read_json(folder / "bagel_config.json", required=False)
    general = read_json(folder / "config.json", required=False)
    named = {**general, **extra.get("bagel", {})}
    vae = vae_numbers(folder)
    vit["num_hidden_layers"] = int(vit["num_hidden_layers"]) - 1  # the released model runs one layer less than it says
    sides: dict[str, Any] = {
        "max_latent_size": _side(shapes, "latent_pos_embed.pos_embed"),
        "vit_max_num_patch_per_side": _side(shapes, "vit_pos_embed.pos_embed"),
    }
    remarks = [f"{k}: the file says {named[k]}, the checkpoint {v}" for k, v in sides.items() if named.get(k, v) != v]
    downsample = 2 ** (len(vae["ch_mult"]) - 1)
    latent_patch = int(named.get("latent_patch_size", 2))
    config = EditConfig(
        llm,
        vit,
        **sides,
        **{key: named[key] for key in BAGEL_KEYS if key in named},
        vit_positions=_shape(shapes, "vit_model.vision_model.embeddings.position_embedding.weight")[0],
        timestep_channels=_shape(shapes, "time_embedder.mlp.0.weight")[1],
        latent_channels=int(vae["z_channels"]),
        vae_downsample=downsample,
        vae_resize=tuple(extra.get("vae_tf", (1024, 512, downsample * latent_patch))),
        vit_resize=tuple(extra.get("vit_tf", (980, 224, int(vit["patch_size"])))),
    )
    return config, remarks


def _shape(shapes: Mapping[str, Shape], name: str) -> Shape:
    if name not in shapes:
        raise UserError(f"the checkpoint has no tensor {name}", "Use a complete checkpoint")
    return shapes[name]


def _side(shapes: Mapping[str, Shape], name: str) -> int:
    rows = _shape(shapes, name)[0]
    if isqrt(rows) ** 2 != rows:
        raise UserError(f"{name} has {rows} rows, which is no square", "Use a checkpoint with square position tables")
    return isqrt(rows)


def official_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder's architecture, without weights of its own; build it under torch.device("meta")."""
    numbers = vae_numbers(folder)
    channels = tuple(int(numbers["ch"]) * int(m) for m in numbers["ch_mult"])
    return AutoencoderKL(
        in_channels=numbers["in_channels"],
        out_channels=numbers["out_ch"],
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=int(numbers["num_res_blocks"]),
        latent_channels=int(numbers["z_channels"]),
        norm_num_groups=32,
        scaling_factor=float(numbers["scale_factor"]),
        shift_factor=float(numbers["shift_factor"]),
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def vae_key(name: str, levels: int) -> str:
    """diffusers' name of a tensor of the released autoencoder (whose decoder counts levels from the highest
    resolution)."""
    side, rest = name.split(".", 1)
    if found := re.fullmatch(r"down\.(\d+)\.(?:block\.(\d+)|downsample)\.(.+)", rest):
        level, block, tail = found.groups()
        part = f"resnets.{block}" if block is not None else "downsamplers.0"
        return f"{side}.down_blocks.{level}.{part}.{_tail(tail)}"
    if found := re.fullmatch(r"up\.(\d+)\.(?:block\.(\d+)|upsample)\.(.+)", rest):
        level, block, tail = found.groups()
        part = f"resnets.{block}" if block is not None else "upsamplers.0"
        return f"{side}.up_blocks.{levels - 1 - int(level)}.{part}.{_tail(tail)}"
    if found := re.fullmatch(r"mid\.block_([12])\.(.+)", rest):
        return f"{side}.mid_block.resnets.{int(found[1]) - 1}.{_tail(found[2])}"
    if found := re.fullmatch(r"mid\.attn_1\.(\w+)\.(\w+)", rest):
        part = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}[found[1]]
        return f"{side}.mid_block.attentions.0.{part}.{found[2]}"
    return f"{side}.{rest.replace('norm_out', 'conv_norm_out')}"


def _tail(tail: str) -> str:
    return tail.replace("nin_shortcut", "conv_shortcut")


def vae_shape(name: str, shape: Shape) -> Shape:
    """The middle attention's 1x1 convolutions are linear layers in diffusers."""
    return shape[:2] if _is_projection(name, len(shape)) else shape


def vae_tensor(name: str, tensor: Tensor) -> Tensor:
    """The tensor as diffusers stores it."""
    return tensor[:, :, 0, 0] if _is_projection(name, tensor.dim()) else tensor


def _is_projection(name: str, dimensions: int) -> bool:
    return dimensions == 4 and re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$", name) is not None

"""LoRA through peft on either expert: low-rank updates learn in place of the weights.

The adapters live inside the model, which goes on being used as before. A model is published with every update folded
into its weight, so that folders stay plain.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.config import AdapterConfig

_ATTENTION = r"self_attn\.[qkvo]_proj"
_MLP = r"(?:gate|up|down)_proj"
_PATTERNS = {
    "understanding": rf"(?:{_ATTENTION}|mlp\.{_MLP})",
    "generation": rf"(?:{_ATTENTION}_moe_gen|mlp_moe_gen\.{_MLP})",
    "both": rf"(?:{_ATTENTION}(?:_moe_gen)?|mlp(?:_moe_gen)?\.{_MLP})",
}


def adapt(model: nn.Module, config: AdapterConfig, seed: int) -> None:
    """Freeze a model and put adapters of its precision on the projections of its experts; nothing at rank 0.

    Ranks that are to share the model out must have drawn the same adapters: they depend on `seed` alone.
    """
    if not config.rank:
        return
    from peft import LoraConfig, get_peft_model

    chosen = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=rf".*language_model\.model\.layers\.\d+\.{_PATTERNS[config.expert]}",
        bias="none",
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for what transformers has renamed
        torch.manual_seed(seed)
        get_peft_model(model, chosen, autocast_adapter_dtype=False)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The projections that bear adapters, by name."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))


def is_adapted(model: nn.Module) -> bool:
    """Whether adapters lie in a model."""
    return any(_adapted(model))


def folded(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model as if it had learned without adapters; as they are where it did.

    Args:
        model: tells how much each adapter weighs.
        state: its tensors, whole, under their present names.
    """
    plain = {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
    for name, module in _adapted(model):
        down, up = (state[f"{name}.lora_{part}.default.weight"].float() for part in "AB")
        weight = plain[f"{name}.weight"]
        plain[f"{name}.weight"] = (weight.float() + module.scaling["default"] * up @ down).to(weight.dtype)
    return plain

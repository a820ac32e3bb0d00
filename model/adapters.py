"""LoRA through peft on either expert; the adapter is merged before the model is saved, so that folders stay plain."""

from __future__ import annotations

from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model

from model.bundle import Bundle
from model.modeling import EditModel

Expert = Literal["understanding", "generation", "both"]

_ATTENTION = r"self_attn\.[qkvo]_proj"
_MLP = r"(?:gate|up|down)_proj"
_PATTERNS: dict[Expert, str] = {
    "understanding": rf"(?:{_ATTENTION}|mlp\.{_MLP})",
    "generation": rf"(?:{_ATTENTION}_moe_gen|mlp_moe_gen\.{_MLP})",
    "both": rf"(?:{_ATTENTION}(?:_moe_gen)?|mlp(?:_moe_gen)?\.{_MLP})",
}


def add_lora(
    model: EditModel, expert: Expert = "both", rank: int = 64, alpha: int = 128, dropout: float = 0.0
) -> PeftModel:
    """Freeze the model and train low-rank updates of the expert's projections (defaults: those of the released code).

    The adapters live inside `model`, which goes on being used as before; the returned wrapper holds peft's methods.
    """
    target = rf".*language_model\.model\.layers\.\d+\.{_PATTERNS[expert]}"
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target, bias="none")
    )


def merge_lora(wrapped: PeftModel) -> EditModel:
    """Fold the updates into the weights and take the adapters out."""
    model = wrapped.merge_and_unload()
    if not isinstance(model, EditModel):
        raise TypeError(f"expected an EditModel, found {type(model).__name__}")
    return model


def with_model(bundle: Bundle, model: EditModel) -> Bundle:
    """The bundle around another model."""
    return Bundle(model, bundle.vae, bundle.tokenizer, bundle.special)

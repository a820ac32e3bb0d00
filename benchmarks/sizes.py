"""Random models of the sizes that the benchmarks compare, and the machine's matrix-multiplication peak."""

from __future__ import annotations

import time
from typing import Any

import torch

from model.bundle import Bundle
from model.configuration import EditConfig
from model.modeling import EditModel
from model.tokenizer import special_ids, word_tokenizer
from model.vae import new_vae, set_scale

# The parity folder's numbers, and the 13 M-parameter model that the released code was timed with as well.
SIZES: dict[str, dict[str, Any]] = {
    "parity": {"width": 64, "mlp": 128, "layers": 4, "heads": 4, "kv_heads": 2},
    "13m": {"width": 256, "mlp": 768, "layers": 8, "heads": 8, "kv_heads": 4},
    "wide": {"width": 1024, "mlp": 4096, "layers": 12, "heads": 8, "kv_heads": 4},
}
WORDS = 290


def random_bundle(size: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Bundle:
    """Pictures of 128 x 128: 64 latent tokens (÷16) and 64 ViT patches of 14 (at 112 x 112)."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer([f"w{i}" for i in range(WORDS)])
    config = EditConfig.small(
        vocab_size=len(tokenizer), vit_width=48, vit_layers=3, vit_heads=4, latent_channels=16, vit_patch=14,
        image_size=112, **SIZES[size],
    )  # fmt: skip
    config.max_latent_size, config.vae_resize, config.vit_resize = 8, [128, 32, 16], [112, 28, 14]
    model = EditModel(config).to(device, dtype).eval()
    torch.nn.init.normal_(model.llm2vae.weight, std=0.02)
    vae = new_vae((32, 32, 32, 64), 16, blocks=1).to(device, dtype).eval()
    set_scale(vae, 0.3611, 0.1159)
    return Bundle(model, vae, tokenizer, special_ids(tokenizer))


def matmul_peak(dtype: torch.dtype, device: str, side: int = 8192) -> float:
    """FLOP per second of a square product, measured."""
    side = side if device != "cpu" else 1024
    a = torch.randn(side, side, device=device).to(dtype)
    for _ in range(3):
        a @ a
    start, rounds = clock(device), 20
    for _ in range(rounds):
        a @ a
    return 2 * side**3 * rounds / (clock(device) - start)


def synchronise(device: str) -> None:
    """Wait for queued work, so that times mean something."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def clock(device: str) -> float:
    """CPU seconds of this process, or wall seconds when an accelerator works."""
    synchronise(device)
    return time.perf_counter() if device.startswith("cuda") else time.process_time()

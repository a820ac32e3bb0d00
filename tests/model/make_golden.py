"""Writes the golden fixture of this repository: `python -m tests.model.make_golden` (about a minute).

A tiny random model in the official layout, and what `tests.model.hand`, an independent and slow re-derivation of the
rules, computes with it. The numbers thus do not come from the package; `tests/model/test_golden.py` compares them.
"""

import itertools
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.loading import model_on_meta
from model.official import official_config
from model.tokenizer import special_ids, word_tokenizer
from tests.model.hand import Hand, Turn, cut, stochastic, times_of
from tests.model.naive import Autoencoder

FOLDER = Path(__file__).parent / "fixtures" / "tiny_official"
CONFIGS = {
    "llm": {
        "vocab_size": 40, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_theta": 5e4, "rms_norm_eps": 1e-6,
    },
    "vit": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 24,
        "patch_size": 8, "num_channels": 3, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
    },
    "vae": {
        "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "z_channels": 4, "scale_factor": 0.8, "shift_factor": 0.1,
    },
    "bagel": {
        "bagel": {"latent_patch_size": 2, "connector_act": "gelu_pytorch_tanh", "interpolate_pos": False},
        "vae_tf": [24, 16, 4], "vit_tf": [24, 16, 8],
    },
}  # fmt: skip
TABLES = {
    "latent_pos_embed.pos_embed": (36, 48), "vit_pos_embed.pos_embed": (9, 48),
    "vit_model.vision_model.embeddings.position_embedding.weight": (9, 32), "time_embedder.mlp.0.weight": (48, 32),
}  # fmt: skip
SIZES = ((16, 24), (24, 16), (16, 16), (16, 24))  # height and width of the source and of the picture after each turn
TEXTS, TRACES = ([8, 9, 10], [11, 12], [13, 14, 15, 16]), ([20, 21], [], [22, 23, 24])
MOMENTS = (0.9, 0.45, 0.2)  # time at which each turn's noise is seen
MODES = {
    "text_channel": {"text": 4.0, "image": 2.0},
    "channel": {"text": 4.0, "image": 2.0, "renorm": "channel"},
    "global": {"text": 4.0, "image": 1.5, "renorm": "global"},
    "least": {"text": 3.0, "image": 1.5, "renorm_min": 0.8},
}
POINTS, SHIFT, TEMPERATURE, LEVEL = 5, 3.0, 0.7, 0.7
STEPS = (0, 2)  # of the grid


def write_model(random: torch.Generator) -> None:
    """Configuration, bf16 weights and tokenizer."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in CONFIGS.items():
        (FOLDER / f"{name}_config.json").write_text(json.dumps(content, indent=1))
    config, _ = official_config(FOLDER, TABLES)
    state = {}
    for name, tensor in model_on_meta(config).state_dict().items():
        drawn = torch.randn(tensor.shape, generator=random)
        state[name] = (
            1 + 0.2 * drawn if "norm" in name and name.endswith("weight") else drawn * tensor.shape[-1] ** -0.5
        )
    conv = "vit_model.vision_model.embeddings.patch_embedding.weight"
    state[conv] = state[conv].view(32, 8, 8, 3).permute(0, 3, 1, 2).contiguous()
    save_file({n: t.bfloat16() for n, t in state.items()}, FOLDER / "ema.safetensors")
    torch.manual_seed(0)
    numbers = CONFIGS["vae"]
    vae = Autoencoder(numbers["ch"], numbers["ch_mult"], numbers["num_res_blocks"], numbers["z_channels"])
    save_file({n: t.bfloat16() for n, t in vae.state_dict().items()}, FOLDER / "ae.safetensors")
    word_tokenizer([f"w{i}" for i in range(34)]).save_pretrained(FOLDER)


def golden(hand: Hand, random: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All tensors, and the norm of every gradient."""
    found, turns = {}, []
    for index, size in enumerate(SIZES):
        pixels = torch.randint(0, 256, (*size, 3), generator=random, dtype=torch.uint8)
        turn = hand.see(pixels, pixels, TEXTS[index] if index < len(TEXTS) else [])
        found |= {f"image.{index}": pixels, f"latents.{index}": turn.clean["latents"]}
        found[f"vit.{index}"] = hand.naive.vit_tokens(cut(pixels.permute(2, 0, 1) / 127.5 - 1, 8), turn.vit["grid"])
        turns.append(turn)
    found["decoded"] = hand.draw(turns[1].clean["latents"], turns[1].clean["grid"])
    for index in range(3):
        found |= _turn(hand, turns, index, random)
    found |= _generation(hand, _told(turns, 2), found["noise.2"], turns[3].clean["grid"])
    found |= _steps(found["x.2"], found["velocity.2.full"], random)
    losses, norms = _training(hand, turns, found)
    return found | losses, norms


def _told(turns: list[Turn], index: int) -> list[Turn]:
    last = turns[index]
    return [*turns[:index], Turn(last.clean, last.vit, last.text, TRACES[index])]


def _turn(hand: Hand, turns: list[Turn], index: int, random: torch.Generator) -> dict[str, Tensor]:
    """Trace logits, their log-probabilities and the velocities of one turn in its context."""
    history, goal, t = _told(turns, index), turns[index + 1].clean, MOMENTS[index]
    noise = torch.randn(goal["latents"].shape, generator=random)
    x = (1 - t) * goal["latents"] + t * noise
    logits = hand.trace_logits(history)
    said = torch.tensor([*TRACES[index], hand.eos])
    told = (logits / TEMPERATURE).log_softmax(-1)[torch.arange(len(said)), said]
    found = {f"noise.{index}": noise, f"x.{index}": x, f"logits.{index}": logits, f"logprobs.{index}": told}
    for view in ("full", "no_text", "no_image"):
        found[f"velocity.{index}.{view}"] = hand.velocity(history, x, t, goal["grid"], view)
    for name, mode in MODES.items():
        found[f"guided.{index}.{name}"] = hand.guided(history, x, t, goal["grid"], **mode)
    return found


def _generation(hand: Hand, turns: list[Turn], x: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    for t, then in itertools.pairwise(times_of(POINTS, SHIFT)):
        x = x + hand.guided(turns, x, t, grid, **MODES["text_channel"]) * (then - t)
    return {"generated": x, "generated_pixels": (hand.draw(x, grid) * 255).to(torch.uint8)}


def _steps(x: Tensor, v: Tensor, random: torch.Generator) -> dict[str, Tensor]:
    times, found = times_of(POINTS, SHIFT), {}
    for kind in ("flow", "cps"):
        for index in STEPS:
            z = torch.randn(x.shape, generator=random)
            taken = stochastic(kind, x, v, z, times[index], times[index + 1], LEVEL)
            found |= {f"step.{kind}.{index}.{n}": value for n, value in {**taken, "z": z}.items()}
    return found


def _training(hand: Hand, turns: list[Turn], found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Cross-entropy of the traces plus flow matching of the pictures, all turns in one forward; gradient norms."""
    listed, rope = [], 0
    for k, turn in enumerate(turns[:3]):
        here = {"turn": k + 1}
        listed += [turn.clean | here | {"rope": rope}, turn.vit | here | {"rope": rope + 1}]
        listed.append({"kind": "text", "ids": TEXTS[k], "rope": rope + 2, **here})
        rope += 2 + len(TEXTS[k]) + 2
        listed.append({"kind": "text", "ids": TRACES[k], "rope": rope, "branch": True, **here})
        noisy = {"kind": "noise", "latents": found[f"x.{k}"], "grid": turns[k + 1].clean["grid"], "t": MOMENTS[k]}
        listed.append(noisy | here | {"rope": rope + len(TRACES[k]) + 2})
    weights = {n: w.requires_grad_(not n.endswith("pos_embed.pos_embed")) for n, w in hand.naive.w.items()}
    hidden = hand.naive.run(listed)
    ce, mse = [], []
    for k in range(3):
        logits = hand.naive.linear("language_model.lm_head", hidden[5 * k + 3][:-1])
        said = torch.tensor([*TRACES[k], hand.eos])
        ce.append(-logits.log_softmax(-1)[torch.arange(len(said)), said])
        velocity = hand.naive.linear("llm2vae", hidden[5 * k + 4][1:-1])
        mse.append((velocity - (found[f"noise.{k}"] - turns[k + 1].clean["latents"])) ** 2)
    losses = {"train.ce": torch.cat(ce), "train.mse": torch.cat(mse)}
    (losses["train.ce"].mean() + losses["train.mse"].mean()).backward()
    norms = {n: float(w.grad.double().norm()) for n, w in weights.items() if w.grad is not None}
    return {n: v.detach() for n, v in losses.items()}, norms


def main() -> None:
    """Write the folder."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    write_model(random)
    ids = special_ids(word_tokenizer([f"w{i}" for i in range(34)]))
    tensors, norms = golden(Hand(FOLDER, (ids.bos, ids.eos, ids.soi, ids.eoi)), random)
    assert all(math.isfinite(norm) for norm in norms.values())
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, FOLDER / "golden.safetensors")
    (FOLDER / "golden.json").write_text(json.dumps({"gradient_norms": norms}, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()

"""This repository's own golden fixture: what an independent re-derivation computed with a tiny official folder.

`tests/model/make_golden.py` wrote it. The folder that BAGEL_PARITY names pins the official code itself.
"""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from model.bundle import Bundle, load
from model.context import Context
from model.guidance import Guidance
from model.packing import PackedBatch, Pictures, pack, session_segments
from model.samplers import schedule, step
from model.segments import View
from model.vae import decode_float
from tests.model.make_golden import (
    FOLDER,
    LEVEL,
    MODES,
    MOMENTS,
    POINTS,
    SHIFT,
    STEPS,
    TEMPERATURE,
    TEXTS,
    TRACES,
)

pytestmark = pytest.mark.parity
GUIDANCES = {name: Guidance(**mode) for name, mode in MODES.items()}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load(FOLDER, "float32")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def pictures(bundle, golden) -> list[Pictures]:
    return [bundle.encode(golden[f"image.{i}"].numpy()[None]) for i in range(4)]


def _close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1)


def test_autoencoder_and_encoder(bundle, golden, pictures):
    model = bundle.model
    for index, table in enumerate(pictures):
        _close(table.latents, golden[f"latents.{index}"])
        batch = pack([session_segments([[]], [0, 0], [[]])], table, bundle.special)
        with torch.no_grad():
            _close(model.encode_patches(batch, table), golden[f"vit.{index}"])
    drawn = decode_float(bundle.vae, golden["latents.1"][None], pictures[1].latent_grids[0], model.config)
    _close(torch.from_numpy(drawn)[0].permute(2, 0, 1), golden["decoded"])


def _contexts(bundle, pictures):
    """The context of every turn, its trace in place."""
    context = Context(bundle.model, bundle.special, guided=True)
    for index in range(3):
        context.append_pictures(pictures[index])
        context.append_text([TEXTS[index]])
        logits = context.append_text([TRACES[index]], branch=True, want_logits=True)
        yield index, context, logits[0, : len(TRACES[index]) + 1]


def test_texts_and_velocities_of_three_turns(bundle, golden, pictures):
    for index, context, logits in _contexts(bundle, pictures):
        _close(logits, golden[f"logits.{index}"])
        said = torch.tensor([*TRACES[index], bundle.special.eos])[:, None]
        _close((logits / TEMPERATURE).log_softmax(-1).gather(1, said)[:, 0], golden[f"logprobs.{index}"])
        x, grid, t = golden[f"x.{index}"][None], pictures[index + 1].latent_grids[0], MOMENTS[index]
        views = context.views(x, torch.tensor([t]), grid)
        for name, view in (("full", View.FULL), ("no_text", View.NO_TEXT), ("no_image", View.NO_IMAGE)):
            _close(views[view], golden[f"velocity.{index}.{name}"])
        for name, guidance in GUIDANCES.items():
            _close(context.velocity(x, t, grid, guidance)[0], golden[f"guided.{index}.{name}"], 1e-4)


def test_generation_after_three_turns(bundle, golden, pictures):
    *_, (_, context, _) = _contexts(bundle, pictures)
    x, grid = golden["noise.2"][None], pictures[3].latent_grids[0]
    for t, then in itertools.pairwise(schedule(POINTS, SHIFT)):
        x = step(x, context.velocity(x, t, grid, GUIDANCES["text_channel"]), t, then, kind="ode").next
    _close(x[0], golden["generated"], 1e-4)
    difference = bundle.decode(x, grid)[0].transpose(2, 0, 1).astype(int) - golden["generated_pixels"].numpy()
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("kind", ["flow", "cps"])
def test_stochastic_steps(golden, kind):
    times, x, v = schedule(POINTS, SHIFT), golden["x.2"][None], golden["velocity.2.full"][None]
    for index in STEPS:
        told = {n: golden[f"step.{kind}.{index}.{n}"] for n in ("z", "next", "mean", "std", "logprob")}
        options = {"kind": kind, "noise_level": LEVEL}
        drawn = step(x, v, times[index], times[index + 1], noise=told["z"][None], **options)
        again = step(x, v, times[index], times[index + 1], next_x=told["next"][None], **options)
        for name in ("next", "mean", "std", "logprob"):
            _close(getattr(drawn, name)[0], told[name], 2e-6)
        _close(again.logprob[0], told["logprob"], 2e-5)


def _packed(bundle, golden, pictures, guided: bool) -> tuple[PackedBatch, Pictures, torch.Tensor]:
    table = Pictures.concatenate(pictures)
    segments = session_segments(TEXTS, range(4), [[0], [1], [2]], TRACES, keep_traces=False, guided=guided)
    return pack([segments], table, bundle.special), table, torch.cat([golden[f"x.{k}"] for k in range(3)])


@pytest.mark.parametrize("mode", ["text_channel", "global"])
def test_packed_velocities(bundle, golden, pictures, mode):
    batch, table, x = _packed(bundle, golden, pictures, True)
    with torch.no_grad():
        output = bundle.model(batch, table, x, torch.tensor(MOMENTS), GUIDANCES[mode])
    _close(output.velocity, torch.cat([golden[f"guided.{k}.{mode}"] for k in range(3)]), 1e-4)
    _close(output.text_logits, torch.cat([golden[f"logits.{k}"] for k in range(3)]))


def test_packed_losses_and_gradients(bundle, golden, pictures):
    batch, table, x = _packed(bundle, golden, pictures, False)
    bundle.model.zero_grad()
    output = bundle.model(batch, table, x, torch.tensor(MOMENTS))
    ce = F.cross_entropy(output.text_logits, output.text_targets, reduction="none")
    noise = torch.cat([golden[f"noise.{k}"] for k in range(3)])
    mse = (output.velocity - (noise - table.latents[batch.noisy_target])) ** 2
    _close(ce.detach(), golden["train.ce"])
    _close(mse.detach(), golden["train.mse"], 5e-5)
    (ce.mean() + mse.mean()).backward()
    norms = json.loads((FOLDER / "golden.json").read_text())["gradient_norms"]
    found = {name: p.grad.norm().item() for name, p in bundle.model.named_parameters() if p.grad is not None}
    assert {n: v for n, v in norms.items() if v > 0}.keys() == {n: v for n, v in found.items() if v > 0}.keys()
    for name, norm in norms.items():
        assert found[name] == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    bundle.model.zero_grad()

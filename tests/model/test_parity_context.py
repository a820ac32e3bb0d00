"""Cached contexts, text, velocities in all guidance modes and whole generations against the official code."""

import re

import pytest
import torch

from model.context import Context
from model.guidance import Guidance
from model.images import unpatchify
from model.modeling import table_ids
from model.samplers import schedule, step
from model.segments import Kind, Segment, View
from model.vae import to_pixels
from tests.model.golden import Golden, settings, shift_of

pytestmark = pytest.mark.parity

GENERATIONS = {
    "text_channel_full": Guidance(4, 2),
    "global_interval0.4": Guidance(4, 1.5, "global", (0.4, 1.0)),
    "nocfg": Guidance(),
}


def _compare_cache(golden: Golden, prefix: str, context: Context) -> None:
    """Keys and values of the layers that the file holds, over the main stream's columns."""
    cache = context.streams[0]
    for name in [n for n in golden.tensors if re.fullmatch(re.escape(prefix) + r"\.[kv]\d+", n)]:
        kind, layer = name[len(prefix) + 1], int(name[len(prefix) + 2 :])
        stored = cache.layers[layer]
        table = stored.keys if kind == "k" else stored.values
        golden.compare(name, table[0, :, : cache.length].transpose(0, 1))
    for suffix, values in (("kv_lens", context.lengths()), ("ropes", context.ropes())):
        if f"{prefix}.{suffix}" in golden:
            golden.compare(f"{prefix}.{suffix}", values)


def test_understanding(official, golden_pictures):
    golden, model = Golden("und"), official.model
    context = Context(model, official.special)
    context.append([[[Segment(Kind.VIT, 1, picture=0)]]], golden_pictures[0])
    _compare_cache(golden, "after_image", context)
    question = golden.ids("question")
    rope = context.ropes()[0]
    hidden = context.append([[[Segment(Kind.TEXT, 1, tuple(question))]]])
    _compare_cache(golden, "after_text", context)
    golden.compare("text.ids", [official.special.bos, *question, official.special.eos])
    golden.compare("text.position_ids", list(range(rope, context.ropes()[0])))
    with torch.no_grad():
        golden.compare("text.final_hidden_after_norm", model.language_model.model.norm(hidden[0]))
        golden.compare("text.logits", model.logits(hidden[0]))
    fed = golden["greedy.tokens_fed"].tolist()
    sample = context.select([0]).generate_text(len(fed), temperature=0, branch=False)
    golden.compare("greedy.argmax", sample.tokens[0])
    golden.compare("greedy.tokens_fed", [fed[0], *sample.tokens[0, :-1].tolist()])
    logits = context.append_text([fed[1:]], want_logits=True)
    golden.compare("greedy.step_logits", logits[0, : len(fed)])
    alone = Context(model, official.special)
    first = golden.ids("text0")
    golden.compare("textonly.logits", alone.append_text([first], want_logits=True)[0])
    golden.compare("textonly.ids", [official.special.bos, *first, official.special.eos])
    golden.finish()


def _interleaved(official, golden, pictures, items: list[str]) -> Context:
    context = Context(official.model, official.special, guided=True)
    for item in items:
        if item.startswith("image"):
            context.append_pictures(pictures[int(item.removeprefix("image"))])
        else:
            context.append_text([golden.ids(item)])
    return context


def _velocities(golden: Golden, prefix: str, context: Context, x: torch.Tensor, grid: tuple[int, int]) -> None:
    for index, t in enumerate(golden[f"{prefix}.v.timesteps"].tolist()):
        start = f"{prefix}.v.t{index}."
        golden.compare(start + "cond", context.velocity(x, t, grid)[0])
        views = context.views(x, torch.tensor([t]), grid)
        golden.compare(start + "cfg_text_branch", views[View.NO_TEXT])
        golden.compare(start + "cfg_img_branch", views[View.NO_IMAGE])
        for name in [n for n in golden.tensors if n.startswith(start + "text")]:
            guidance = Guidance(**settings(name.removeprefix(start)))
            golden.compare(name, context.velocity(x, t, grid, guidance)[0])


def _generate(official, golden: Golden, run: str, guidance: Guidance, context: Context, x, grid) -> None:
    points = golden[f"{run}.timesteps"].numel() + 1
    times = schedule(points, shift_of(golden[f"{run}.timesteps"]))
    golden.compare(f"{run}.timesteps", times[:-1])
    acts = guidance.acts(times[:-1])
    scale = torch.where(acts, torch.tensor(guidance.text), torch.tensor(1.0))
    golden.compare(f"{run}.text_scale_used", scale)
    states, speeds = [], []
    for index in range(points - 1):
        v = context.velocity(x, times[index], grid, guidance)
        states.append(x[0])
        speeds.append(v[0])
        x = step(x, v, times[index], times[index + 1], kind="ode").next
    golden.compare(f"{run}.latent", x[0])
    if f"{run}.x_steps" in golden:
        golden.compare(f"{run}.x_steps", torch.stack(states))
        golden.compare(f"{run}.v_steps", torch.stack(speeds))
        latent = unpatchify(x, grid, official.model.config.latent_patch_size)
        golden.compare(f"{run}.latent_nchw", latent)
        with torch.no_grad():
            golden.compare(f"{run}.decoded_float", to_pixels(official.vae, latent))
        golden.compare(f"{run}.decoded_uint8_hwc", official.decode(x, grid)[0].astype("int64"))


@pytest.mark.parametrize(
    ("file", "prefix", "items"),
    [
        ("edit", "edit", ["image0", "text0"]),
        ("t2i", "t2i", ["text1"]),
        ("multiturn", "mt", ["image0", "text0", "image1", "text1", "image2", "text2"]),
    ],
)
def test_guided_generation(official, golden_pictures, file, prefix, items):
    golden, config = Golden(file), official.model.config
    context = _interleaved(official, golden, golden_pictures, items)
    _compare_cache(golden, f"{prefix}.ctx", context)
    for name, view in (("cfg_text", View.NO_TEXT), ("cfg_img", View.NO_IMAGE)):
        golden.compare(f"{prefix}.{name}.kv_lens", context.lengths(view))
        golden.compare(f"{prefix}.{name}.ropes", context.ropes(view))
    height, width = golden[f"{prefix}.target_hw"].tolist()
    golden.compare(f"{prefix}.target_hw", [height, width])
    grid = (height // config.latent_stride, width // config.latent_stride)
    x = golden[f"{prefix}.init_noise"][None]
    batch = context._plan(grid, 1).batch
    golden.compare(f"{prefix}.rope_position_ids", batch.positions)
    ids = table_ids(batch.noisy_cells, config.max_latent_size, config.interpolate_pos)
    golden.compare(f"{prefix}.latent_position_ids", ids)
    _velocities(golden, prefix, context, x, grid)
    for name, guidance in GENERATIONS.items():
        _generate(official, golden, f"{prefix}.gen.{name}", guidance, context, x, grid)
    golden.finish()

"""Stochastic steps, the two-turn rollout and teacher-forced log-probabilities against the released Edit-R2 code."""

import re

import pytest
import torch

from model.context import Context
from model.guidance import Guidance
from model.samplers import schedule, step
from model.segments import View
from model.vae import decode_float
from tests.model.golden import Golden, shift_of

pytestmark = pytest.mark.parity
LEVEL = 1.3  # noise level of the folder's rollout


def _single_steps(golden: Golden) -> None:
    x, v, grid = golden["step.sample"][None], golden["step.velocity"][None], golden["step.sigmas"]
    golden.compare("step.sigmas", schedule(len(grid), shift_of(grid)))
    for name in [n for n in golden.tensors if n.endswith(".z")]:
        base = name.removesuffix(".z")
        kind, level, index = re.fullmatch(r"step\.(\w+)\.noise([\d.]+)\.i(\d+)", base).groups()
        options = {"kind": "flow" if kind == "sde" else kind, "noise_level": float(level), "t_first": grid[1]}
        times = grid[int(index)], grid[int(index) + 1]
        drawn = step(x, v, *times, noise=golden[name][None], **options)
        golden.compare(f"{base}.next", drawn.next[0])
        golden.compare(f"{base}.mean", drawn.mean[0])
        golden.compare(f"{base}.std_dev_t", drawn.std)
        golden.compare(f"{base}.logprob", drawn.logprob)
        again = step(x, v, *times, next_x=drawn.next, **options)
        assert torch.allclose(again.logprob, drawn.logprob, atol=1e-6)
        other = step(x, v * 1.01, *times, next_x=golden[f"{base}.next"][None], **options)
        golden.compare(f"{base}.replay_v1.01.logprob", other.logprob)
    for name in [n for n in golden.tensors if n.startswith("step.ode")]:
        index = int(re.search(r"\.i(\d+)\.", name)[1])
        golden.compare(name, step(x, v, grid[index], grid[index + 1], kind="ode").next[0])


def _turn(official, golden: Golden, turn: int, context: Context, grid: tuple[int, int]) -> None:
    start = f"rollout.turn{turn}."
    steps = golden[start + "t_steps"].numel()
    times = schedule(steps + 1, shift_of(golden[start + "t_steps"]))
    golden.compare(start + "t_steps", times[:-1])
    begin = int(golden.meta["scalars"][f"rollout_turn{turn}_window_begin"])
    size = golden[start + "window_logprobs"].numel()
    x, states, window = golden[start + "init_noise"][None], [], []
    for index in range(steps):
        v = context.velocity(x, times[index], grid, Guidance(4, 2))
        inside = begin <= index < begin + size
        noise = golden[start + "z_steps"][index][None]
        kind = (
            {"kind": "flow", "noise_level": LEVEL, "noise": noise, "t_first": times[1]} if inside else {"kind": "ode"}
        )
        taken = step(x, v, times[index], times[index + 1], **kind)
        states.append(x[0])
        if inside:
            window.append((x[0], taken, times[index]))
        x = taken.next
    golden.compare(start + "x_steps", torch.stack(states))
    golden.compare(start + "window_latents", torch.stack([w[0] for w in window] + [window[-1][1].next[0]]))
    golden.compare(start + "window_logprobs", torch.cat([w[1].logprob for w in window]))
    golden.compare(start + "window_timesteps", torch.stack([w[2] for w in window]))
    picture = decode_float(official.vae, x, grid, official.model.config)[0].transpose(2, 0, 1)
    golden.compare(start + "image_float_chw", picture)


def test_steps_rollout_and_trace(official, golden_pictures):
    golden = Golden("sde")
    _single_steps(golden)
    context = Context(official.model, official.special, guided=True)
    context.append_pictures(golden_pictures[0])
    grid = golden_pictures[0].latent_grids[0]
    for turn in range(2):
        context.append_text([golden.ids(f"text{turn}")])
        _turn(official, golden, turn, context, grid)
        # The golden picture goes on: a float at the edge of a level would otherwise flip one pixel.
        fed = (golden[f"rollout.turn{turn}.image_float_chw"] * 255).to(torch.uint8).permute(1, 2, 0)
        context.append_pictures(official.encode(fed.numpy()[None]))
        golden.compare(f"rollout.turn{turn}.ctx_kv_len", context.lengths())
        golden.compare(f"rollout.turn{turn}.ctx_rope", context.ropes())
        golden.compare(f"rollout.turn{turn}.cfg_img_kv_len", context.lengths(View.NO_IMAGE))
    for text in ("pe_system", "pe_question"):
        context.append_text([golden.ids(text)])
    ids = golden["pe.token_ids"].tolist()
    logits = context.append_text([ids[1:]], want_logits=True)[0, : len(ids) - 1]
    logprobs = (logits / golden["pe.temperature"]).log_softmax(-1)
    golden.compare("pe.logprobs", logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0])
    golden.finish()

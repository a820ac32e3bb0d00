"""Free-running sessions of three turns equal the same walk by hand: trace, picture, decoded, encoded again, next turn.

By hand every forward rebuilds the history of one session through `tests.model.naive`, and goes on from its own picture.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from model.bundle import load
from model.config import SamplingConfig
from model.images import for_vae, for_vit, on_white
from model.rollout import walk
from model.tokenizer import encode_texts
from model.trajectories import Exploration, Script, TurnSample
from model.turn_sampler import Sampler
from tests.model import golden, make_golden
from tests.model.hand import Hand, Turn, stochastic, times_of

CONFIG = SamplingConfig(points=4, shift=3.0, text_guidance=4.0, image_guidance=2.0, temperature=0.0, max_trace=4)
WINDOW = Exploration("flow", 0.7, 0, 1)
NEAR = 2e-3  # a pixel that rounds to its neighbour moves the next turn by up to 4e-4 of a latent


def _own() -> tuple[Path, np.ndarray, list[list[str]]]:
    pixels = load_file(make_golden.FOLDER / "golden.safetensors")["image.0"].numpy()
    return make_golden.FOLDER, pixels, [["w3 w4 w5", "w6", "w7 w8"], ["w9", "w10 w11 w12 w13"]]


def _official() -> tuple[Path, np.ndarray, list[list[str]]]:
    folder = golden.folder()
    if not (folder / "ema.safetensors").exists():
        pytest.skip(f"no parity folder at {folder} (set BAGEL_PARITY)")
    pixels = np.asarray(on_white(Image.open(folder / "image1.png")))
    return folder, pixels, [["make it red", "turn it", "now blue"]]


def _picture(hand: Hand, told: list[Turn], sampled: TurnSample, grid: tuple[int, int]) -> torch.Tensor:
    """Latents of a turn, from the noise and the first, stochastic step of the sample."""
    window, times, scales = sampled.window, times_of(CONFIG.points, CONFIG.shift), (4.0, 2.0)
    x = window.states[0]
    v = hand.guided(told, x, times[0], grid, *scales)
    mean = stochastic("flow", x, v, torch.zeros_like(x), times[0], times[1], WINDOW.noise_level)["mean"]
    assert (mean - window.means[0]).abs().max() < NEAR
    x = window.following[0]
    for t, then in itertools.pairwise(times[1:]):
        x = x + hand.guided(told, x, t, grid, *scales) * (then - t)
    return x


@torch.no_grad()
@pytest.mark.parity
@pytest.mark.parametrize("find", [_own, _official])
def test_a_walk_is_the_walk_by_hand(find):
    folder, source, texts = find()
    torch.set_num_threads(1)
    bundle = load(folder, "float32")
    special, config = bundle.special, bundle.model.config
    hand = Hand(folder, (special.bos, special.eos, special.soi, special.eoi))
    large = for_vae(source[None], config)[0]
    walked = walk(Sampler(bundle, CONFIG, 3, 0, WINDOW), [Script(str(i), [large], t) for i, t in enumerate(texts)])
    for trajectory, listed in zip(walked, texts, strict=True):
        assert len(trajectory.turns) == len(listed)
        picture, told = large, []
        for sampled, ids, seen in zip(
            trajectory.turns, encode_texts(bundle.tokenizer, listed), trajectory.images[1:], strict=True
        ):
            small = for_vit(picture[None], config)[0]
            told.append(hand.see(torch.tensor(picture), torch.tensor(small), ids))
            trace, logprobs = hand.write(told, CONFIG.max_trace)
            assert trace == sampled.trace
            assert torch.allclose(torch.tensor(logprobs), sampled.trace_logprobs, atol=NEAR)
            told[-1] = replace(told[-1], trace=trace)
            grid = told[0].clean["grid"]
            x = _picture(hand, told, sampled, grid)
            assert (x - sampled.latents).abs().max() < NEAR
            picture = (hand.draw(x, grid) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
            difference = np.abs(picture.astype(int) - seen)
            assert difference.max() <= 1 and difference.mean() < 0.01
        assert np.abs(np.diff(np.stack(trajectory.images).astype(int), axis=0)).mean((1, 2, 3)).min() > 5

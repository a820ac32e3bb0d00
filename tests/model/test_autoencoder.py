"""The lean forward of the autoencoder is diffusers' own; those that the checkout holds give scenes back."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks.base import SEED, read_back
from data.loader import render_scenes
from data.scenes import world_named
from model import autoencoder
from model.autoencoder import decoded, doubled, encoded
from model.loading import load_vae
from model.vae import new_vae

CHECKPOINTS = Path(__file__).resolve().parents[2] / "model/checkpoints"


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return new_vae((8, 16, 16, 32), latent_channels=4, blocks=2).eval()


def test_equals_diffusers(vae):
    pictures, latents = torch.randn(2, 3, 48, 32), torch.randn(2, 4, 6, 4)
    with torch.no_grad():
        assert torch.allclose(encoded(vae, pictures), vae.encoder(pictures), atol=1e-6)
        assert torch.allclose(decoded(vae, latents), vae.decoder(latents), atol=2e-5)


def test_pieces_change_nothing(vae, monkeypatch):
    pictures, latents = torch.randn(3, 3, 16, 16), torch.randn(3, 4, 2, 2)
    with torch.no_grad():
        whole = encoded(vae, pictures), decoded(vae, latents)
        monkeypatch.setattr(autoencoder, "CPU_PIXELS", 64)
        assert all(
            torch.allclose(*pair, atol=1e-6)
            for pair in zip(whole, (encoded(vae, pictures), decoded(vae, latents)), strict=True)
        )


def test_gradients_equal_diffusers(vae):
    grads = []
    for forward in (decoded, lambda vae, z: vae.decoder(z)):
        latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        grads.append(torch.autograd.grad(forward(vae, latents).square().sum(), latents)[0])
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-4 * float(grads[1].abs().max()))


def test_doubling_is_folded_into_the_convolution():
    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    x = torch.randn(2, 3, 4, 6)
    assert torch.allclose(doubled(conv, x), conv(F.interpolate(x, scale_factor=2.0)), atol=1e-6)


@pytest.mark.parametrize(("name", "count"), [("tiny", 48), ("small", 8)])
def test_a_committed_autoencoder_gives_fresh_scenes_back(name, count):
    world = world_named(name)
    shown = render_scenes(world, count, SEED)
    assert read_back(load_vae(CHECKPOINTS / name), world, shown) >= 0.99, "their cards say 0.9969 and 0.9996"

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.errors import UserError
from data.phrases import vocabulary
from data.scenes import SMALL, TINY, TINY_WIDE
from model.bundle import load
from model.config import ModelConfig, Optimisation, SupervisedConfig, VaeConfig
from model.pretrain import knowing, new_bundle, train_base
from model.pretrain_vae import _batch, train_vae, whiten
from model.vae import new_vae
from tests.model.toys import WORDS, toy_bundle

VAE = VaeConfig(
    channels=(8, 8, 8, 8),
    scenes=64,
    wide=0.25,
    optimisation=Optimisation(steps=6, batch_size=4, learning_rate=2e-3, warmup=1, checkpoint_every=2),
)


def ignored(_step, _metrics):
    """A report that nobody reads."""


def test_whitening_leaves_the_inside_of_pictures_as_they_were():
    torch.manual_seed(0)
    vae = new_vae((8, 8), 3, 1)
    images = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        before = vae.encode(images).latent_dist.mean
        first = torch.nn.functional.conv2d(before, vae.decoder.conv_in.weight, vae.decoder.conv_in.bias)
        whiten(vae, images)
        after = vae.encode(images).latent_dist.mean
        again = torch.nn.functional.conv2d(after, vae.decoder.conv_in.weight, vae.decoder.conv_in.bias)
    flat = after.permute(0, 2, 3, 1).flatten(0, 2)
    assert flat.mean(0).abs().max() < 1e-3
    assert torch.allclose(torch.cov(flat.T), torch.eye(3), atol=1e-2)
    assert torch.allclose(first, again, atol=1e-3), "the decoder sees what it saw"


def test_latent_space_and_base_are_made_once_and_resume(tmp_path):
    seen = []
    latents = train_vae(VAE, TINY, tmp_path / "vae", lambda step, metrics: seen.append(metrics))
    assert seen and "vae/loss" in seen[0]
    count = len(seen)
    train_vae(VAE, TINY, latents, lambda step, metrics: seen.append(metrics))
    assert len(seen) == count, "a finished one is not made again"
    optimisation = Optimisation(steps=2, batch_size=3, warmup=1, checkpoint_every=1)
    config = SupervisedConfig(noise_draws=1, reading=0.5, wide=0.5, optimisation=optimisation)
    small = ModelConfig(width=32, layers=1, heads=2, kv_heads=1, mlp=32, vit_width=16, vit_layers=1, vit_heads=2)
    folder = train_base(config, small, latents, TINY, tmp_path / "base", lambda step, metrics: seen.append(metrics))
    assert (folder / "model.safetensors").is_file()
    first, last = (metrics for metrics in seen if "base/flow_loss" in metrics)
    assert first["base/flow_loss"] == 0 < last["base/flow_loss"], "it reads before it draws"
    assert not any(str(tmp_path) in path.read_text() for path in folder.rglob("*.json")), "no path leaves the machine"


def test_latents_of_large_scenes_are_learned_from_pieces_and_from_what_is_there(tmp_path):
    pieces = dataclasses.replace(VAE, wide=0.0, scenes=4, crop=32, optimisation=Optimisation(steps=2, batch_size=1))
    first = train_vae(pieces, SMALL, tmp_path / "one" / "vae", ignored)
    onward = dataclasses.replace(pieces, start=str(first.parent))
    second = train_vae(onward, SMALL, tmp_path / "two" / "vae", ignored)
    before, after = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (first, second))
    moved = (after["decoder.conv_out.weight"] - before["decoder.conv_out.weight"]).abs().max()
    assert 0 < moved < 0.05, "two small steps from where it began"
    assert (
        train_vae(dataclasses.replace(pieces, checkpoint=str(first.parent)), SMALL, tmp_path / "three", ignored)
        == first
    )
    with pytest.raises(UserError, match="other sizes"):
        train_vae(dataclasses.replace(onward, latent_channels=3), SMALL, tmp_path / "four", ignored)
    for side in (12, 136):
        with pytest.raises(UserError, match="pieces"):
            train_vae(dataclasses.replace(pieces, crop=side), SMALL, tmp_path / "four", ignored)


def test_pieces_lie_where_latents_do_and_cover_as_much_as_whole_scenes():
    row, column = np.mgrid[:128, :128].astype(np.uint8)
    scenes = np.stack([row, column, np.full_like(row, 7)], -1)[None]
    config = dataclasses.replace(VAE, crop=32, optimisation=Optimisation(batch_size=2))
    pieces = (_batch(scenes, config, 0, 32) + 1.0) * 127.5
    assert pieces.shape == (2 * 16, 3, 32, 32)
    corners = pieces[:, :2, 0, 0].round().int()
    assert (corners % 8 == 0).all() and corners.unique(dim=0).shape[0] > 8
    assert _batch(scenes, config, 0).shape == (2, 3, 128, 128)


@pytest.mark.parametrize(("levels", "patch"), [(4, 4), (5, 2)])
def test_a_token_may_stand_for_a_larger_piece_of_a_picture(levels, patch):
    vae = new_vae((8,) * levels, 3)
    sizes = ModelConfig(width=16, layers=1, heads=2, kv_heads=1, mlp=16, vit_width=16, vit_layers=1, vit_heads=2)
    sizes = dataclasses.replace(sizes, vit_patch=32, latent_patch=patch)
    bundle = new_bundle(sizes, vae, SMALL, vocabulary(SMALL), 0)
    pictures = np.zeros((2, SMALL.image_size, SMALL.image_size, 3), np.uint8)
    table = bundle.encode(pictures)
    assert set(table.latent_grids) == {(4, 4)} and table.latents.shape == (2 * 16, 3 * patch**2)
    assert bundle.decode(table.latents.unflatten(0, (2, 16)), (4, 4)).shape == pictures.shape


def test_a_model_learns_new_words_and_keeps_those_it_has(tmp_path):
    toy = toy_bundle()
    assert knowing(toy, WORDS[:4]) is toy, "it knows them all"
    before = {word: _rows(toy, word) for word in WORDS}
    knowing(toy, ["heart", *reversed(WORDS)]).save(tmp_path / "grown")
    grown = load(tmp_path / "grown")
    assert len(grown.allowed) == len(toy.tokenizer) + 1
    assert all(torch.equal(before[word], _rows(grown, word)) for word in WORDS)
    assert _rows(grown, "heart").std() > 0


def _rows(bundle, word):
    """What a model knows of a word: its row of both tables."""
    row = bundle.tokenizer.get_vocab()[word]
    tables = bundle.model.get_input_embeddings().weight, bundle.model.get_output_embeddings().weight
    return torch.cat([table[row].detach().clone() for table in tables])


COMMITTED = Path(__file__).resolve().parents[2] / "model/checkpoints/tiny"


def test_the_committed_base_speaks_the_language_of_its_world():
    known = json.loads((COMMITTED / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    assert set(vocabulary(TINY_WIDE)) <= set(known)
    assert json.loads((COMMITTED / "vae/config.json").read_text())["_name_or_path"] == ""
    assert (COMMITTED / "model.safetensors").is_file()
    size = sum(path.stat().st_size for path in COMMITTED.rglob("*") if path.is_file())
    assert size <= 15 * 2**20

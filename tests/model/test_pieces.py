"""Samplers, guidance, pictures, autoencoder and tokenizer by themselves."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import UserError
from model.context import Context
from model.guidance import Guidance, combine
from model.images import on_white, patchify, unpatchify
from model.samplers import schedule, step
from model.tokenizer import allowed_words, decode_texts, encode_texts, special_ids, word_tokenizer
from model.vae import _chunks, decode, encode, new_vae, set_scale
from tests.model.random_sessions import SPECIAL, tiny_model


def test_the_schedule_has_points_minus_one_steps():
    t = schedule(15, 3.0)
    assert len(t) == 15 and t[0] == 1 and t[-1] == 0
    assert t[7] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))


@pytest.mark.parametrize("kind", ["flow", "cps"])
def test_a_step_replays_what_it_sampled(kind):
    random = torch.Generator().manual_seed(0)
    x, v, noise = (torch.randn(3, 4, 5, generator=random) for _ in range(3))
    t, then = torch.tensor([1.0, 0.7, 0.3]), torch.tensor([0.9, 0.5, 0.1])
    drawn = step(x, v, t, then, kind=kind, noise_level=0.7, noise=noise)
    again = step(x, v, t, then, kind=kind, noise_level=0.7, next_x=drawn.next)
    assert torch.equal(drawn.next, again.next)
    assert torch.allclose(drawn.logprob, again.logprob, atol=1e-6)
    alone = step(x[1:2], v[1:2], 0.7, 0.5, kind=kind, noise_level=0.7, noise=noise[1:2])
    assert torch.allclose(alone.next, drawn.next[1:2], atol=1e-6)
    with pytest.raises(ValueError, match="`noise` to sample or `next_x` to replay"):
        step(x, v, t, then, kind=kind, noise_level=0.7)


def test_a_step_without_noise_follows_the_flow():
    x, v = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    still = step(x, v, 0.8, 0.6, kind="cps", noise_level=0.0, noise=torch.randn(2, 3, 4))
    assert torch.allclose(still.next, step(x, v, 0.8, 0.6, kind="ode").next, atol=1e-5)


def test_bfloat16_steps_are_computed_in_float32():
    x = torch.randn(2, 3, 4).bfloat16()
    assert step(x, x, 0.8, 0.6, kind="ode").next.dtype == torch.float32


def test_global_renormalisation_stays_within_a_picture():
    random = torch.Generator().manual_seed(0)
    views = [torch.randn(6, 4, generator=random) for _ in range(3)]
    guidance, group = Guidance(4.0, 2.0, "global"), torch.tensor([0, 0, 0, 1, 1, 1])
    t = torch.full((6,), 0.5)
    together = combine(guidance, *views, t, group)
    alone = combine(guidance, *(v[3:] for v in views), t[3:], torch.zeros(3, dtype=torch.long))
    assert torch.allclose(together[3:], alone)


def test_guidance_acts_within_its_interval():
    cond, other = torch.ones(2, 3), torch.zeros(2, 3)
    guidance = Guidance(3.0, renorm_min=1.0, interval=(0.4, 1.0))
    out = combine(guidance, cond, other, None, torch.tensor([0.4, 0.5]), torch.arange(2))
    assert out[0].tolist() == [1, 1, 1] and out[1].tolist() == [3, 3, 3]


def test_patches_come_back():
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(unpatchify(patchify(x, 2), (2, 3), 2), x)


def test_transparency_goes_on_white():
    from PIL import Image

    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert np.asarray(on_white(image)).tolist() == [[[255, 255, 255]] * 2] * 2


def test_pictures_do_not_depend_on_their_company(monkeypatch):
    monkeypatch.setattr("model.vae.CPU_PIXELS", 2 * 16 * 32)
    vae, config = new_vae((8, 8, 16, 16), 2).eval(), tiny_model().config
    set_scale(vae, 0.5, 0.1)
    config.vae_resize, config.vit_resize = [32, 16, 16], [16, 8, 4]
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 32, 3), dtype=np.uint8)
    table = encode(vae, images, config)
    assert table.latent_grids == ((1, 2),) * 5 and table.patch_grids == ((2, 4),) * 5
    alone = encode(vae, images[3:4], config)
    assert torch.allclose(table.select([3]).latents, alone.latents, atol=1e-5)
    assert torch.equal(table.select([3]).patches, alone.patches)
    again = decode(vae, table.latents.view(5, 2, -1), (1, 2), config)
    assert again.shape == images.shape and again.dtype == np.uint8


@pytest.mark.parametrize(("channels", "side", "together"), [(16, 128, 1024), (128, 512, 8), (128, 2048, 1)])
def test_a_gpu_takes_as_many_pictures_at_once_as_their_maps_allow(channels, side, together):
    vae = SimpleNamespace(device=torch.device("cuda"), config={"block_out_channels": [channels]})
    assert _chunks(vae, 2 * together, side**2) == [slice(0, together), slice(together, 2 * together)]


def test_words_and_frames():
    tokenizer = word_tokenizer(["red", "ball", "red", "a"])
    ids = encode_texts(tokenizer, ["a red ball", "a blue ball"])
    assert decode_texts(tokenizer, ids) == ["a red ball", "a <|unk|> ball"]
    assert ids[0] == [8, 6, 7] and encode_texts(tokenizer, []) == []
    special = special_ids(tokenizer)
    assert len({special.bos, special.eos, special.soi, special.eoi, special.pad}) == 5
    allowed = torch.nonzero(allowed_words(tokenizer, 12))[:, 0].tolist()
    assert allowed == [special.eos, 6, 7, 8]


def test_a_tokenizer_without_frames_is_refused():
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(["a"])._tokenizer.from_str(
        '{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,'
        '"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}'
    ))  # fmt: skip
    with pytest.raises(UserError, match="has no"):
        special_ids(bare)


def test_a_row_draws_its_text_alone():
    model = tiny_model()
    words = [[5, 6], [7, 8, 9], [10]]

    def write(rows: list[int]) -> list[list[int]]:
        context = Context(model, SPECIAL, len(rows))
        context.append_text([words[r] for r in rows])
        return context.generate_text(6, 1.0, [torch.Generator().manual_seed(r) for r in rows]).texts()

    assert write([0, 1, 2])[1:] == write([1, 2])
    assert write([2]) == write([0, 1, 2])[2:]


def test_a_copied_context_leaves_the_original_alone():
    model = tiny_model()
    context = Context(model, SPECIAL, 2)
    context.append_text([[5, 6], [7]])
    group = context.repeat_interleave(3)
    group.append_text([[8]] * 6, branch=True)
    assert (context.lengths(), group.lengths()) == ([4, 3], [7, 7, 7, 6, 6, 6])
    group.drop_branch()
    assert group.lengths() == [4, 4, 4, 3, 3, 3] and group.ropes() == [4, 4, 4, 3, 3, 3]
    with pytest.raises(ValueError, match="guided=True"):
        context.velocity(torch.zeros(2, 4, 8), 0.5, (2, 2), Guidance(2.0, 2.0))
    from model.pictures import Pictures

    table = Pictures(torch.zeros(4, 8), torch.zeros(4, 48), ((2, 2),), ((2, 2),))
    with pytest.raises(ValueError, match="1 pictures for 2 trajectories"):
        context.append_pictures(table)

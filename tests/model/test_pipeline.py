"""EditPipeline: seeds, batches of different sessions, user errors; recomputed activations."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import UserError
from model.bundle import Bundle
from model.guidance import Guidance
from model.pipeline import EditPipeline
from model.tokenizer import special_ids, word_tokenizer
from model.vae import new_vae
from tests.model.random_sessions import Batch, Layout, Story, tiny_model

STORY = Story([[5, 6], [7]], [[11], [12, 13]], [1, 1])


@pytest.fixture(scope="module")
def pipeline() -> EditPipeline:
    torch.manual_seed(0)
    tokenizer = word_tokenizer([f"w{i}" for i in range(18)])
    model = tiny_model()
    model.config.vae_resize, model.config.vit_resize = [32, 16, 16], [16, 8, 4]
    return EditPipeline(Bundle(model, new_vae((8, 8, 16, 16), 2).eval(), tokenizer, special_ids(tokenizer)))


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


OPTIONS = {"points": 4, "guidance": Guidance(3.0, 2.0), "trace_tokens": 5, "temperature": 1.0}


def test_a_seed_decides_everything(pipeline):
    image = _noise(32, 16)
    runs = [pipeline(image, ["w1 w2", "w3"], seed=seed, **OPTIONS) for seed in (1, 1, 2)]
    assert [len(r.images) for r in runs] == [len(r.traces) for r in runs] == [2, 2, 2]
    pixels = [np.stack([np.asarray(i) for i in r.images]) for r in runs]
    assert pixels[0].shape == (2, 16, 32, 3)
    assert (pixels[0] == pixels[1]).all() and runs[0].traces == runs[1].traces
    assert (pixels[0] != pixels[2]).any()


def test_without_first_noise_every_seed_draws_the_same(pipeline):
    options = {**OPTIONS, "temperature": 0.0, "noise_scale": 0.0}
    first, second = (pipeline(_noise(32, 16), ["w1 w2"], seed=seed, **options).images[0] for seed in (1, 2))
    assert (np.asarray(first) == np.asarray(second)).all()


def test_a_batch_gives_what_single_calls_give(pipeline):
    images = [_noise(32, 16, 1), _noise(16, 16, 2), _noise(32, 16, 3)]
    texts = [["w1"], ["w2 w3", "w4"], ["w5", "w6 w7", "w8"]]
    together = pipeline.batch(images, texts, seeds=[4, 5, 6], **OPTIONS)
    for image, listed, seed, output in zip(images, texts, [4, 5, 6], together, strict=True):
        alone = pipeline(image, listed, seed=seed, **OPTIONS)
        assert alone.traces == output.traces
        for one, other in zip(alone.images, output.images, strict=True):
            assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_user_errors(pipeline, tmp_path):
    with pytest.raises(UserError, match="at least one instruction"):
        pipeline(_noise(16, 16), [])
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"x\.png is no readable picture"):
        pipeline(tmp_path / "x.png", ["w1"])
    with pytest.raises(UserError, match="float32"):
        pipeline(np.zeros((4, 4, 3), np.float32), ["w1"])


def test_recomputed_activations_give_the_same_gradients():
    batch, gradients = Batch([STORY, STORY], Layout(guided=True)), []
    for recompute in (False, True):
        model = tiny_model().train()
        calls = []
        if recompute:
            model.gradient_checkpointing_enable()
        for layer in (model.language_model.model.layers[0], model.vit_model.vision_model.encoder.layers[0]):
            layer.register_forward_pre_hook(lambda layer, *_, calls=calls: calls.append(type(layer).__name__))
        output = batch.packed(model, Guidance(2.0, 1.5))
        (output.velocity.square().mean() + output.text_logits.square().mean()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        assert [calls.count(name) for name in ("MoTLayer", "SiglipEncoderLayer")] == [1 + recompute] * 2
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-6) for n in gradients[0])

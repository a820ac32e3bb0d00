"""An official folder of other sizes, written here, against the slow re-derivation of the rules."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.activations import ACT2FN

from data.errors import UserError
from model.loading import load_model, load_vae, model_on_meta
from model.official import official_config
from model.packing import Pictures, pack, session_segments
from model.tokenizer import SpecialIds
from model.vae import scale_of, to_latents, to_pixels
from tests.model.naive import Autoencoder, Naive

LLM = {
    "vocab_size": 37, "hidden_size": 40, "intermediate_size": 52, "num_hidden_layers": 3, "num_attention_heads": 5,
    "num_key_value_heads": 1, "rope_theta": 12345.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
VIT = {
    "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 40,
    "patch_size": 10, "num_channels": 3, "layer_norm_eps": 1e-5, "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
VAE = {"ch": 32, "ch_mult": [1, 2, 1], "num_res_blocks": 2, "z_channels": 6, "scale_factor": 0.77, "shift_factor": -0.3}
BAGEL = {"latent_patch_size": 3, "max_latent_size": 99, "connector_act": "gelu", "timestep_shift": 2.0}
SIDES = (7, 5)
SPECIAL = SpecialIds(bos=1, eos=2, soi=3, eoi=4, pad=0)


def _shapes(tmp_path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model, from the configuration with tables of the wanted sides."""
    start = "vit_model.vision_model.embeddings.position_embedding.weight"
    known = {
        "latent_pos_embed.pos_embed": (SIDES[0] ** 2, 40), "vit_pos_embed.pos_embed": (SIDES[1] ** 2, 40),
        start: (SIDES[1] ** 2, 24), "time_embedder.mlp.0.weight": (40, 64),
    }  # fmt: skip
    config, remarks = official_config(tmp_path, known)
    assert remarks == ["max_latent_size: the file says 99, the checkpoint 7"]
    return {name: tuple(t.shape) for name, t in model_on_meta(config).state_dict().items()}


@pytest.fixture(params=[False, True], ids=["extrapolate", "interpolate"])
def folder(tmp_path, request):
    files = {"llm": LLM, "vit": VIT, "vae": VAE, "bagel": {"bagel": {**BAGEL, "interpolate_pos": request.param}}}
    for name, content in files.items():
        (tmp_path / f"{name}_config.json").write_text(json.dumps(content))
    random = torch.Generator().manual_seed(0)
    state = {n: torch.randn(s, generator=random) * (s[-1] ** -0.5) for n, s in _shapes(tmp_path).items()}
    state = {n: t + 1 if "norm" in n and n.endswith("weight") else t for n, t in state.items()}
    conv = "vit_model.vision_model.embeddings.patch_embedding.weight"
    stored = {**state, conv: state[conv].view(24, 10, 10, 3).permute(0, 3, 1, 2).contiguous()}
    save_file(stored, tmp_path / "ema.safetensors")
    torch.manual_seed(0)
    save_file(
        Autoencoder(VAE["ch"], VAE["ch_mult"], VAE["num_res_blocks"], 6).state_dict(), tmp_path / "ae.safetensors"
    )
    return tmp_path, state, request.param


def test_the_autoencoder(folder):
    vae = load_vae(folder[0])
    torch.manual_seed(0)
    slow = Autoencoder(VAE["ch"], VAE["ch_mult"], VAE["num_res_blocks"], 6)
    assert scale_of(vae) == (0.77, -0.3)
    x = torch.randn(2, 3, 24, 36)
    with torch.no_grad():
        mean = slow.encoder(x).chunk(2, 1)[0]
        assert torch.allclose(to_latents(vae, x), 0.77 * (mean + 0.3), atol=1e-5)
        z = torch.randn(2, 6, 6, 9)
        assert torch.allclose(to_pixels(vae, z), slow.decoder(z / 0.77 - 0.3), atol=2e-5)


def _content(random: torch.Generator) -> tuple[Pictures, Tensor]:
    """Two pictures of different sizes, and noise for the second."""
    latents, patches = torch.randn(4 + 6, 54, generator=random), torch.randn(6 + 4, 300, generator=random)
    return Pictures(latents, patches, ((2, 2), (3, 2)), ((3, 2), (2, 2))), torch.randn(6, 54, generator=random)


def test_the_model(folder):
    path, state, interpolate = folder
    model = load_model(path)
    assert (model.config.latent_stride, model.config.timestep_shift, model.config.vit["num_hidden_layers"]) == (
        12,
        2.0,
        2,
    )
    pictures, noise = _content(torch.Generator().manual_seed(1))
    segments = session_segments([[5, 6, 7], [8]], [0, 1, 1], [[0], []], [[9, 10], [11]], keep_traces=False)
    with torch.no_grad():
        output = model(pack([segments], pictures, SPECIAL), pictures, noise, torch.tensor([0.4]))
    other = {"act": ACT2FN["gelu"], "interpolate": interpolate, "special": (1, 2, 3, 4)}
    slow = Naive(state, LLM, {**VIT, "num_hidden_layers": 2}, SIDES, **other)
    hidden = slow.run(_slow_session(pictures, noise))
    velocity = slow.linear("llm2vae", hidden[4][1:-1])
    assert torch.allclose(output.velocity, velocity, atol=2e-5)
    traces = [slow.linear("language_model.lm_head", hidden[i][:-1]) for i in (3, 8)]
    assert torch.allclose(output.text_logits, torch.cat(traces), atol=2e-5)


def _slow_session(pictures: Pictures, noise: Tensor) -> list[dict]:
    first, second = pictures.latents.split((4, 6))
    seen, other = pictures.patches.split((6, 4))
    return [
        {"kind": "clean", "latents": first, "grid": (2, 2), "rope": 0, "turn": 1},
        {"kind": "vit", "patches": seen, "grid": (3, 2), "rope": 1, "turn": 1},
        {"kind": "text", "ids": [5, 6, 7], "rope": 2, "turn": 1},
        {"kind": "text", "ids": [9, 10], "rope": 7, "turn": 1, "branch": True},
        {"kind": "noise", "latents": noise, "grid": (3, 2), "t": 0.4, "rope": 11, "turn": 1},
        {"kind": "clean", "latents": second, "grid": (3, 2), "rope": 7, "turn": 2},
        {"kind": "vit", "patches": other, "grid": (2, 2), "rope": 8, "turn": 2},
        {"kind": "text", "ids": [8], "rope": 9, "turn": 2},
        {"kind": "text", "ids": [11], "rope": 12, "turn": 2, "branch": True},
    ]


def test_a_table_that_is_no_square_is_refused(folder):
    path, state, _ = folder
    save_file({**state, "vit_pos_embed.pos_embed": torch.zeros(24, 40)}, path / "ema.safetensors")
    with pytest.raises(UserError, match="24 rows, which is no square"):
        load_model(path)


def test_a_missing_layer_of_the_encoder_is_noticed(folder):
    path = folder[0]
    (path / "vit_config.json").write_text(json.dumps({**VIT, "num_hidden_layers": 4}))
    with pytest.raises(UserError, match=r"missing: vit_model\.vision_model\.encoder\.layers\.2"):
        load_model(path)

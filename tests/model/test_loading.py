"""Fail-closed loading: the official names and shapes, this project's folder, shards, and every kind of defect."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.errors import UserError
from model.bundle import Bundle, load
from model.checkpoints import check, shapes_of
from model.guidance import Guidance
from model.loading import linear_patches, load_model, load_vae, model_on_meta
from model.official import official_config, official_vae, vae_key, vae_shape
from model.tokenizer import special_ids, word_tokenizer
from model.vae import new_vae, scale_of, set_scale
from tests.model.golden import ROOT
from tests.model.random_sessions import Batch, Layout, Story, tiny_model

KEYS = ROOT / ".." / "shared" / "reference" / "bagel_7b_keys.json"
LLM_7B = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "rope_theta": 1e6,
}  # fmt: skip
VIT_7B = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 980, "patch_size": 14,
}  # fmt: skip


@pytest.fixture
def names_7b(tmp_path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    if not KEYS.exists():
        pytest.skip(f"{KEYS} is absent")
    (tmp_path / "llm_config.json").write_text(json.dumps(LLM_7B))
    (tmp_path / "vit_config.json").write_text(json.dumps(VIT_7B))
    listed = json.loads(KEYS.read_text())
    return {part: {k: tuple(v) for k, v in table.items()} for part, table in listed.items() if isinstance(table, dict)}


def test_every_official_tensor_maps(names_7b, tmp_path):
    names = names_7b["ema"]
    config, remarks = official_config(tmp_path, names)
    expected = shapes_of(model_on_meta(config))
    assert len(expected) == 1223
    check(expected, linear_patches(names), "the official checkpoint")
    assert remarks == []
    with torch.device("meta"):
        vae = official_vae(tmp_path)
    autoencoder = names_7b["ae"]
    renamed = {vae_key(n, 4): vae_shape(n, s) for n, s in autoencoder.items()}
    assert len(renamed) == len(autoencoder) == 244
    check(shapes_of(vae), renamed, "the official autoencoder")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("llm2vae.bias"), r"missing: llm2vae\.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), r"not part of the model: extra"),
        (lambda s: s.update({"llm2vae.bias": torch.zeros(3)}), r"of another shape: llm2vae\.bias \(3,\) instead of"),
    ],
)
def test_a_defect_is_named(tmp_path, damage, message):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    damage(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        load_model(tmp_path)


def _bundle() -> Bundle:
    tokenizer = word_tokenizer(["red", "ball"])
    vae = new_vae((8, 8, 16, 16), 2)
    set_scale(vae, 0.7, 0.2)
    return Bundle(tiny_model(), vae, tokenizer, special_ids(tokenizer))


def test_a_folder_gives_back_what_was_saved(tmp_path):
    bundle = _bundle()
    folder = bundle.save(tmp_path / "model")
    again = load(folder)
    for one, other in ((bundle.model, again.model), (bundle.vae, again.vae)):
        stored = other.state_dict()
        assert all(torch.equal(tensor, stored[name]) for name, tensor in one.state_dict().items())
    assert scale_of(again.vae) == (0.7, 0.2)
    assert again.special == bundle.special
    assert again.model.config.to_dict().keys() == bundle.model.config.to_dict().keys()
    assert again.model.load_report.layout == "own"
    frozen = {n for n, p in again.model.named_parameters() if not p.requires_grad}
    assert frozen == {"latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"}
    with pytest.raises(UserError, match="exists already"):
        bundle.save(folder)


def test_shards_and_precision(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = load_model(tmp_path, dtype="bfloat16")
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.llm2vae.weight, model.llm2vae.weight.bfloat16())
    with pytest.raises(UserError, match="no dtype"):
        load_model(tmp_path, dtype="float31")


def test_a_checkpoint_of_two_precisions_runs_in_that_of_most_of_it(tmp_path):
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["latent_pos_embed.pos_embed"] = stored["latent_pos_embed.pos_embed"].float()
    save_file(stored, tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    assert model.load_report.remarks == ("brought to torch.bfloat16: latent_pos_embed.pos_embed",)
    assert len(model.load_report.stored_dtypes) == 2
    with torch.no_grad():
        assert Batch([Story([[5]], [[8]], [1])], Layout()).packed(model).velocity.isfinite().all()


def test_half_precision_runs_and_stays_close(tmp_path):
    story, layout = Story([[5, 6], [7]], [[8], [9, 10]], [1, 1]), Layout(guided=True)
    guidance = Guidance(2.0, 1.5)
    tiny_model().save_pretrained(tmp_path)
    outputs = []
    for dtype in ("float32", "bfloat16"):
        model = load_model(tmp_path, dtype=dtype)
        batch = Batch([story, story], layout)
        with torch.no_grad():
            outputs.append(batch.packed(model, guidance).velocity)
        assert batch.incremental(model, guidance)[0].dtype == torch.float32
    assert outputs[1].dtype == torch.float32
    assert (outputs[0] - outputs[1]).norm() / outputs[0].norm() < 0.1


def test_missing_folders_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no model folder"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="no autoencoder folder"):
        load_vae(tmp_path)

"""Resizing, position ids, autoencoder, picture encoder and time embedder against the official code."""

import pytest
import torch

from model.images import for_vae, for_vit, normalised, patchify, resized
from model.modeling import table_ids
from model.vae import moments, scale_of, to_latents, to_pixels
from tests.model.golden import Golden

pytestmark = pytest.mark.parity


def _cells(rows: int, columns: int) -> torch.Tensor:
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return torch.cat((grid, torch.tensor([[rows, columns]]).expand(len(grid), 2)), 1)


def test_resize_rules(official):
    for case in Golden("images").meta["resize_table"]:
        rule = case["max_min_stride_maxpix"]
        limit = rule[3] if len(rule) > 3 else official.model.config.max_pixels
        assert list(resized(tuple(case["in_wh"]), rule[:3], limit)) == case["out_wh"], case


def test_images(official):
    golden, config = Golden("images"), official.model.config
    stride, patch = config.latent_stride, config.vit_config().patch_size
    for name in sorted({n.split(".")[0] for n in golden.tensors}):
        picture = golden[f"{name}.uint8_hwc"].numpy()[None]
        golden.compare(f"{name}.uint8_hwc", picture[0])
        large = for_vae(picture, config)
        small = for_vit(large, config)
        golden.compare(f"{name}.vae_resized_uint8_hwc", large[0])
        golden.compare(f"{name}.vit_resized_uint8_hwc", small[0])
        if f"{name}.vae_tensor" in golden:
            golden.compare(f"{name}.vae_tensor", normalised(large)[0])
        latent = _cells(large.shape[1] // stride, large.shape[2] // stride)
        vit = _cells(small.shape[1] // patch, small.shape[2] // patch)
        side = config.vit_max_num_patch_per_side
        golden.compare(f"{name}.vae_position_ids", table_ids(latent, config.max_latent_size, False))
        golden.compare(f"{name}.vit_position_ids", table_ids(vit, side, False))
        golden.compare(f"{name}.vit_position_ids_interpolate_variant", table_ids(vit, side, True))
    golden.finish()


@torch.no_grad()
def test_vae(official):
    golden, vae = Golden("vae"), official.vae
    scale, shift = scale_of(vae)
    mean, logvar = moments(vae, golden["input"])
    golden.compare("encoder_moments", torch.cat((mean, logvar), 1))
    golden.compare("latent_deterministic", to_latents(vae, golden["input"]))
    sampled = scale * (mean + (logvar / 2).exp() * golden["sample_noise"] - shift)
    golden.compare("latent_sampled", sampled)
    golden.compare("decode_output", to_pixels(vae, golden["decode_input"]))
    golden.compare("decoded_from_latent_deterministic", to_pixels(vae, golden["latent_deterministic"]))
    golden.finish()


@torch.no_grad()
def test_vit(official, golden_pictures):
    golden, model = Golden("vit"), official.model
    golden.compare("patches", golden_pictures[0].patches)
    ids = table_ids(_cells(*golden_pictures[0].patch_grids[0]), model.config.vit_max_num_patch_per_side, False)
    golden.compare("position_ids", ids)
    encoded = model.vit_model(golden["patches"][None], ids[None], None)
    golden.compare("vit_last_hidden_after_post_layernorm", encoded[0])
    golden.compare("connector_out", model.connector(encoded)[0])
    golden.compare("connector_out_plus_pos", model.connector(encoded)[0] + model.vit_pos_embed(ids))
    lengths = golden["packed2.seqlens"].tolist()
    longest = max(lengths)
    padding = torch.arange(longest)[None] >= torch.tensor(lengths)[:, None]
    rows, places = torch.nonzero(~padding, as_tuple=True)
    patches = torch.zeros(len(lengths), longest, golden["packed2.patches"].shape[1])
    table = torch.zeros(len(lengths), longest, dtype=torch.long)
    patches[rows, places], table[rows, places] = golden["packed2.patches"], golden["packed2.position_ids"]
    mask = torch.zeros(padding.shape).masked_fill(padding, float("-inf"))[:, None, None]
    packed = model.connector(model.vit_model(patches, table, mask))[rows, places]
    golden.compare("packed2.connector_out", packed)
    pixels = [p.patches for p in golden_pictures[1:]]
    golden.compare("packed2.patches", torch.cat(pixels))
    side = model.config.vit_max_num_patch_per_side
    golden.compare(
        "packed2.position_ids",
        torch.cat([table_ids(_cells(*p.patch_grids[0]), side, False) for p in golden_pictures[1:]]),
    )
    golden.compare("packed2.seqlens", [len(p) for p in pixels])
    golden.compare("timestep_embed.t", golden["timestep_embed.t"])
    golden.compare("timestep_embed.out", model.time_embedder(golden["timestep_embed.t"]))
    golden.finish()


def test_latent_patches_are_row_column_channel():
    x = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4)
    assert patchify(x, 2)[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]

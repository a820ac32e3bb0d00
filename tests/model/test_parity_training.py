"""The packed training forward, its losses and its gradients against the official code."""

import pytest
import torch
from torch.nn import functional as F

from model.attention import SESSION, visible
from model.images import patchify
from model.packing import Kind, Pictures, Segment, pack
from tests.model.golden import Golden

pytestmark = pytest.mark.parity


def _pictures(golden: Golden, latent_patch: int, side: int) -> Pictures:
    """The autoencoder's pictures (latents only) first, then the encoder's (patches only)."""
    shapes = [tuple(shape) for shape in golden["batch.patchified_vae_latent_shapes"].tolist()]
    padded = golden["batch.padded_latent"]
    size = latent_patch
    latents = [patchify(z[None, :, : h * size, : w * size], size)[0] for z, (h, w) in zip(padded, shapes, strict=True)]
    lengths = golden["batch.vit_token_seqlens"].tolist()
    ids = golden["batch.packed_vit_position_ids"].split(lengths)
    patch_grids = [(int(i.max()) // side + 1, int(i.max()) % side + 1) for i in ids]
    empty = (0, 0)
    return Pictures(
        torch.cat(latents),
        golden["batch.packed_vit_tokens"],
        (*shapes, *[empty] * len(lengths)),
        (*[empty] * len(shapes), *patch_grids),
    )


def _sessions(golden: Golden, pictures: Pictures) -> list[list[Segment]]:
    lengths, modes = golden.meta["scalars"]["train_nosplit_lens"]
    ids = dict(zip(golden["batch.packed_text_indexes"].tolist(), golden["batch.packed_text_ids"].tolist(), strict=True))
    vae, ce = set(golden["batch.packed_vae_token_indexes"].tolist()), set(golden["batch.ce_loss_indexes"].tolist())
    table = {Kind.VIT: sum(h > 0 for h, _ in pictures.latent_grids), "vae": 0, "noisy": 0}
    sessions: list[list[Segment]] = [[]]
    ends = golden["batch.sample_lens"].cumsum(0).tolist()
    at = 0
    for length, mode in zip(lengths, modes, strict=True):
        if at == ends[len(sessions) - 1]:
            sessions.append([])
        if mode == "causal":
            words = tuple(ids[i] for i in range(at + 1, at + length - 1))
            sessions[-1].append(Segment(Kind.TEXT, 1, words, supervised=at in ce))
        elif at + 1 in vae:
            noisy = table["noisy"] if mode == "noise" else -1
            kind = Kind.NOISY if mode == "noise" else Kind.CLEAN
            sessions[-1].append(Segment(kind, 1, picture=table["vae"], noisy=noisy))
            table["vae"] += 1
            table["noisy"] += mode == "noise"
        else:
            sessions[-1].append(Segment(Kind.VIT, 1, picture=table[Kind.VIT]))
            table[Kind.VIT] += 1
        at += length
    return sessions


def test_packed_training(official):
    golden, model = Golden("train"), official.model
    config = model.config
    pictures = _pictures(golden, config.latent_patch_size, config.vit_max_num_patch_per_side)
    batch = pack(_sessions(golden, pictures), pictures, official.special)
    order = torch.cat([torch.nonzero(batch.marks[SESSION].flatten() == s)[:, 0] for s in range(2)])
    assert torch.equal(batch.positions[batch.gather[order]], golden["batch.packed_position_ids"])
    rows, width = order // batch.width, order % batch.width
    mask, first = visible(batch.marks, batch.marks), 0
    for index, length in enumerate(golden["batch.sample_lens"].tolist()):
        own = slice(first, first + length)
        block = mask[rows[own][0]][width[own]][:, width[own]]
        assert torch.equal(block, golden[f"batch.attention_allowed_sample{index}"])
        first += length
    raw = golden["batch.packed_timesteps"]
    t = raw[raw.isfinite()].sigmoid()
    t = config.timestep_shift * t / (1 + (config.timestep_shift - 1) * t)
    clean, noise = pictures.latents[batch.noisy_target], golden["noise"][raw.isfinite()]
    x = (1 - t)[:, None] * clean + t[:, None] * noise
    rows_of = model.rows_of(batch, batch.calls(model.dtype))
    und, gen = model.decode(*model.embed(batch, pictures, x, t), rows_of)
    decoder = model.language_model.model
    golden.compare(
        "last_hidden", torch.cat((decoder.norm(und), decoder.norm_moe_gen(gen)))[batch.gather[order]].detach()
    )
    model.zero_grad()
    output = model(batch, pictures, x, t)
    assert torch.equal(output.text_targets, golden["batch.packed_label_ids"])
    ce = F.cross_entropy(output.text_logits, output.text_targets, reduction="none")
    mse = (output.velocity - (noise - clean)) ** 2
    golden.compare("ce", ce.detach())
    golden.compare("mse", mse.detach())
    loss = ce.mean() + mse.mean()
    golden.compare("loss", loss.detach())
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name in [n for n in golden.tensors if n.startswith("grad.")]:
        golden.compare(name, gradients[name.removeprefix("grad.")])
    for name, norm in golden.meta["train_grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    model.zero_grad()
    for name in [n for n in golden.limits if n.startswith("batch.")]:
        golden.done.add(name)  # inputs of the batch: the exact ones are position ids, compared through the forward
    golden.finish()

"""The kernel without the search for the largest score, and where it is used."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from model import attention
from model.context import Context
from tests.model.random_sessions import SPECIAL, tiny_model


@pytest.mark.parametrize("room", [2**18, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_bounded_attention_is_softmax_attention(monkeypatch, masked, room):
    monkeypatch.setattr(attention, "ROOM", room)
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, n, 8, generator=random) for heads, n in ((4, 5), (2, 11), (2, 11)))
    mask = torch.zeros(3, 1, 1, 11).masked_fill(torch.rand(3, 1, 1, 11, generator=random) < 0.4, float("-inf"))
    bias = mask if masked else None
    expected = scaled_dot_product_attention(4 * q, k, v, attn_mask=bias, enable_gqa=True)
    assert torch.allclose(attention.attend(4 * q, k, v, bias, bounded=True), expected, atol=1e-6)


def test_a_new_token_may_be_answered_in_any_order_of_memory(monkeypatch):
    """CUDA's kernels give the heads of a position side by side, the CPU's the positions of a head."""
    q, k, v = (torch.randn(3, heads, n, 8) for heads, n in ((4, 1), (2, 11), (2, 11)))
    expected = scaled_dot_product_attention(q, k, v, enable_gqa=True)

    def as_cuda(*tensors, **options):
        return scaled_dot_product_attention(*tensors, **options).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", as_cuda)
    assert torch.allclose(attention.attend(q, k, v, None), expected, atol=1e-6)


def test_scores_are_bounded_by_the_weights_of_the_norms():
    model = tiny_model()
    assert all(cache.bounded for cache in Context(model, SPECIAL).streams[0].layers)
    layer = model.language_model.model.layers[1].self_attn
    with torch.no_grad():
        layer.q_norm_moe_gen.weight[3] = -100.0
    assert [cache.bounded for cache in Context(model, SPECIAL).streams[0].layers] == [True, False]


def test_the_bound_holds():
    layer = tiny_model().language_model.model.layers[0].self_attn
    x = 50 * torch.randn(200, layer.heads * layer.head_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for suffix in ("", "_moe_gen"):
            q, k = layer._project(x, suffix)[0].split((layer.heads, layer.kv_heads), 1)
            scores = torch.einsum("qhd,kd->hqk", q, k[:, 0]) * layer.head_dim**-0.5
            assert 0.3 * layer.largest_score < scores.abs().max() <= layer.largest_score

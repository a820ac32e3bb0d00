"""Rope ids, visibility, dropout and the errors of a layout."""

from dataclasses import replace

import pytest
import torch

from model import attention
from model.attention import visible
from model.packing import Kind, Pictures, Segment, View, drop_conditions, pack, session_segments
from model.segments import RopeState, place_all
from tests.model.random_sessions import SPECIAL, Batch, Layout, Story, tiny_model

STORY = Story([[5, 6], [7]], [[11], [12, 13]], [1, 1])
LONG = Story([[5, 6]] * 9, [[11, 12]] * 9, [2, 1] * 4 + [1])  # more tokens than a block of FlexAttention


def _ropes(segments: list[Segment]) -> list[int]:
    return [p.rope for p in place_all(segments)[0]]


def test_rope_ids_of_a_session():
    segments = session_segments([[5, 6], [7]], [0, 1, 2], [[0], [1]], [[11], [12, 13]])
    kinds = [s.kind.name for s in segments]
    assert kinds == ["CLEAN", "VIT", "TEXT", "TEXT", "NOISY"] * 2
    # Pictures take one id each, texts their length with the frame.
    assert _ropes(segments) == [0, 1, 2, 6, 9, 9, 10, 11, 14, 18]


def test_a_clean_copy_shares_the_noisy_rope_id():
    segments = session_segments([[5], [7]], [0, 1, 2], [[0], [1]])
    placed = place_all(segments)[0]
    noisy, clean = placed[3], placed[4]
    assert (noisy.segment.kind, clean.segment.kind) == (Kind.NOISY, Kind.CLEAN)
    assert noisy.rope == clean.rope == 5


def test_a_branch_gives_its_ids_back_after_its_turn():
    kept, branched = (
        _ropes(session_segments([[5], [7]], [0, 1, 2], [[0], [1]], [[11], [12]], keep_traces=keep))[5]
        for keep in (True, False)
    )
    assert (kept, branched) == (8, 5)


def test_guided_views_count_their_own_positions():
    segments = session_segments([[5], [7]], [0, 1, 2], [[0], [1]], guided=True)
    noisy = {(s.segment.turn, s.segment.view): s.rope for s in place_all(segments)[0] if s.segment.kind == Kind.NOISY}
    assert noisy == {
        (1, View.FULL): 5, (1, View.NO_TEXT): 2, (1, View.NO_IMAGE): 3,
        (2, View.FULL): 10, (2, View.NO_TEXT): 7, (2, View.NO_IMAGE): 6,
    }  # fmt: skip


def test_a_dropped_picture_leaves_a_gap_and_a_dropped_text_none():
    picture, text = Segment(Kind.VIT, 1, picture=0), Segment(Kind.TEXT, 1, (5, 6))
    last = Segment(Kind.TEXT, 1, (7,))
    assert _ropes([replace(picture, dropped=True), text, last]) == [1, 5]
    assert _ropes([picture, replace(text, dropped=True), last]) == [0, 1]


def test_condition_dropout_spares_what_is_learnt():
    segments = session_segments([[5]] * 200, range(201), [[k] for k in range(200)], [[6]] * 200)
    random = torch.Generator().manual_seed(0)
    chances = {"text": 0.1, "vit": 0.3, "clean": 0.3}
    dropped = [s for s in drop_conditions(segments, random, **chances) if s.dropped]
    shares = {kind: sum(s.kind == kind for s in dropped) / 200 for kind in Kind}
    assert shares == pytest.approx({Kind.TEXT: 0.2, Kind.VIT: 0.3, Kind.CLEAN: 0.3, Kind.NOISY: 0}, abs=0.08)
    texts = [s.turn for s in dropped if s.kind == Kind.TEXT]
    assert sorted(texts) == sorted([*set(texts)] * 2), "instruction and trace go together"
    assert not any(s.supervised for s in dropped)
    batch = pack(
        [drop_conditions(segments[:10], random, **chances)], replace(_pictures(), latent_grids=((2, 2),) * 3), SPECIAL
    )
    assert batch.noisy_turn.tolist() == [1, 2]


def test_nothing_kept_follows_a_branch_in_its_turn():
    with pytest.raises(ValueError, match="may not follow a branch"):
        place_all([Segment(Kind.TEXT, 1, (5,), branch=True), Segment(Kind.TEXT, 1, (6,))])
    assert RopeState(rope=(7, 3), lent=(2, 1)).without_branches().rope == (5, 2)


def _pictures() -> Pictures:
    return Pictures(torch.zeros(8, 8), torch.zeros(8, 48), ((2, 2),) * 2, ((2, 2),) * 2)


@pytest.mark.parametrize(
    ("noisy", "message"), [([0, 0], r"exactly once"), ([1], r"row by row"), ([0, 2], r"row by row")]
)
def test_the_noisy_table_is_used_whole(noisy, message):
    segments = [Segment(Kind.NOISY, 1, picture=0, noisy=n) for n in noisy]
    with pytest.raises(ValueError, match=message):
        pack([segments], _pictures(), SPECIAL)


def test_a_picture_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="VIT of turn 3 names picture 9"):
        pack([[Segment(Kind.VIT, 3, picture=9)]], _pictures(), SPECIAL)


def test_noise_is_invisible_and_text_causal():
    batch = Batch([STORY], Layout()).pack()
    seen = visible(batch.marks, batch.marks)[0]
    kind, order, turn, branch = (batch.marks[row, 0] for row in (3, 1, 4, 5))
    noisy = torch.nonzero(kind == Kind.NOISY)[:, 0]
    others = torch.nonzero(order != order[noisy[0]])[:, 0]
    assert not seen[others][:, noisy[:6]].any()
    trace = torch.nonzero((branch == 1) & (turn == 1))[:, 0]
    assert seen[trace][:, trace].equal(torch.ones(3, 3).tril().bool())
    assert not seen[turn == 2][:, trace].any()
    assert seen[noisy[0], trace].all()


def test_guidance_needs_a_guided_layout():
    from model.guidance import Guidance

    with pytest.raises(ValueError, match="guided=True"):
        Batch([STORY], Layout()).packed(tiny_model(), Guidance(2.0))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("masked", [0, 2**20])
def test_whole_rows_and_dense_problems_agree(monkeypatch, masked, compiled):
    """What a GPU computes, a written mask or FlexAttention's rule, against the dense calls."""
    from torch.nn.attention import flex_attention

    if compiled:
        create = attention._compiled(flex_attention.create_block_mask)
        monkeypatch.setattr(flex_attention, "create_block_mask", create)
    else:
        monkeypatch.setattr(attention, "_compiled", lambda function: function)
    monkeypatch.setattr("model.batch.MASKED", masked)
    model, batch = tiny_model(), Batch([LONG, STORY, Story([[5]], [[6, 7]], [2])], Layout(guided=True))
    packed = batch.pack()
    inputs = (batch.pictures, batch.noisy.flatten(0, 1), batch.times)
    with torch.no_grad():
        plain = model(packed, *inputs)
        packed.kept[torch.float32] = packed._whole(torch.float32)
        (part,) = packed.kept[torch.float32].parts
        assert part.queries % 16 == 0 and part.queries > 256
        assert isinstance(part.mask, torch.Tensor) == bool(masked)
        flex = model(packed, *inputs)
    assert torch.allclose(plain.velocity, flex.velocity, atol=1e-5)
    assert torch.allclose(plain.text_logits, flex.text_logits, atol=1e-5)


def test_a_large_mask_does_not_outlive_its_forward(monkeypatch):
    packed = Batch([STORY], Layout(guided=True)).pack()
    monkeypatch.setattr("model.batch.KEPT", 8)
    again, calls = packed.calls(torch.float32), packed.calls(torch.float32)
    assert not packed.kept and all(torch.equal(a.mask, b.mask) for a, b in zip(again.parts, calls.parts, strict=True))
    monkeypatch.undo()
    assert packed.calls(torch.float32) is packed.calls(torch.float32)


@pytest.mark.parametrize("close", [0.0, 1.0])
def test_how_attention_is_parted_changes_nothing(monkeypatch, close):
    model, batch = tiny_model(), Batch([STORY, Story([[5]] * 3, [[6, 7], [], [8]], [2, 1, 2])], Layout(guided=True))
    inputs = (batch.pictures, batch.noisy.flatten(0, 1), batch.times)
    with torch.no_grad():
        plain = model(batch.pack(), *inputs)
        monkeypatch.setattr("model.partition.MANY", 1)
        monkeypatch.setattr("model.partition.CLOSE", close)
        parted = batch.pack()
        other = model(parted, *inputs)
    assert len(parted.calls(torch.float32).parts) == 2 if close == 0.0 else len(parted.calls(torch.float32).parts) > 5
    assert torch.allclose(plain.velocity, other.velocity, atol=1e-5)
    assert torch.allclose(plain.text_logits, other.text_logits, atol=1e-5)


def test_no_guidance_costs_one_view():
    model, rows = tiny_model(), []
    batch = Batch([STORY], Layout())
    from model.context import Context
    from model.guidance import Guidance

    context = Context(model, SPECIAL, 1, guided=True)
    context.append_pictures(batch.pictures.select([0]))
    context.append_text([[5]])
    model.language_model.model.layers[0].register_forward_hook(lambda m, i, o: rows.append(len(i[0]) + len(i[1])))
    x = batch.noisy[:1]
    for guidance in (None, Guidance(), Guidance(1.0, 4.0), Guidance(2.0), Guidance(2.0, 2.0)):
        context.velocity(x, 0.5, (2, 2), guidance)
    context.velocity(x, 0.5, (2, 2), Guidance(2.0, 2.0, interval=(0.6, 1.0)))
    assert rows == [6, 6, 6, 12, 18, 6]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("masked", [0, 2**30], ids=["block-mask", "written-mask"])
def test_whole_rows_on_cuda_give_the_same_losses_and_gradients(monkeypatch, masked):
    monkeypatch.setattr("model.batch.MASKED", masked)
    results = []
    for device in ("cpu", "cuda"):
        model, batch = tiny_model().to(device), Batch([LONG, STORY, STORY], Layout(guided=True))
        inputs = (batch.pictures.to(device), batch.noisy.flatten(0, 1).to(device), batch.times.to(device))
        output = model(batch.pack().to(device), *inputs)
        (output.velocity.square().mean() + output.text_logits.square().mean()).backward()
        gradient = model.language_model.model.layers[0].self_attn.q_proj.weight.grad
        results.append((output.velocity.cpu(), output.text_logits.cpu(), gradient.cpu()))
    for plain, flex in zip(*results, strict=True):
        assert torch.allclose(plain, flex, atol=1e-3)

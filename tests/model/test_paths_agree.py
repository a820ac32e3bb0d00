"""The packed forward and the incremental path are one computation."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import SESSION
from model.context import Context
from model.guidance import Guidance
from model.packing import pack, session_segments
from tests.model.random_sessions import SPECIAL, WORDS, Batch, Layout, Story, layouts, stories, tiny_model

EXAMPLES = int(os.environ.get("EDIT_R2_EXAMPLES", "12"))
GUIDED = Guidance(text=3.0, image=1.5)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.lists(stories(), min_size=1, max_size=4), layouts())
def test_packed_equals_incremental(model, batch_stories, layout):
    batch = Batch(batch_stories, layout)
    guidance = GUIDED if layout.guided else None
    with torch.no_grad():
        output = batch.packed(model, guidance)
    velocity, logits = batch.incremental(model, guidance)
    assert (output.velocity - velocity).abs().max() <= 1e-4
    if layout.traced:
        assert (output.text_logits - torch.cat(logits)).abs().max() <= 1e-4
        expected = [i for s in batch_stories for trace in s.traces for i in [*trace, SPECIAL.eos]]
        assert output.text_targets.tolist() == expected


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.lists(stories(longest=4), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_the_batch_changes_nothing(model, batch_stories, random):
    order = list(range(len(batch_stories)))
    random.shuffle(order)
    layout = Layout(guided=True)
    with torch.no_grad():
        plain = Batch(batch_stories, layout).packed(model, GUIDED)
        shuffled = Batch(batch_stories, layout, order).packed(model, GUIDED)
    assert torch.allclose(plain.velocity, shuffled.velocity, atol=1e-5)
    sizes = [sum(len(t) + 1 for t in s.traces) for s in batch_stories]
    pieces = plain.text_logits.split(sizes)
    assert torch.allclose(torch.cat([pieces[i] for i in order]), shuffled.text_logits, atol=1e-5)


STORY = Story([[5, 6], [7], [8, 9, 10]], [[11], [12, 13], []], [2, 1, 1])


def _reached(model, outputs, batch, pictures, noisy) -> tuple[list[int], list[int]]:
    """Pictures and noisy rows of which `outputs` has a gradient."""
    latents, patches, x = torch.autograd.grad(outputs.sum(), (pictures.latents, pictures.patches, noisy))
    n = batch.layout.grid[0] * batch.layout.grid[1]
    seen = latents.view(-1, n * latents.shape[1]).abs().sum(1) + patches.view(latents.shape[0] // n, -1).abs().sum(1)
    return torch.nonzero(seen).flatten().tolist(), torch.nonzero(x.flatten(1).abs().sum(1)).flatten().tolist()


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_later_turn_never_reaches_an_earlier_one(model, turn):
    batch = Batch([STORY, STORY], Layout(guided=True))
    batch.pictures.latents.requires_grad_(True)
    batch.pictures.patches.requires_grad_(True)
    noisy = batch.noisy.clone().requires_grad_(True)
    packed = batch.pack()
    output = model(packed, batch.pictures, noisy.flatten(0, 1), batch.times, GUIDED)
    row = batch.noisy_rows(0)[turn][0]
    mine = output.velocity[packed.noisy_of_token == row]
    pictures, draws = _reached(model, mine, batch, batch.pictures, noisy)
    assert pictures == list(range(turn + 1))
    assert draws == [row]


def test_a_trace_reaches_its_own_turn_only(model):
    def velocities(trace: list[int]) -> torch.Tensor:
        story = Story(STORY.instructions, [trace, *STORY.traces[1:]], STORY.draws)
        with torch.no_grad():
            return Batch([story], Layout()).packed(model).velocity.view(4, -1)

    change = (velocities([11]) - velocities([14, 15])).abs().amax(1)
    assert change[:2].min() > 1e-3
    assert change[2:].max() < 1e-5  # another length, another order of summation


def test_what_was_sampled_replays(model):
    """Texts written on the cache, cut and finished ones, have the same log-probabilities in the packed forward."""
    story = Story([[5, 6], [7, 8]], [], [1, 1])
    batch = Batch([story] * 6, Layout(traced=False))
    context = Context(model, SPECIAL, 6, guided=True)
    allowed = torch.zeros(WORDS, dtype=torch.bool)
    allowed[[2, *range(18, WORDS)]] = True
    traces, cuts, logprobs, velocities = [], [], [], []
    random = torch.Generator().manual_seed(1)
    for turn in range(2):
        context.append_pictures(batch.pictures.select([batch.first_picture[r] + turn for r in range(6)]))
        context.append_text([story.instructions[turn]] * 6)
        sample = context.generate_text(4, 1.5, random, allowed=allowed)
        traces.append(sample.texts())
        cuts.append([not done for done in sample.finished.tolist()])
        logprobs.append([sample.logprobs[r, :n] for r, n in enumerate(sample.lengths.tolist())])
        pick = [batch.noisy_rows(r)[turn][0] for r in range(6)]
        velocities.append(context.velocity(batch.noisy[pick], batch.times[pick], (2, 2), GUIDED))
    assert {True, False} == {cut for turn in cuts for cut in turn}
    sessions = [
        session_segments(
            story.instructions, range(3 * r, 3 * r + 3), batch.noisy_rows(r), [traces[0][r], traces[1][r]],
            truncated=[cuts[0][r], cuts[1][r]], guided=True,
        )
        for r in range(6)
    ]  # fmt: skip
    with torch.no_grad():
        packed = pack(sessions, batch.pictures, SPECIAL)
        output = model(packed, batch.pictures, batch.noisy.flatten(0, 1), batch.times, GUIDED)
    scores = (output.text_logits / 1.5).masked_fill(~allowed, float("-inf")).log_softmax(-1)
    replayed = scores.gather(1, output.text_targets[:, None])[:, 0]
    assert torch.allclose(replayed, torch.cat([logprobs[t][r] for r in range(6) for t in range(2)]), atol=1e-4)
    assert torch.allclose(output.velocity.view(6, 2, 4, -1), torch.stack(velocities, 1), atol=1e-4)


def test_rows_hold_several_sessions():
    long, short = Story([[5]] * 6, [[6]] * 6, [1] * 6), Story([[5]], [[6]], [1])
    batch = Batch([short, long, short, short], Layout()).pack()
    assert batch.rows == 2
    assert batch.scatter.unique().numel() == batch.scatter.numel() == int((batch.marks[SESSION] >= 0).sum())

"""Texts that are sampled on rows which they share."""

import pytest
import torch

from model.context import Context
from model.decoding import distinct
from model.modeling import EditModel
from tests.model.random_sessions import SPECIAL, tiny_model

STANDS = [1, 0, 1, 1, 0, 1, 2]


def opened(guided: bool = False) -> Context:
    context = Context(tiny_model(), SPECIAL, 3, guided=guided, capacity=8)
    context.append_text([[5, 6], [7, 8, 9], [10]])
    return context


def options(temperature: float) -> dict:
    allowed = torch.zeros(tiny_model().config.llm_config().vocab_size, dtype=torch.bool)
    allowed[[SPECIAL.eos, 5, 6, 7]] = True
    random = [torch.Generator().manual_seed(k) for k in range(len(STANDS))]
    return {"temperature": temperature, "generator": random, "allowed": allowed}


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_texts_of_a_shared_row_are_those_of_rows_of_their_own(temperature, guided):
    """The same decisions, and afterwards contexts that go on alike, with a row for every different text."""
    apart, shared = opened(guided).select(STANDS), opened(guided)
    alone = apart.generate_text(3, **options(temperature))
    sample = shared.generate_text(3, **options(temperature), stands=STANDS)
    assert sample.texts() == alone.texts() and torch.equal(sample.finished, alone.finished)
    assert torch.equal(sample.lengths, alone.lengths)
    assert (sample.logprobs - alone.logprobs).abs().max() < 1e-5
    assert alone.rows == list(range(len(STANDS)))
    firsts, rows = distinct([(stand, tuple(text)) for stand, text in zip(STANDS, sample.texts(), strict=True)])
    assert (sample.rows, shared.rows) == (rows, len(firsts))
    apart = apart.select(firsts)
    assert (shared.lengths(), shared.ropes()) == (apart.lengths(), apart.ropes())
    more = [[9, row] for row in range(5, 5 + len(firsts))]
    logits = [context.append_text(more, branch=True, want_logits=True) for context in (apart, shared)]
    assert (logits[0] - logits[1]).abs().max() < 1e-4
    grid, noise = (2, 2), torch.randn(len(firsts), 4, 8, generator=torch.Generator().manual_seed(0))
    velocities = [
        context.views(noise, torch.full((len(firsts),), 0.5), grid, 3 if guided else 2) for context in (apart, shared)
    ]
    assert (velocities[0] - velocities[1]).abs().max() < 1e-4


def test_these_texts_part_end_and_are_cut_at_different_steps():
    """What the test above rests on."""
    sample = opened().generate_text(3, **options(1.0), stands=STANDS)
    assert len(STANDS) > len(set(sample.rows)) > 3
    assert set(sample.finished.tolist()) == {False, True} and len(set(sample.lengths.tolist())) > 1


def test_a_token_is_decoded_once_for_all_who_share_its_text(monkeypatch):
    fed, decode = [], EditModel.decode
    monkeypatch.setattr(
        EditModel, "decode", lambda self, und, *rest: (fed.append(len(und)), decode(self, und, *rest))[1]
    )
    context = opened()
    fed.clear()
    texts = context.generate_text(3, **options(1.0), stands=STANDS).texts()
    framed = [(stand, SPECIAL.bos, *text, SPECIAL.eos) for stand, text in zip(STANDS, texts, strict=True)]
    assert fed == [len({one[:n] for one in framed if len(one) >= n}) for n in range(2, max(map(len, framed)) + 1)]
    assert fed[0] == 3

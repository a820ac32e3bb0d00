import json
import random

import pytest

from data.scenes import TINY
from data.schema import Check, Session
from data.synthesis import Recipe, sessions
from model.judges.exact import judge_many

ROWS = [one.to_row() for one in sessions(Recipe(TINY, "test", 6, (2, 4), (2, 5)), 12)]
JUNK = [None, True, -1, 99, 1.5, "", "x", "large plain red ball", [], {}, ["x"], {"x": 1}, [[]], "tiny", "small"]


def places(value, path=()):
    """Paths of everything within a row."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def spoiled(row, rng):
    """The row with one value anywhere replaced or left out."""
    row = json.loads(json.dumps(row))
    path = rng.choice([path for path in places(row) if path])
    holder = row
    for key in path[:-1]:
        holder = holder[key]
    if rng.random() < 0.3:
        del holder[path[-1]]
    else:
        holder[path[-1]] = rng.choice(JUNK)
    return row


def test_a_spoiled_row_is_a_session_or_a_value_error():
    import numpy as np

    rng = random.Random(0)
    kept, refused = [], 0
    for _ in range(3000):
        try:
            kept.append(Session.from_row(spoiled(rng.choice(ROWS), rng), default_id="x"))
        except ValueError:
            refused += 1
    assert refused > 500 and len(kept) > 500
    # Whatever was accepted can be judged and written again.
    pictures = [np.zeros((len(one.turns) + 1, 48, 48, 3), np.uint8) for one in kept]
    assert len(judge_many(kept, pictures)) == len(kept)
    assert all(Session.from_row(one.to_row(), default_id=one.id) == one for one in kept[:200])


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (Check("IF", 9, "kind", "ball"), "outside the world"),
        (Check("IF", 0, "weight", "ball"), "unknown"),
        (Check("IF", -1, "count", "ball"), "unknown"),
    ],
)
def test_checks_that_no_scene_can_answer_are_refused(check, says):
    row = json.loads(json.dumps(ROWS[0]))
    row["scene"]["checks"][0].append(list(check))
    with pytest.raises(ValueError, match=says):
        Session.from_row(row)


def test_published_rows_need_every_column_and_equal_lengths():
    row = {name: value for name, value in ROWS[0].items() if name not in ("scene", "intent", "needs", "id")}
    assert Session.from_row(row).id == "0"
    with pytest.raises(ValueError, match="missing columns: turns"):
        Session.from_row({name: value for name, value in row.items() if name != "turns"})
    with pytest.raises(ValueError, match="entries in: instruction"):
        Session.from_row({**row, "instruction": row["instruction"][:-1]})

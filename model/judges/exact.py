"""The judge of rendered sessions: reads scenes from pixels and tests the session's own checks. Pure and batched.

IF: all of the turn's IF checks hold in the picture after it and did not all hold before: what an earlier mistake did
already is not credited. GA: all GA checks of the turn hold; they cover every rule and reference of the prefix whose
result should still be visible. CC: the mean of the parts that exist: objects, background and pixels outside the cells
that the turn may change, against the picture before the turn and, for what no turn may have changed yet, against the
source. Objects within those cells must keep the attributes that nobody asked to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.readback import read
from data.render import split_cells
from data.scenes import UNREADABLE, Scene, SceneObject, World, world_named
from data.schema import Check, Kept, SceneBlock, Session
from model.judges import METRICS, Absence, Score, SessionScores

Pixels = NDArray[np.uint8]

PIXEL_TOLERANCE = 48
"""Most difference of a channel (0..255) at which a pixel counts as unchanged: more than an autoencoder adds."""
PIXEL_SHARE = 0.9
"""Least share of unchanged pixels in a successful turn."""


class Reading(NamedTuple):
    """Scenes of a session's pictures, and per turn and cell the share of pixels as before and as in the source."""

    scenes: list[Scene]
    same_as_before: NDArray[np.float32]
    same_as_source: NDArray[np.float32]


def judge(session: Session, images: Pixels) -> SessionScores:
    """Score one session from its pictures uint8 (T + 1, H, W, 3): the source and the picture after every turn."""
    return judge_many([session], [images])[0]


def judge_many(sessions: Sequence[Session], pictures: Sequence[Pixels]) -> list[SessionScores]:
    """Score many sessions; all pictures of a world are read in one call. Never raises for a bad session or picture."""
    results: list[SessionScores | None] = [_refusal(*pair) for pair in zip(sessions, pictures, strict=True)]
    worlds = {one.scene.world for one, result in zip(sessions, results, strict=True) if result is None and one.scene}
    for name in sorted(worlds):
        same = [row for row, one in enumerate(sessions) if one.scene and one.scene.world == name]
        rows = [row for row in same if results[row] is None]
        readings = _read_all([pictures[row] for row in rows], world_named(name))
        for row, reading in zip(rows, readings, strict=True):
            results[row] = score(sessions[row], reading)
    return [result for result in results if result is not None]


def _refusal(session: Session, images: Pixels) -> SessionScores | None:
    """All scores absent where there is nothing to judge by, or nothing that can be judged."""
    if session.scene is None:
        return _absent(session, Absence.INVALID_ANNOTATION)
    size = world_named(session.scene.world).image_size
    if images.dtype != np.uint8 or images.shape != (len(session.turns) + 1, size, size, 3):
        return _absent(session, Absence.JUDGE_ERROR)
    return None


def _absent(session: Session, reason: Absence) -> SessionScores:
    return SessionScores(
        tuple(dict.fromkeys(METRICS, reason) for _ in session.turns), reason, tuple(distances(session))
    )


def _read_all(pictures: list[Pixels], world: World) -> list[Reading]:
    images = np.concatenate(pictures)
    scenes = read(images, world)
    starts = np.cumsum([0, *(len(stack) for stack in pictures)])
    sources = np.repeat(starts[:-1], np.diff(starts))
    before = np.maximum(np.arange(len(images)) - 1, sources)
    as_before, as_source = (_unchanged(images, images[other], world) for other in (before, sources))
    return [
        Reading(scenes[start:end], as_before[start:end], as_source[start:end])
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]


def _unchanged(images: Pixels, others: Pixels, world: World) -> NDArray[np.float32]:
    """Share of pixels of every cell (N, cells) that are within the tolerance in all channels."""
    difference = np.maximum(images, others) - np.minimum(images, others)
    near = difference <= PIXEL_TOLERANCE
    # Channel by channel: a reduction over an axis of three is several times slower.
    whole = near[..., 0] & near[..., 1] & near[..., 2]
    cells = split_cells(whole, world, channels=1).reshape(len(images), world.cells, -1)
    return np.asarray(np.count_nonzero(cells, axis=-1) / cells.shape[-1], np.float32)


def score(session: Session, reading: Reading) -> SessionScores:
    """Scores of a session whose pictures have been read."""
    block = session.scene
    assert block is not None
    turns = []
    lowest: Score = Absence.NOT_APPLICABLE
    for turn in range(1, len(session.turns) + 1):
        checks = block.checks[turn - 1]
        following = instruction_following(checks, reading.scenes[turn - 1], reading.scenes[turn])
        awareness = global_awareness(checks, reading.scenes[turn])
        parts = consistency_parts(session, block, reading, turn)
        consistency: Score = sum(parts.values()) / len(parts) if parts else Absence.NOT_APPLICABLE
        lowest = _least(lowest, awareness)
        strict = all(value >= (PIXEL_SHARE if name.endswith("pixels") else 1) for name, value in parts.items())
        won = float(strict and all(value in (1.0, Absence.NOT_APPLICABLE) for value in (following, awareness)))
        turns.append(dict(zip(METRICS, (following, consistency, awareness, lowest, won), strict=True)))
    whole = all(turn["success"] == 1.0 and turn["GA_cumulative"] != 0.0 for turn in turns)
    return SessionScores(tuple(turns), float(whole), tuple(distances(session)))


def _least(lowest: Score, value: Score) -> Score:
    present = [number for number in (lowest, value) if isinstance(number, float)]
    return min(present) if present else Absence.NOT_APPLICABLE


def instruction_following(checks: Sequence[Check], before: Scene, after: Scene) -> Score:
    """1 when the asked change holds now and did not hold before; absent when a rule cancels the request."""
    asked = [check for check in checks if check.metric == "IF"]
    if not asked:
        return Absence.NOT_APPLICABLE
    done = all(holds(check, after) for check in asked)
    return float(done and not all(holds(check, before) for check in asked))


def global_awareness(checks: Sequence[Check], after: Scene) -> Score:
    """1 when every rule and reference of the prefix shows; absent when there is none yet."""
    due = [check for check in checks if check.metric == "GA"]
    return float(all(holds(check, after) for check in due)) if due else Absence.NOT_APPLICABLE


def holds(check: Check, scene: Scene) -> bool:
    """Whether a condition is true of a scene."""
    if check.attribute == "background":
        return (scene.background == check.value) == check.wanted
    if check.attribute == "count":
        number, kind = check.value.split()
        return (sum(thing is not None and thing.kind == kind for thing in scene.cells) == int(number)) == check.wanted
    thing = scene.cells[check.cell]
    if thing is None:
        return (check.value == "") == check.wanted
    # Pixels that resemble nothing prove nothing, not even an absence.
    return thing.kind != UNREADABLE and (getattr(thing, check.attribute) == check.value) == check.wanted


def consistency_parts(session: Session, block: SceneBlock, reading: Reading, turn: int) -> dict[str, float]:
    """The parts of CC after a turn, each in 0..1, by name; only those that exist.

    Against the picture before the turn: `objects`, `background`, `pixels`; against the source: `source_*`.
    """
    before, after = reading.scenes[turn - 1], reading.scenes[turn]
    cells = range(len(after.cells))
    now = set(block.touched[turn - 1])
    ever = set().union(*block.touched[:turn])
    targets = (block.source, *block.targets)
    same_background = targets[turn].background == targets[turn - 1].background
    parts: dict[str, float | None] = {
        "objects": _objects(before, after, [c for c in cells if c not in now], block.kept[turn - 1]),
        "source_objects": _objects(reading.scenes[0], after, [c for c in cells if c not in ever], ()),
    }
    if same_background:
        parts["background"] = float(before.background == after.background)
        parts["pixels"] = _mean(reading.same_as_before[turn], now)
    if session.turns[turn - 1].bg_consistency:
        parts["source_background"] = float(reading.scenes[0].background == after.background)
        parts["source_pixels"] = _mean(reading.same_as_source[turn], ever)
    return {name: value for name, value in parts.items() if value is not None}


def _objects(before: Scene, after: Scene, cells: list[int], kept: Sequence[Kept]) -> float | None:
    """Share of objects that are as before: those in the cells, and in changed cells their untouched attributes."""
    same = [
        before.cells[cell] == after.cells[cell]
        for cell in cells
        if before.cells[cell] is not None or after.cells[cell] is not None
    ]
    changed: dict[int, bool] = {}
    for cell, source, attribute in kept:
        old, new = before.cells[source], after.cells[cell]
        arrived = cell == source or new != before.cells[cell]
        # An object that is missing or has not come is a matter of IF, here or in the turn that lost it.
        if old is not None and new is not None and arrived:
            changed[cell] = changed.get(cell, True) and _attribute(old, attribute) == _attribute(new, attribute)
    same.extend(changed.values())
    return sum(same) / len(same) if same else None


def _attribute(thing: SceneObject, name: str) -> str:
    return str(getattr(thing, name))


def _mean(shares: NDArray[np.float32], left_out: set[int]) -> float | None:
    chosen = [value for cell, value in enumerate(shares.tolist()) if cell not in left_out]
    return sum(chosen) / len(chosen) if chosen else None


def distances(session: Session) -> list[int | None]:
    """Per turn, turns since the farthest rule or reference that it needs was stated."""
    return [
        max((number - need.stated for need in turn.needs or ()), default=None)
        for number, turn in enumerate(session.turns, 1)
    ]

"""Which tokens attend together: dense problems without the columns that nobody could see.

Noise is invisible to all but itself, so half the keys of a naive row would be masked for nearly every query. Here a
session's context attends to itself, and its noisy pictures are dealt into lanes, at most one picture of a turn in each,
that attend to the context before them and to themselves. Problems of similar size are padded together and solved in
one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention import BRANCH, COLUMN, KIND, NOISY, ORDER, PADDING, SESSION, STREAM, TURN, visible

Ints = NDArray[np.int64]
MANY = 32  # tokens of a noisy picture that asks for a lane of its own
CLOSE = 0.75  # problems share a call when the smaller has at least this share of the larger one's keys


class Problem(NamedTuple):
    """Tokens (by flat index) that ask, and those that may answer."""

    queries: Ints
    keys: Ints


class Dense(NamedTuple):
    """Problems padded into one call: queries (R, Q), keys (R, K) flat token indices (0 in empty places), who sees whom
    (R, Q, K), and for each query's place the flat token or -1."""

    queries: Tensor
    keys: Tensor
    seen: Tensor
    owner: Ints


def problems(marks: Ints) -> list[Problem]:
    """Contexts and lanes of every session; marks (8, T) of flat tokens."""
    order = np.lexsort((marks[COLUMN], marks[SESSION]))
    cuts = np.flatnonzero(np.diff(marks[SESSION][order])) + 1
    found: list[Problem] = []
    for tokens in np.split(order, cuts):
        noisy = marks[KIND][tokens] == NOISY
        context = tokens[~noisy]
        streams = {s: context[marks[STREAM][context] == s] for s in (0, 1)}
        found += [Problem(part, part) for part in streams.values() if len(part)]
        for lane in _lanes(tokens[noisy], marks):
            seen = _before(streams[int(marks[STREAM][lane[0]])], lane, marks)
            found.append(Problem(lane, np.concatenate((seen, lane))))
    return found


def _before(context: Ints, lane: Ints, marks: Ints) -> Ints:
    """Context that a lane may see: nothing after its last picture, no branch of a turn that it has no part in."""
    earlier = context[marks[ORDER][context] < marks[ORDER][lane].max()]
    own = np.isin(marks[TURN][earlier], marks[TURN][lane])
    return earlier[own | (marks[BRANCH][earlier] == 0)]


def _lanes(noise: Ints, marks: Ints) -> list[Ints]:
    """A turn's noisy pictures go to different lanes; a lane keeps to one stream. A picture of many tokens is a lane
    of its own: it sees little of the session's context then, which outweighs gathering that context once more."""
    lanes: dict[tuple[int, ...], list[Ints]] = {}
    taken: dict[tuple[int, int], int] = {}
    for picture in np.split(noise, np.flatnonzero(np.diff(marks[ORDER][noise])) + 1) if len(noise) else []:
        stream, turn = int(marks[STREAM][picture[0]]), int(marks[TURN][picture[0]])
        lane = taken.get((stream, turn), 0)
        taken[stream, turn] = lane + 1
        key = (stream, lane, turn) if len(picture) >= MANY else (stream, lane)
        lanes.setdefault(key, []).append(picture)
    return [np.concatenate(pictures) for pictures in lanes.values()]


def _together(listed: Sequence[Problem]) -> list[list[Problem]]:
    """Problems of similar size, largest first."""
    groups: list[list[Problem]] = []
    for problem in sorted(listed, key=lambda p: (len(p.keys), len(p.queries)), reverse=True):
        if groups and len(problem.keys) >= CLOSE * len(groups[-1][0].keys):
            groups[-1].append(problem)
        else:
            groups.append([problem])
    return groups


def _padded(rows: Sequence[Ints]) -> Ints:
    """(R, longest), -1 in empty places."""
    table = np.full((len(rows), max(len(r) for r in rows)), -1, np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def dense(marks: Tensor) -> tuple[list[Dense], Tensor]:
    """All attention of flat tokens with marks (8, T), and where in the calls' outputs, laid end to end, each token
    is."""
    table = marks.numpy().astype(np.int64)
    empty = torch.full((marks.shape[0], 1), PADDING, dtype=marks.dtype)
    extended = torch.cat((marks, empty), 1)  # place -1
    calls, restore, end = [], np.zeros(marks.shape[1], np.int64), 0
    listed = problems(table)
    contexts = [p for p in listed if len(p.queries) == len(p.keys)]
    lanes = [p for p in listed if len(p.queries) != len(p.keys)]
    for group in _together(contexts) + _together(lanes):
        queries, keys = (torch.from_numpy(_padded(rows)) for rows in zip(*group, strict=True))
        seen = visible(extended[:, queries], extended[:, keys])
        owner = queries.numpy().flatten()
        real = np.flatnonzero(owner >= 0)
        restore[owner[real]] = end + real
        end += len(owner)
        calls.append(Dense(queries.clamp(min=0), keys.clamp(min=0), seen, owner))
    return calls, torch.from_numpy(restore)


def windows(gather: Tensor, begins: Sequence[int], ends: Sequence[int], scatter: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of the windows [begin, end) of the slots (B, W), window after window, and the place of each flat token
    among them."""
    rows = gather.shape[0]
    place, taken = torch.empty_like(gather), 0
    for begin, end in zip(begins, ends, strict=True):
        count = rows * (end - begin)
        place[:, begin:end] = torch.arange(taken, taken + count, device=gather.device).view(rows, -1)
        taken += count
    tokens = [gather[:, begin:end].flatten() for begin, end in zip(begins, ends, strict=True)]
    return torch.cat(tokens), place.flatten()[scatter]

"""Which turns of an iteration are replayed, and in whose context: what shares a history is laid out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from model.trajectories import Trajectory, TurnSample


class Written(NamedTuple):
    """A turn (from 0) whose trace is replayed, and who wrote it: row of the iteration's trajectories."""

    turn: int
    row: int
    sample: TurnSample


@dataclass(frozen=True)
class Excerpt:
    """A trajectory and the turns of it (from 0) whose pictures and traces are replayed; the others are context.

    `beside` are traces of other members, written after the same history; where there are any, no picture is replayed.
    """

    row: int  # of the iteration's trajectories
    trajectory: Trajectory
    pictures: tuple[int, ...]
    traces: tuple[int, ...]
    beside: tuple[Written, ...] = ()

    @staticmethod
    def whole(row: int, trajectory: Trajectory) -> Excerpt:
        """Everything that the member did itself."""
        turns = tuple(range(trajectory.own, len(trajectory.turns)))
        return Excerpt(row, trajectory, turns, turns)

    @property
    def length(self) -> int:
        """Turns that must be laid out: nothing is learned after them."""
        return max((*self.pictures, *(one.turn for one in self.written())), default=-1) + 1

    def written(self) -> list[Written]:
        """The traces that are laid out, by turn, the own one first: a replayed picture needs its own."""
        own = sorted({*self.traces, *self.pictures})
        listed = [Written(turn, self.row_of(turn), self.trajectory.turns[turn]) for turn in own]
        return sorted([*listed, *self.beside], key=lambda one: one.turn)

    def member(self, turn: int) -> int:
        """Number in its group of the member that did a turn: a sibling where this one went on from its picture."""
        done = self.trajectory
        return done.member if turn >= done.own else done.before[turn + 1]

    def row_of(self, turn: int) -> int:
        """Row of the iteration's trajectories that a turn counts for."""
        return self.row + self.member(turn) - self.trajectory.member

    def holds(self, other: Excerpt, turn: int) -> bool:
        """Whether this trajectory holds the very turn of another, and for the same member."""
        mine, theirs = self.trajectory.turns, other.trajectory.turns
        same = self.trajectory.session == other.trajectory.session and len(mine) > turn and mine[turn] is theirs[turn]
        return same and self.row_of(turn) == other.row_of(turn)


def together(listed: Sequence[Excerpt]) -> list[Excerpt]:
    """Excerpts of traces alone, one for every history: what was written after it is replayed beside each other.

    A trace stays in the context, so turns of one session need a context each.
    """
    found: dict[tuple[int, ...], tuple[Excerpt, list[Written]]] = {}
    for excerpt in listed:
        done = excerpt.trajectory
        for one in excerpt.written():
            history = (done.session, *map(id, done.turns[: one.turn]))
            found.setdefault(history, (replace(excerpt, traces=()), []))[1].append(one)
    return [replace(base, beside=tuple(beside)) for base, beside in found.values()]


def chained(listed: Sequence[Excerpt]) -> list[Excerpt]:
    """Excerpts of pictures alone, with those that a longer one came by in that one, so that it is replayed once.

    Members that drew alike share a picture and not its advantage: what counts for another member stays by itself.
    """
    found: list[Excerpt] = []
    for excerpt in sorted(listed, key=lambda e: -len(e.trajectory.turns)):
        fits = (i for i, base in enumerate(found) if all(base.holds(excerpt, turn) for turn in excerpt.pictures))
        place = next(fits, None)
        if place is None:
            found.append(excerpt)
        else:
            pictures = tuple(sorted({*found[place].pictures, *excerpt.pictures}))
            found[place] = replace(found[place], pictures=pictures)
    return found

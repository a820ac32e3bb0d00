"""Pictures for the documentation: `python -m data.gallery --world tiny --out docs/sessions-tiny.png`.

Chooses few sessions that between them show every edit type and as many rules and references as they can.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from data.build import SessionsConfig, recipe
from data.card import GRID_SESSIONS, grid
from data.render import render
from data.scenes import world_named
from data.schema import Session
from data.synthesis import sessions


def shows(session: Session) -> set[str]:
    """Everything that a session is an example of."""
    needs = {need.name for turn in session.turns for need in turn.needs or ()}
    return {turn.task_type.value for turn in session.turns} | needs | {str(session.track)}


def choose(candidates: list[Session], count: int) -> list[Session]:
    """Greedy cover: each next session is the one that adds most of what has not been shown, the shorter one first."""
    chosen: list[Session] = []
    seen: set[str] = set()
    for _ in range(min(count, len(candidates))):
        best = max(candidates, key=lambda one: (len(shows(one) - seen), one.track != _last_track(chosen)))
        chosen.append(best)
        seen |= shows(best)
        candidates = [one for one in candidates if one is not best]
    return chosen


def _last_track(chosen: list[Session]) -> str | None:
    return chosen[-1].track if chosen else None


def main() -> None:
    """Write the picture and print what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    world = world_named(options.world)
    plan = recipe(SessionsConfig(world=world.name, seed=options.seed, turns=(3, 5)), "test")
    chosen = choose(list(islice(sessions(plan, 300), 300)), GRID_SESSIONS)
    blocks = [one.scene for one in chosen if one.scene]
    rows = [list(render([block.source, *block.targets], world)) for block in blocks]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    grid(list(zip(chosen, rows, strict=True))).save(options.out, optimize=True)
    print(", ".join(sorted(set().union(*(shows(one) for one in chosen)))))


if __name__ == "__main__":
    main()

"""Deliberate mistakes against metrics: `python -m model.judges.mistakes [--world tiny] [--sessions 200]`.

Every scripted editor makes one kind of mistake; the table shows which metrics fall for it, per track.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from data.baselines import EDITORS
from data.build import BenchmarkConfig, recipe
from data.schema import Session, Track
from data.synthesis import sessions
from model.judges import METRICS
from model.judges.exact import judge_many

Table = dict[tuple[str, str, str], float]


def table(judged: Sequence[Session]) -> Table:
    """Mean by (editor, track, metric) over the turns that have a score."""
    means: Table = {}
    for name, editor in EDITORS.items():
        scores = judge_many(judged, [editor(one) for one in judged])
        for track in Track:
            turns = [turn for one, s in zip(judged, scores, strict=True) if one.track == track for turn in s.turns]
            for metric in METRICS:
                values = [value for turn in turns if isinstance(value := turn[metric], float)]
                means[name, track.value, metric] = sum(values) / len(values) if values else float("nan")
    return means


def markdown(means: Table) -> Iterator[str]:
    """The table, line by line."""
    heads = [(track.value, metric) for track in Track for metric in METRICS]
    yield "| editor | " + " | ".join(f"{track} {metric}" for track, metric in heads) + " |"
    yield "|---|" + "---:|" * len(heads)
    for name in EDITORS:
        yield f"| {name} | " + " | ".join(f"{means[name, track, metric]:.2f}" for track, metric in heads) + " |"


def main() -> None:
    """Print the table for test sessions of a world."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tiny")
    parser.add_argument("--sessions", type=int, default=200)
    options = parser.parse_args()
    plan = recipe(BenchmarkConfig(world=options.world), "test")
    print("\n".join(markdown(table(list(sessions(plan, options.sessions))))))


if __name__ == "__main__":
    main()

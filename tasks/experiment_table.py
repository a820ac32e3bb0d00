"""The results table: measured from tracked runs, kept with the table's own run, and written where it is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table as Grid

from model.atomic import write_atomically
from tasks import experiment_page, experiment_plots, identity, progress, report, tracking
from tasks import experiment_statistics as statistics
from tasks.experiment import Experiment
from tasks.experiment_measured import Estimates, Measured, Row, measure
from tasks.experiment_runs import Outcome
from tasks.experiment_statistics import Estimate

PAGE, NUMBERS, PICTURES = "results.md", "results.json", "results"


@dataclass(frozen=True)
class Table:
    """A finished table: its numbers, the same for a terminal, what they say, and where everything is."""

    results: dict[str, Any]
    shown: Grid
    reading: list[str]
    written: list[str]
    where: str


def conclude(run: tracking.ActiveRun, plan: Experiment, outcomes: Sequence[Outcome], write: str | None) -> Table:
    """Measure, draw and write; the table's run keeps all of it and hands on the digest of its numbers."""
    found = measure(plan, outcomes)
    made = put(found, write, report.where_to_look(run.experiment_id, run.run_id), run.artifact)
    if not run.reused:
        run.report(0, _metrics(found))
        run.finish({"results": identity.digest(made.results)})
    _summarise(found, made.reading)
    return made


def put(found: Measured, write: str | None, where: str, keep: Callable[[Path], object] = bool) -> Table:
    """Draw a table and write it where it is wanted; `keep` gets the folder of its files first."""
    numbers = results(found)
    with TemporaryDirectory() as place:
        folder = _filled(Path(place), found, numbers)
        keep(folder)
        written = _publish(folder, Path(write)) if write else []
    return Table(numbers, _grid(found), experiment_page.reading(found), written, where)


def results(found: Measured) -> dict[str, Any]:
    """The numbers of the table as `results.json` holds them."""
    parts = {"held out" if part.held_out else "shown in training": part for part in found.parts}
    return {
        "commit": found.commit,
        "profile": found.profile,
        "seeds": list(found.seeds),
        **_numbers({name: row.means for name, row in found.rows.items()}, found.paired),
        "parts": {
            name: {"sessions": part.sessions, **_numbers(part.means, part.paired)} for name, part in parts.items()
        },
    }


def _numbers(means: Mapping[str, Estimates], paired: Mapping[tuple[str, str], Estimates]) -> dict[str, Any]:
    return {
        "variants": {
            name: {key: _cell(one) | {"n": one.n} for key, one in statistics.by_key(estimates).items()}
            for name, estimates in means.items()
        },
        "paired": {
            f"{ours} - {theirs}": {key: _cell(one) for key, one in statistics.by_key(differences).items()}
            for (ours, theirs), differences in paired.items()
        },
    }


def _cell(one: Estimate) -> dict[str, float]:
    return {name: round(getattr(one, name), 6) for name in ("mean", "low", "high")}


def _filled(folder: Path, found: Measured, numbers: dict[str, Any]) -> Path:
    """All files of a table in an empty folder."""
    (folder / PICTURES).mkdir()
    pictures = experiment_plots.draw(found, folder / PICTURES)
    (folder / PAGE).write_text(experiment_page.page(found, pictures), encoding="utf-8")
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return folder


def _publish(folder: Path, target: Path) -> list[str]:
    """Put the files in place, each whole; pictures of an earlier table go."""
    made = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    for path in made:
        write_atomically(target / path, (folder / path).read_bytes())
    for old in (target / PICTURES).glob("*.png"):
        if old.relative_to(target) not in made:
            old.unlink()
    return [str(target / path) for path in made]


def _metrics(found: Measured) -> dict[str, float]:
    """Overall means under the names that evaluations use, by variant."""
    return {
        f"evaluation/{name}/{key}": one.mean
        for name, row in found.rows.items()
        for key, one in statistics.by_key(row.means).items()
        if "/" not in key
    }


def _grid(found: Measured) -> Grid:
    """The overall scores for the terminal."""
    made = Grid(title=experiment_page.headline(found), title_justify="left")
    made.add_column("variant")
    for metric in experiment_page.TITLES.values():
        made.add_column(metric, justify="right")
    for name, row in found.rows.items():
        made.add_row(name, *_cells(row))
    return made


def _cells(row: Row) -> list[str]:
    by_key = statistics.by_key(row.means)
    found = [by_key.get(metric) for metric in experiment_page.TITLES]
    return ["–" if one is None else f"{one.mean:.3f} ±{(one.high - one.low) / 2:.3f}" for one in found]


def _summarise(found: Measured, reading: Sequence[str]) -> None:
    """The markdown page of the flow run in Prefect."""
    lines = [f"* {line}" for line in reading]
    text = "\n".join([f"## {experiment_page.headline(found)}", "", *experiment_page.scores(found), "", *lines])
    progress.page(f"experiment-{found.profile}", text, "What it came to")

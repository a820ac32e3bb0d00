"""Commands that compare variants of the trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.options import Debug, Json, Profile
from flows.session import answer, workspace
from tasks.settings import prepare

experiment = typer.Typer(
    name="experiment",
    help="Compare variants of the trainings (experiments.yaml) over several seeds on the held-out sessions.",
    no_args_is_help=True,
)

Write = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder for results.md, results.json and results/*.png.")
]


@experiment.command()
def table(
    profile: Profile = "tiny",
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings, separated by commas.")] = "0,1,2",
    variants: Annotated[str, typer.Option(help="Names in experiments.yaml, separated by commas; default: all.")] = "",
    jobs: Annotated[
        int, typer.Option(min=1, help="Trainings side by side, each in a process with its share of the threads.")
    ] = 1,
    write: Write = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make what is missing and compare: means, paired differences, what each variant saw, figures.

    Everything that was trained or evaluated before with the same code, parameters and data is reused, by this table or
    by `edit-r2 run`; a table that was interrupted goes on where it was.
    """
    with workspace(debug, as_json, profile) as ready:
        from flows.experiment import experiment_table_flow

        ready()
        made = experiment_table_flow(profile, _numbers(seeds), _names(variants), jobs, str(write) if write else None)
        if as_json:
            answer(made.results)
        else:
            _show(made)


@experiment.command()
def run(
    variant: Annotated[str, typer.Argument(help="Name in experiments.yaml.")],
    seed: Annotated[int, typer.Option(help="Seed of the trainings.")] = 0,
    profile: Profile = "tiny",
    parent_run: Annotated[str | None, typer.Option(help="MLflow run of the table that this belongs to.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train and evaluate one variant with one seed, what it starts from first; a table then reuses it."""
    with workspace(debug, as_json, profile) as ready:
        from flows.experiment import make_variant

        ready()
        made = make_variant(profile, variant, seed, parent_run)
        summary = made.evaluation.scores()["summary"]
        means = {name: summary.get(name, {}).get("mean") for name in ("IF", "CC", "GA", "session_success")}
        found = {"variant": variant, "seed": seed, "model": made.model.model_id, "run": made.evaluation.run_id} | means
        if as_json:
            answer(found)
        else:
            typer.echo("\n".join(f"{key}: {value}" for key, value in found.items()))


@experiment.command()
def bare(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="What `python -m model.bare PROFILE FOLDER` filled.")],
    write: Write = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The same table of a training on a bare GPU machine: base, SFT and RL, one seed, nothing tracked."""
    prepare(debug)
    from tasks.experiment_bare import measured
    from tasks.experiment_table import put

    made = put(measured(folder), str(write) if write else None, str(folder))
    if as_json:
        answer(made.results)
    else:
        _show(made)


def _show(made: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(made.shown)
    for line in made.reading:
        console.print(f"  - {line}")
    for path in made.written:
        console.print(f"written: {path}", soft_wrap=True)
    console.print(f"Look at it: {made.where}", soft_wrap=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    from data.errors import UserError

    try:
        found = tuple(dict.fromkeys(int(name) for name in _names(text)))
    except ValueError as error:
        raise UserError(f"--seeds {text!r} are no numbers", "Write them as 0,1,2") from error
    if not found:
        raise UserError("--seeds names none", "Write them as 0,1,2")
    return found

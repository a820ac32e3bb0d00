"""The command line `edit-r2`. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import cli_data, cli_edit, cli_experiment, cli_ledger, cli_provenance, cli_retention, cli_services
from flows.options import Debug, Json, Profile
from flows.session import INTERRUPTED, answer, guarded, workspace
from tasks import shown

app = typer.Typer(
    name="edit-r2",
    help="Retrain a multi-turn image editor, prove where each model comes from, and show how good it is.\n\n"
    "Start with `edit-r2 run --profile smoke` (about a minute), then `edit-r2 run` for the embedded default. "
    "Nothing is done twice: a stage whose code, parameters and inputs have not changed is reused, and a command that "
    "was interrupted goes on where it stopped.\n\n"
    "Exit codes: 0 done, 1 defect of this program, 2 bad input, 3 refused by the gates, 4 a service does not answer, "
    "5 the champion changed meanwhile, 6 a broken link in the lineage, 130 interrupted. Settings are environment "
    "variables: see .env.example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cli_data.data, name="data")
app.add_typer(cli_data.imports, name="import")
app.add_typer(cli_experiment.experiment, name="experiment")
app.command()(cli_edit.edit)
app.command()(cli_services.up)
app.command()(cli_services.down)
app.command()(cli_services.deploy)
app.command()(cli_services.worker)
app.command()(cli_services.status)
cli_provenance.add_to(app)
cli_ledger.add_to(app)
app.command()(cli_retention.retention)


@app.command()
def run(profile: Profile = "tiny", as_json: Json = False, debug: Debug = False) -> None:
    """Retrain: data, base, SFT, RL, evaluation, gates, promotion.

    Ends with the scores of all three models, the decision with its reasons, and where to look. Refusing a candidate is
    a decision, not an error: the exit code is 0.
    """
    with workspace(debug, as_json, profile) as ready:
        from flows.retrain import retrain

        ready()
        outcome = retrain(profile)
        if as_json:
            answer(outcome.as_json())
        else:
            _show(outcome)


def _show(outcome: Any) -> None:
    from rich.console import Console

    from tasks import report

    console = Console(highlight=False)
    console.print(report.table(outcome.profile, report.sheets(outcome.evaluations)))
    console.print(f"[bold]{outcome.promotion.line}[/bold]")
    for reason in outcome.promotion.reasons:
        console.print(f"  - {reason}")
    console.print(f"Look at it: {outcome.where}", soft_wrap=True)


def _stage(
    name: str, profile: str, as_json: bool, debug: bool, show: Callable[[Any], dict[str, Any]], **arguments: Any
) -> Any:
    """Run the flow of one stage and print what it made."""
    import importlib

    with workspace(debug, as_json, profile) as ready:
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        ready()
        made = flow(profile, **arguments)
        result = show(made)
        if as_json:
            answer(result)
        else:
            typer.echo("\n".join(f"{key}: {value}" for key, value in result.items() if not isinstance(value, dict)))
        return made


def _fields(made: Any) -> dict[str, Any]:
    import dataclasses

    found = dataclasses.asdict(made)
    return {key: value for key, value in found.items() if value is not None}


@app.command()
def build_dataset(profile: Profile = "tiny", as_json: Json = False, debug: Debug = False) -> None:
    """Build, check and push the sessions to learn from (a DVC stage)."""
    _stage("build_dataset", profile, as_json, debug, lambda made: made.as_json())


@app.command()
def build_benchmark(profile: Profile = "tiny", as_json: Json = False, debug: Debug = False) -> None:
    """Build, check and push the sessions to be judged on (a DVC stage)."""
    _stage("build_benchmark", profile, as_json, debug, lambda made: made.as_json())


@app.command(help=f"Train the latent space, then the base model. It is shown {shown.BASE}.")
def pretrain_base(profile: Profile = "tiny", as_json: Json = False, debug: Debug = False) -> None:
    """Train the base model."""
    _stage("pretrain_base", profile, as_json, debug, _fields)


@app.command()
def train_sft(
    profile: Profile = "tiny",
    base: Annotated[str | None, typer.Option(help="Model id to start from; default: this profile's base.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune the base model on whole sessions."""
    _stage("train_sft", profile, as_json, debug, _fields, base=base)


@app.command()
def train_rl(
    profile: Profile = "tiny",
    sft: Annotated[str | None, typer.Option(help="Model id to start from; default: this profile's SFT model.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Improve the SFT model by multi-turn RL on intent traces and pictures."""
    _stage("train_rl", profile, as_json, debug, _fields, sft=sft)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model id, as `edit-r2 status` and MLflow show it (m-...).")],
    profile: Profile = "tiny",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on the benchmark, free-running over all turns."""

    def show(made: Any) -> dict[str, Any]:
        summary = made.scores()["summary"]
        means = {name: summary.get(name, {}).get("mean") for name in ("IF", "CC", "GA", "session_success")}
        return _fields(made) | means | {"summary": summary}

    _stage("evaluate", profile, as_json, debug, show, model=model)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="Model id of the candidate (m-...).")],
    profile: Profile = "tiny",
    reason: Annotated[str, typer.Option(help="Why now; the ledger keeps it.")] = "asked for on the command line",
    approval: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Signed with `edit-r2 approve`, where it is asked for."),
    ] = None,
    override: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Signed with `edit-r2 approve --override`.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let the gates decide on a model; exit code 3 unless it is champion then: refused, waiting, or put aside."""
    words = {
        name: file.read_text() if file else None for name, file in (("approval", approval), ("override", override))
    }
    wanted = {"model": model, "reason": reason} | words
    made = _stage("promote", profile, as_json, debug, lambda made: made.as_json(), **wanted)
    if as_json and not made.in_use:
        raise typer.Exit(3)
    made.raise_for_refusal()


def main() -> None:
    """Entry point of the command."""

    def command() -> int | None:
        try:
            code: int | None = app(standalone_mode=False)
            if code == INTERRUPTED:  # the library has swallowed the Ctrl-C
                raise KeyboardInterrupt
            return code
        except typer.Abort:
            raise KeyboardInterrupt from None
        except Exception as error:
            if not hasattr(error, "show"):
                raise
            error.show()  # a mistake on the command line: usage, option and hint
            return int(getattr(error, "exit_code", 2))

    sys.exit(guarded(command))


if __name__ == "__main__":
    main()

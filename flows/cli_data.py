"""Commands about data: import of published annotations, and builds without the rest of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.options import Debug, Json, Profile
from flows.session import answer
from tasks.settings import prepare, settings

SHOWN = 10  # quarantined rows printed

imports = typer.Typer(help="Read annotations that others published.", no_args_is_help=True)
data = typer.Typer(help="Build data sets without training.", no_args_is_help=True)


@imports.command("mice")
def import_mice(
    file: Annotated[Path, typer.Argument(help="JSONL file as MICE-Bench publishes it.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the source images; each is then checked.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: data/imported/FILE's name.")] = None,
    strip_prefix: Annotated[str, typer.Option(help="Removed from the front of image paths.")] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Import MICE-Bench annotations; defective rows and turns go to a quarantine file with line and reason.

    Nothing is dropped in silence: what is not in sessions.jsonl is in quarantine.jsonl.
    """
    from data.mice import read_mice, write_mice
    from data.quarantine import write_quarantine

    found = read_mice(file, images, strip_prefix=strip_prefix)
    folder = out or settings().root / "data" / "imported" / file.stem
    write_mice(found.sessions, folder / "sessions.jsonl")
    write_quarantine(found.quarantine, folder / "quarantine.jsonl")
    if as_json:
        answer({**found.as_json(), "folder": str(folder)})
    else:
        _show(found, folder)


def _show(found: Any, folder: Path) -> None:
    counts = found.counts
    typer.echo(
        f"{counts.sessions_read} sessions read, {counts.sessions_kept} kept ({counts.sessions_shortened} shortened)"
    )
    typer.echo(f"{counts.turns_quarantined} turns and {counts.rows_quarantined} rows quarantined")
    for title, table in (("edit type", counts.by_type), ("track", counts.by_track), ("reason", counts.by_reason)):
        typer.echo(f"by {title}: " + ", ".join(f"{name} {count}" for name, count in sorted(table.items())))
    for defect in found.quarantine[:SHOWN]:
        typer.echo(f"  {defect.sentence()}")
    if len(found.quarantine) > SHOWN:
        typer.echo(f"  ... and {len(found.quarantine) - SHOWN} more in quarantine.jsonl")
    typer.echo(f"written to {folder}")


@data.command("build")
def build(profile: Profile = "tiny", as_json: Json = False, debug: Debug = False) -> None:
    """Build the sessions and the benchmark of a profile with DVC, without checks, push or tracking."""
    prepare(debug)
    from tasks import datasets, parameters

    parameters.load(profile)
    made = [datasets.build(profile, name, push=False) for name in ("sessions", "benchmark")]
    if as_json:
        answer({"datasets": [dataset.as_json() for dataset in made]})
        return
    for dataset in made:
        typer.echo(f"{dataset.title}: {dataset.rows} sessions, {dataset.digest}, {dataset.folder}")

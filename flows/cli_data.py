"""Commands about data: import of what others published, and builds without the rest of the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import Debug, Json, Profile
from flows.session import answer
from tasks.settings import prepare, settings

if TYPE_CHECKING:
    from tasks.imports import Format

SHOWN = 10  # quarantined rows printed

imports = typer.Typer(
    help="Read sessions that others published. Defective rows and turns go to quarantine.jsonl with line and reason: "
    "nothing is dropped in silence, and one bad row never stops an import.",
    no_args_is_help=True,
)
data = typer.Typer(help="Build data sets without training.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="File (or, for MagicBrush, folder) as it was published.")]
Images = Annotated[str | None, typer.Option(help="Folder or s3:// address of the source images; each is checked.")]
Out = Annotated[Path | None, typer.Option(help="A new folder; default: data/imported/NAME, which is replaced.")]
Split = Annotated[str, typer.Option(help="Split of sessions that name none.")]


@imports.command("mice")
def import_mice(
    file: Source,
    images: Images = None,
    out: Out = None,
    split: Split = "test",
    strip_prefix: Annotated[str, typer.Option(help="Removed from the front of image paths.")] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Import MICE-Bench annotations (JSONL)."""
    _import("mice", file, images, out, split, as_json, debug, strip_prefix=strip_prefix)


@imports.command("edival")
def import_edival(
    file: Source,
    images: Images = None,
    out: Out = None,
    split: Split = "test",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Import EdiVal-Bench annotations (CSV)."""
    _import("edival", file, images, out, split, as_json, debug)


@imports.command("magicbrush")
def import_magicbrush(
    folder: Source, out: Out = None, split: Split = "train", as_json: Json = False, debug: Debug = False
) -> None:
    """Import MagicBrush (a folder of parquet files, pictures included)."""
    _import("magicbrush", folder, None, out, split, as_json, debug)


@imports.command("photographs")
def import_photographs(
    file: Source,
    images: Images = None,
    out: Out = None,
    split: Split = "test",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make sessions for photographs from lists of the objects that they show (JSONL)."""
    _import("photographs", file, images, out, split, as_json, debug)


def _import(
    form: Format,
    source: Path,
    images: str | None,
    out: Path | None,
    split: str,
    as_json: bool,
    debug: bool,
    **options: Any,
) -> None:
    prepare(debug)
    from model.atomic import replace_folder
    from tasks.imports import run

    default = settings().root / "data" / "imported" / source.stem
    folder = out or default.with_name(f".{default.name}")
    if out is None:
        shutil.rmtree(folder, ignore_errors=True)
    found = run(form, source, folder, images=images, split=split, **options)
    if out is None:  # the earlier import stays until the new one is whole
        replace_folder(folder, default)
        folder = default
    if as_json:
        answer({**found.as_json(), "folder": str(folder)})
    else:
        _show(found, folder)


def _show(found: Any, folder: Path) -> None:
    counts = found.counts
    kept = f"{counts.sessions_kept} kept ({counts.sessions_shortened} of them shortened)"
    typer.echo(f"{counts.sessions_read} sessions read, {kept}")
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
    """Build the data of a profile with DVC and print its data cards; no checks, push or tracking."""
    prepare(debug)
    from tasks import datasets, parameters

    parameters.load(profile)
    names: tuple[datasets.Name, ...] = ("sessions", "benchmark")
    made = [datasets.build(profile, name, push=False) for name in names]
    if as_json:
        answer({"datasets": [dataset.as_json() for dataset in made]})
        return
    from rich.console import Console
    from rich.markdown import Markdown

    for dataset in made:
        Console().print(Markdown((dataset.folder / "card.md").read_text(encoding="utf-8")))
        typer.echo(f"{dataset.title}: {dataset.rows} sessions, {dataset.digest}, {dataset.folder}")

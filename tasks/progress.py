"""How far a stage is: a bar in the terminal, and a progress artifact on Prefect's page of the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)  # standard output belongs to results
ARTIFACT_SECONDS = 3.0  # between two updates of the artifact: each is a request

Advance = Callable[[float, str], None]


def say(text: str) -> None:
    """One line for the person who waits."""
    console.print(text)


@cache
def say_once(text: str) -> None:
    """The same, once per process: a stage that several flows ask for is named at its first mention."""
    say(text)


def be_quiet() -> None:
    """Show nothing but errors: a machine reads the answer."""
    console.quiet = True


def page(key: str, markdown: str, description: str) -> None:
    """Show a page in Prefect; outside a flow run there is none.

    One that cannot be shown is only said to be missing: what it tells of has happened, and must not pass for failed.

    Args:
        key: of the artifact; lower-case letters, digits and dashes.
        markdown: what the page shows.
        description: what it is.
    """
    if not _in_flow():
        return
    from prefect.artifacts import create_markdown_artifact

    try:
        create_markdown_artifact(key=key, markdown=markdown, description=description)
    except Exception as error:
        say(f"[yellow]no page[/yellow] {key} in Prefect: {error}")


@contextmanager
def shown(title: str, key: str) -> Iterator[Advance]:
    """Show the progress of one stage.

    Args:
        title: what the terminal shows.
        key: of the Prefect artifact; lower-case letters, digits and dashes.

    Yields:
        A function of the share done (0 to 1) and a short text.
    """
    artifact = _Artifact(key, title)
    started = time.monotonic()
    with _bar(title) as bar:

        def advance(share: float, text: str = "") -> None:
            share = min(1.0, max(0.0, share))
            bar(share, text)
            artifact.update(share)

        yield advance
        advance(1.0)
        artifact.update(1.0, force=True)
    say(f"[green]done[/green] {title} [dim]{time.monotonic() - started:.1f} s[/dim]")


@contextmanager
def _bar(title: str) -> Iterator[Advance]:
    if console.quiet or not console.is_terminal:
        yield lambda share, text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[text]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=1.0, text="")
        yield lambda share, text: progress.update(task, completed=share, text=text)


class _Artifact:
    """Prefect's progress artifact of the flow run at hand; outside one it does nothing."""

    def __init__(self, key: str, title: str) -> None:
        self._id: Any = None
        self._last = time.monotonic()
        if _in_flow():
            from prefect.artifacts import create_progress_artifact

            with suppress(Exception):  # a page that cannot be painted must not stop a training
                self._id = create_progress_artifact(progress=0.0, key=key, description=title)

    def update(self, share: float, force: bool = False) -> None:
        if self._id is None or (not force and time.monotonic() - self._last < ARTIFACT_SECONDS):
            return
        from prefect.artifacts import update_progress_artifact

        self._last = time.monotonic()
        with suppress(Exception):
            update_progress_artifact(self._id, progress=share * 100)


def _in_flow() -> bool:
    """Whether a flow run is under way; without one prefect is not even imported."""
    if "prefect" not in sys.modules:
        return False
    from prefect.runtime import flow_run

    return flow_run.id is not None

"""What the doctor does about runs: closes those that died here, names those that nobody seems to be at elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from data.errors import UserError
from mlflow_config.settings import Stage, Tag
from tasks.books import Books
from tasks.complaints import Complaint
from tasks.doctor_services import close_flow_run
from tasks.locks import same_place
from tasks.settings import settings
from tasks.tracking import found_dead, lock_of, made_here

if TYPE_CHECKING:
    from mlflow.entities import Run


def dead_runs(books: Books, repair: bool) -> Iterator[Complaint]:
    """Runs that MLflow shows as running and no process is at: a live one holds the lock of its working folder."""
    client = books.registry.client
    for experiment in books.registry.experiments():
        for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            if not made_here(run):
                continue
            host = run.data.tags.get(Tag.HOST)
            if host is not None and not same_place(host, books.state):  # its locks lie there, where its doctor looks
                yield from _of_another_place(run)
                continue
            with found_dead(run, client, books.state / "runs") as dead:
                if dead and repair:
                    _close(books, run, "its process died without a word")
            if dead:
                problem = f"{run.info.run_name} is shown as running, but its process is gone"
                yield Complaint("run", run.info.run_id[:12], problem, "Run `edit-r2 doctor --repair`", repair)


def _of_another_place(run: Run) -> Iterator[Complaint]:
    """A stage that another machine has under way, for longer than anybody waits for it."""
    begun = run.data.tags.get(Tag.BEGUN, "")
    seconds = time.time() - (int(begun) if begun.isdecimal() else run.info.start_time / 1000)
    if run.data.tags[Tag.STAGE] in set(Stage) and seconds > settings().stage_timeout:
        problem = f"{run.info.run_name} has been running on another machine for {seconds / 3600:.0f} hours"
        remedy = "Start a worker with that machine's EDIT_R2_HOME; if it is gone for good, close its run: "
        yield Complaint("run", run.info.run_id[:12], problem, f"{remedy}`edit-r2 doctor --gone {run.info.run_id}`")


def _close(books: Books, run: Run, why: str) -> None:
    """Close a run that nobody is at, and its flow run."""
    client = books.registry.client
    client.set_tag(run.info.run_id, str(Tag.FAILURE), why)
    client.set_terminated(run.info.run_id, "KILLED")
    if settings().prefect_api_url:  # elsewhere the server that knew the flow run is gone
        close_flow_run(run.data.tags.get(Tag.FLOW_RUN))


def give_up(books: Books, run_id: str) -> None:
    """Close a run whose machine does not come back; nothing here can see that, so a person says so.

    Raises:
        Busy: a process of this machine is at it.
        UserError: it is no run of this project, or it is not running.
    """
    run = books.registry.run(run_id)
    if not made_here(run) or run.info.status != "RUNNING":
        raise UserError(f"run {run_id} is none that is under way", "See `edit-r2 doctor`")
    with lock_of(run, books.state / "runs"):  # of a run elsewhere it says nothing, and does no harm
        _close(books, run, "its machine is gone, said a person")

"""What every command needs around its work: the environment, a Prefect API, quiet libraries, and honest exit codes."""

from __future__ import annotations

import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from data.errors import UserError
from tasks.failures import explain
from tasks.settings import prepare

INTERRUPTED = 130  # what shells expect after Ctrl-C


@contextmanager
def workspace(debug: bool, quiet: bool, profile: str | None = None) -> Iterator[Callable[[], None]]:
    """Set up a command that runs flows.

    Args:
        debug: show the logs of the libraries.
        quiet: show no progress.
        profile: checked before anything starts.

    Yields:
        A function to call once the flows are imported: it returns when Prefect answers.
    """
    chosen = prepare(debug)
    if profile is not None:
        from tasks.parameters import load

        load(profile)
    from tasks.prefect_server import prefect_session
    from tasks.progress import be_quiet
    from tasks.services import require_reachable

    require_reachable(chosen)
    if quiet:
        be_quiet()
    if not debug:
        hush()
    with prefect_session() as ready:
        yield ready


def hush() -> None:
    """Keep the libraries' warnings and logs from users; Prefect's own pages still get its logs."""
    warnings.filterwarnings("ignore")
    for name in ("mlflow", "alembic", "great_expectations", "transformers", "diffusers", "dvc", "urllib3", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def answer(result: dict[str, Any]) -> None:
    """Print an answer for machines."""
    sys.stdout.write(json.dumps(result, indent=1, default=str) + "\n")


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command line and return its exit code; an error becomes one line with its remedy.

    0 done, 1 defect of this program, 2 bad input or state, 3 refused by the gates, 4 a service does not answer,
    5 and 6 as provenance defines them (`tasks.ledger`), 130 interrupted.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return INTERRUPTED
    except Exception as error:
        return _report(explain(error))


def _report(error: UserError) -> int:
    if "--debug" in sys.argv:
        traceback.print_exc()
    if "--json" in sys.argv:
        said = {"problem": error.problem, "remedy": error.remedy, "exit_code": error.exit_code}
        answer({"error": said})
    else:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return error.exit_code

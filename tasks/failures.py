"""What went wrong, in words for users: foreign errors become one line with a remedy; only some deserve a retry."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from data.errors import UserError
from tasks.redaction import without_login


class ServiceError(UserError):
    """A server or store that does not answer."""

    exit_code = 4


class Refused(UserError):
    """The gates refused a candidate, where promotion was what the command was for."""

    exit_code = 3


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it, the outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def transient(error: BaseException) -> bool:
    """Whether trying again may help: a network or a store had a bad moment. Never a bug, never bad input."""
    if isinstance(error, UserError):
        return isinstance(error, ServiceError)
    return any(_connection(cause) or _busy(cause) for cause in causes(error))


def explain(error: BaseException) -> UserError:
    """A user's view of any error.

    A UserError in the chain is shown as it is; a full disk, a lost connection and a refused login have their own words;
    anything else is a defect of this program and says so.
    """
    for cause in causes(error):
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return UserError("the disk is full", "Free some space (`edit-r2 status` shows where state lies), run again")
        if isinstance(cause, PermissionError):
            return UserError(f"no permission for {cause.filename}", "Change its owner or set EDIT_R2_HOME elsewhere")
    if any(_connection(cause) for cause in causes(error)):
        return ServiceError(
            f"a service cannot be reached: {_line(error)}",
            "Start it (`edit-r2 up`) or unset MLFLOW_TRACKING_URI, PREFECT_API_URL and EDIT_R2_S3_ENDPOINT",
        )
    unexpected = UserError(f"unexpected {type(error).__name__}: {_line(error)}", "Run again with --debug for the trace")
    unexpected.exit_code = 1
    return unexpected


def _connection(error: BaseException) -> bool:
    """Connection errors of the standard library and, by name so that nothing is imported, of the HTTP libraries."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    names = {"ConnectError", "ConnectTimeout", "ReadTimeout", "EndpointConnectionError", "MaxRetryError"}
    # MLflow tells what went wrong with a download in its text alone.
    texts = ("Max retries exceeded", "Could not connect to the endpoint URL")
    return type(error).__name__ in names or any(text in str(error) for text in texts)


def _busy(error: BaseException) -> bool:
    """A server's own trouble (5xx, or MLflow's name for it) or a locked sqlite file."""
    status: Any = getattr(getattr(error, "response", None), "status_code", None)
    named = getattr(error, "error_code", None) in ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED")
    return named or (isinstance(status, int) and status >= 500) or "database is locked" in str(error)


def _line(error: BaseException) -> str:
    text = without_login(" ".join(str(error).split()))
    return text if len(text) <= 200 else f"{text[:197]}..."

from __future__ import annotations

import errno

import pytest

from data.errors import UserError
from tasks.failures import ServiceError, explain, transient


def caused(outer, inner):
    try:
        try:
            raise inner
        except type(inner):
            raise outer from inner
    except type(outer) as error:
        return error


class ConnectError(Exception):
    """Named as the HTTP libraries name theirs."""


class Named(Exception):
    """As MLflow names a server's trouble."""

    error_code = "TEMPORARILY_UNAVAILABLE"


def test_a_user_error_in_the_chain_is_what_users_see():
    found = explain(caused(RuntimeError("task failed"), UserError("no file", "Make one")))
    assert (found.problem, found.remedy, found.exit_code) == ("no file", "Make one", 2)


def test_a_full_disk_has_its_own_words():
    assert "disk is full" in str(explain(OSError(errno.ENOSPC, "No space left on device")))


def test_a_lost_service_names_the_way_out():
    found = explain(caused(RuntimeError("API request failed"), ConnectError("refused")))
    assert found.exit_code == 4 and "edit-r2 up" in found.remedy


def test_a_defect_says_so_in_one_line():
    found = explain(ValueError("first\n   second " + "x" * 500))
    assert found.exit_code == 1 and "--debug" in found.remedy and "\n" not in str(found) and len(str(found)) < 300


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionResetError(), True),
        (ConnectError(), True),
        (RuntimeError("sqlite3.OperationalError: database is locked"), True),
        (RuntimeError("Could not connect to the endpoint URL: http://store"), True),
        (Named("API request failed with error code 503"), True),
        (ServiceError("x", "y"), True),
        (UserError("loss is not finite", "Lower the rate"), False),
        (caused(UserError("no such bucket", "Create it"), ConnectionResetError()), False),
        (ValueError("shape mismatch"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_a_bad_moment_is_tried_again(error, again):
    assert transient(error) is again

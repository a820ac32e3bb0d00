"""Locks between processes: nobody waits without end, and a dead holder holds nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tasks.failures import transient
from tasks.locks import Busy, file_lock

HOLD = "import sys, time; from pathlib import Path; from tasks.locks import file_lock\n"
HOLD += "with file_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "deep" / "lock")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_held_lock_is_waited_for_only_so_long_and_worth_another_try(holder, tmp_path):
    started = time.monotonic()
    with pytest.raises(Busy, match="another process holds lock") as caught, file_lock(tmp_path / "deep" / "lock", 0.2):
        raise AssertionError("two hold one lock")
    assert time.monotonic() - started >= 0.2 and transient(caught.value)


def test_a_killed_holder_and_an_error_give_it_back(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), file_lock(tmp_path / "deep" / "lock", 0):
            raise ZeroDivisionError

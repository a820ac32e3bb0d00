from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks import prefect_server
from tasks.failures import ServiceError
from tasks.settings import EMBEDDED, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    monkeypatch.setenv("EDIT_R2_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_a_configured_server_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a server was started"))
    with prefect_server.prefect_session() as ready:
        ready()
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"


def test_a_server_that_does_not_come_up_names_its_log(monkeypatch):
    real = subprocess.Popen
    dies = [sys.executable, "-c", "raise SystemExit('no database')"]
    monkeypatch.setattr(subprocess, "Popen", lambda _command, **options: real(dies, **options))
    with pytest.raises(ServiceError, match=r"prefect-embedded\.log"), prefect_server.prefect_session() as ready:
        ready()
    assert "PREFECT_API_URL" not in os.environ
    assert "no database" in (settings().state / "logs" / "prefect-embedded.log").read_text()


def test_child_processes_are_told_that_the_server_ends_with_the_command(monkeypatch):
    real, asleep = subprocess.Popen, [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(subprocess, "Popen", lambda _command, **options: real(asleep, **options))
    with prefect_server.prefect_session():
        assert os.environ[EMBEDDED] == os.environ["PREFECT_API_URL"]
    assert EMBEDDED not in os.environ


def test_nothing_answers_on_a_closed_port():
    assert not prefect_server.answers("http://127.0.0.1:1/health", timeout=0.5)


@pytest.mark.services
def test_the_server_ends_with_the_command_even_when_that_is_killed(tmp_path):
    script = (
        "from tasks.settings import prepare; prepare()\n"
        "import os, time\n"
        "from tasks.prefect_server import prefect_session\n"
        "with prefect_session() as ready:\n"
        "    ready()\n"
        "    print(os.environ['PREFECT_API_URL'], flush=True)\n"
        "    time.sleep(300)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    url = process.stdout.readline().decode().strip()
    assert prefect_server.answers(f"{url}/health")
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 15
    while prefect_server.answers(f"{url}/health") and time.monotonic() < until:
        time.sleep(0.5)
    assert not prefect_server.answers(f"{url}/health")

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import deploying, services, tracking, worker
from tasks.failures import ServiceError
from tasks.locks import Busy, file_lock, place
from tasks.report import where_to_look
from tasks.settings import CONSOLE_LEVEL, SERVICES, settings


@pytest.fixture
def bare(tmp_path, monkeypatch):
    monkeypatch.setenv("EDIT_R2_HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def service(pid, created, name="prefect"):
    return {"name": name, "pid": pid, "created": created, "log": "x.log", "url": None}


def write(home, *entries, **addresses):
    (home / SERVICES).write_text(json.dumps({"settings": addresses, "processes": list(entries)}))


def test_nothing_configured_is_reachable(bare):
    services.require_reachable(settings())


def test_a_listening_server_is_reachable_and_a_closed_port_is_not(bare, monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        services.require_reachable(settings())
    with pytest.raises(ServiceError, match=url):
        services.require_reachable(settings())


def test_servers_of_up_that_died_are_named_as_such(bare):
    write(bare, prefect_api_url="http://127.0.0.1:1/api")
    with pytest.raises(ServiceError, match="edit-r2 down"):
        services.require_reachable(settings())


def test_work_pools_need_a_lasting_server(bare, monkeypatch):
    monkeypatch.setenv("EDIT_R2_DISPATCH", "work-pools")
    with pytest.raises(UserError, match="edit-r2 up"):
        services.require_reachable(settings())


def test_only_the_very_process_counts_as_running(bare, sleeper):
    import psutil

    created = psutil.Process(sleeper.pid).create_time()
    write(bare, service(sleeper.pid, created), service(sleeper.pid, created - 500, "mlflow"))
    assert [found.name for found in services.running()] == ["prefect"]


def test_down_ends_what_up_started_and_nothing_else(bare, sleeper):
    import psutil

    write(bare, service(sleeper.pid, psutil.Process(sleeper.pid).create_time()), service(os.getpid(), 0.0, "mlflow"))
    assert [found.name for found in services.down()] == ["prefect"]
    assert sleeper.wait(5) is not None and not (bare / SERVICES).exists()


def test_a_taken_port_is_named(bare, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("EDIT_R2_PREFECT_PORT", str(taken.getsockname()[1]))
        with pytest.raises(UserError, match="EDIT_R2_PREFECT_PORT"):
            services.up()


def test_up_starts_nothing_where_servers_are_configured(bare, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    with pytest.raises(UserError, match="Unset MLFLOW_TRACKING_URI"):
        services.up()


class Starting:
    """Stands in for servers: each start is a process that sleeps; `broken` names one that does not come."""

    def __init__(self, home, monkeypatch):
        self.home, self.processes, self.broken, self.seen = home, {}, "", {}
        monkeypatch.setattr(os, "environ", dict(os.environ))
        monkeypatch.setattr(services, "_start", self.start)
        monkeypatch.setattr(services, "_free", lambda *_: None)
        monkeypatch.setattr(services, "_await", lambda *_: None)
        monkeypatch.setattr(services, "deploy", lambda chosen: self.seen.update(deployed=chosen.prefect_api_url))

    def start(self, name, command, _chosen, _reach, url):
        import psutil

        self.seen[name] = [service.name for service in services.running()]
        if name == self.broken:
            raise ServiceError(f"{name} did not come up", "See its log")
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        self.processes[name] = process
        return services.Service(name, process.pid, psutil.Process(process.pid).create_time(), "x.log", url)

    def alive(self):
        return {name for name, process in self.processes.items() if process.poll() is None}


@pytest.fixture
def starting(bare, monkeypatch):
    made = Starting(bare, monkeypatch)
    yield made
    for process in made.processes.values():
        process.kill()
        process.wait()


def addresses(home):
    return json.loads((home / SERVICES).read_text())["settings"]


def test_what_an_up_has_started_is_written_down_at_once_and_found_by_the_next(starting, bare):
    assert [service.name for service in services.up()] == ["prefect", "mlflow", "worker-cpu", "worker-gpu"]
    assert starting.seen["worker-gpu"] == ["prefect", "mlflow", "worker-cpu"]
    assert starting.seen["deployed"] == addresses(bare)["prefect_api_url"] == "http://127.0.0.1:4200/api"
    first = dict(starting.processes)
    assert len(services.up()) == 4 and starting.processes == first


def test_an_up_that_fails_stops_what_it_started_and_nothing_else(starting, bare):
    services.up()
    starting.processes["worker-gpu"].kill()
    starting.processes["worker-gpu"].wait()
    starting.broken = "worker-gpu"
    with pytest.raises(ServiceError, match="worker-gpu"):
        services.up()
    assert starting.alive() == {"prefect", "mlflow", "worker-cpu"}
    assert addresses(bare)["mlflow_tracking_uri"] == "http://127.0.0.1:5000"
    services.down()
    assert starting.alive() == set()
    starting.broken = "worker-cpu"
    with pytest.raises(ServiceError, match="worker-cpu"):
        services.up()
    assert starting.alive() == set() and not (bare / SERVICES).exists()


def test_one_up_at_a_time(starting, bare, monkeypatch):
    monkeypatch.setattr(services, "START_SECONDS", 0.1)
    with file_lock(bare / "locks" / "services.lock"):
        for command in (services.up, services.down):
            with pytest.raises(Busy):
                command()
    assert starting.processes == {}


def prefect_that_answers(monkeypatch, pools, status=404):
    """A Prefect server that holds some work pools; what its command line is asked to do."""
    import httpx

    asked = []

    def answer(request):
        return httpx.Response(200 if request.url.path.rsplit("/", 1)[1] in pools else status, json={})

    def run(line, env, **_more):
        asked.append((line[3:], {name: env.get(name) for name in ("EDIT_R2_GPU_POOL", "PREFECT_API_URL")}))
        return subprocess.CompletedProcess(line, 0)

    made = deploying.prefect_api
    monkeypatch.setattr(deploying, "prefect_api", lambda *of: made(*of, httpx.MockTransport(answer)))
    monkeypatch.setattr(deploying.subprocess, "run", run)
    return asked


def test_deploying_makes_only_missing_pools_and_registers_everything(bare, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://ada:secret@prefect.example/api")
    monkeypatch.setenv("EDIT_R2_GPU_POOL", "gpus")
    settings.cache_clear()
    asked = prefect_that_answers(monkeypatch, {"cpu"})
    made = deploying.deploy(settings())
    assert [words for words, _ in asked] == [
        ["--no-prompt", "work-pool", "create", "gpus", "--type", "process"],
        ["--no-prompt", "deploy", "--all"],
    ]
    assert asked[1][1] == {"EDIT_R2_GPU_POOL": "gpus", "PREFECT_API_URL": "http://ada:secret@prefect.example/api"}
    assert made.pools == ("gpus",) and made.server == "http://prefect.example/api"
    assert {"retrain", "promote", "doctor", "experiment-variant"} <= set(made.deployments)


def test_deploying_needs_a_server_that_makes_sense(bare, monkeypatch):
    with pytest.raises(UserError, match="no Prefect server is configured"):
        deploying.deploy(settings())
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    settings.cache_clear()
    asked = prefect_that_answers(monkeypatch, (), status=401)
    with pytest.raises(ServiceError, match="gives no sensible answer"):
        deploying.deploy(settings())
    assert asked == []


def test_addresses_are_shown_without_a_login(bare, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:pass@word@127.0.0.1:1")
    settings.cache_clear()
    with pytest.raises(ServiceError, match=r"does not answer at http://127\.0\.0\.1:1") as told:
        services.require_reachable(settings())
    with pytest.raises(UserError, match=r"names http://127\.0\.0\.1:1") as refused:
        services.up()
    shown = [str(told.value), str(refused.value), where_to_look("1", "r")]
    assert not any("ada" in text or "word" in text for text in shown)


def test_a_worker_needs_a_server(bare, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(UserError, match="needs a Prefect server"):
        worker.become_worker(False, None)


def test_a_worker_hands_the_settings_of_its_machine_on(bare, monkeypatch):
    """What it runs are child processes that read nothing but the environment."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.getsockname()[1]}/api")
        monkeypatch.setenv("EDIT_R2_S3_ENDPOINT", "http://store.example")
        monkeypatch.setenv("EDIT_R2_GPU_POOL", "gpus")
        for name in ("DO_NOT_TRACK", CONSOLE_LEVEL):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(bare)
        settings.cache_clear()
        started = {}
        monkeypatch.setattr(worker, "_close_what_died", lambda name: started.update(swept=name))
        monkeypatch.setattr(os, "execv", lambda path, words: started.update(words=words, environment=dict(os.environ)))
        worker.become_worker(True, 1)
    name = f"{place(bare).replace('/', '-')}-gpus"
    assert started["words"][1:] == [
        *("-m", "prefect", "worker", "start", "--pool", "gpus", "--type", "process", "--name", name, "--limit", "1")
    ]
    assert started["swept"] == name
    assert started["environment"]["DO_NOT_TRACK"] == "true" and started["environment"][CONSOLE_LEVEL] == "INFO"
    assert started["environment"]["AWS_ENDPOINT_URL_S3"] == "http://store.example"


def test_a_worker_closes_what_died_on_its_machine_and_nothing_else(home, prefect, sleeper):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    dead_run = tracking.client().create_run(
        tracking.experiment_id("smoke"),
        tags={Tag.HOST: place(home), Tag.STAGE: "train_sft", Tag.FINGERPRINT: "a" * 64},
    )
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with get_client(sync_client=True) as client:

        def running(name, pid):
            run = client.create_flow_run(flow(lambda: None, name="toy"), state=Running())
            client.update_flow_run_labels(run.id, {"prefect.worker.name": name})
            client.update_flow_run(run.id, infrastructure_pid=str(pid))
            return run.id

        died, lives, theirs = (
            running(*of) for of in (("gpu-1", gone.pid), ("gpu-1", sleeper.pid), ("gpu-2", gone.pid))
        )
        worker._close_what_died("gpu-1")
        states = [client.read_flow_run(run).state_name for run in (died, lives, theirs)]
    assert states == ["Crashed", "Running", "Running"]
    assert tracking.client().get_run(dead_run.info.run_id).info.status == "KILLED"


@pytest.mark.services
def test_up_serves_until_down(tmp_path, monkeypatch):
    """The whole round with real servers, on ports of its own."""
    from tasks.prefect_server import answers

    environment = {**os.environ, "EDIT_R2_HOME": str(tmp_path)}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        environment.pop(name, None)
    for name in ("PREFECT", "MLFLOW"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            environment[f"EDIT_R2_{name}_PORT"] = str(probe.getsockname()[1])

    def command(*words):
        line = [sys.executable, "-m", "flows.cli", *words, "--json"]
        root = settings().root
        return json.loads(subprocess.run(line, cwd=root, env=environment, capture_output=True, check=True).stdout)

    found = {entry["name"]: entry for entry in command("up")["services"]}
    try:
        assert set(found) == {"prefect", "mlflow", "worker-cpu", "worker-gpu"}
        assert answers(f"{found['prefect']['url']}/health") and answers(f"{found['mlflow']['url']}/health")
        assert command("status")["mlflow"] == found["mlflow"]["url"]
    finally:
        assert set(command("down")["stopped"]) == set(found)
    time.sleep(0.5)
    assert not answers(f"{found['mlflow']['url']}/health")

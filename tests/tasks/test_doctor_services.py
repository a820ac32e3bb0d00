"""The doctor and the servers: other versions, held slots, and servers that answer nonsense are told."""

from __future__ import annotations

import json
from importlib.metadata import version
from types import SimpleNamespace

import httpx
import pytest

from tasks.doctor_services import ask_services
from tasks.settings import Settings

PREFECT, MLFLOW = version("prefect"), version("mlflow")


class Servers:
    """Both servers: `running` flow runs, one concurrency limit with `held` slots."""

    def __init__(
        self, prefect: str = PREFECT, mlflow: str = MLFLOW, running: int = 0, held: int = 0, limit: str = "gpu:0"
    ) -> None:
        self.prefect, self.mlflow, self.running, self.held, self.limit = prefect, mlflow, running, held, limit
        self.counted: list[dict] = []
        self.credentials: set[str | None] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.credentials.add(request.headers.get("authorization"))
        answers = {
            "/version": lambda: httpx.Response(200, text=self.mlflow),
            "/api/admin/version": lambda: httpx.Response(200, json=self.prefect),
            "/api/flow_runs/count": lambda: self.count(json.loads(request.content)["flow_runs"]),
            "/api/v2/concurrency_limits/filter": lambda: httpx.Response(
                200, json=[{"id": "1", "name": self.limit, "active_slots": self.held}]
            ),
            "/api/v2/concurrency_limits/1": self.free,
        }
        return answers[request.url.path]()

    def count(self, wanted: dict) -> httpx.Response:
        self.counted.append(wanted)
        return httpx.Response(200, json=self.running)

    def free(self) -> httpx.Response:
        self.held = 0
        return httpx.Response(204)


@pytest.fixture
def chosen(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ada:secret")
    return Settings(_env_file=None)


def asked(chosen, servers, repair=False):
    return [complaint.line for complaint in ask_services(chosen, repair, httpx.MockTransport(servers))]


def test_servers_of_our_versions_are_well(chosen):
    servers = Servers()
    assert asked(chosen, servers) == []
    assert "Basic YWRhOnNlY3JldA==" in servers.credentials


def test_other_versions_are_told(chosen):
    lines = asked(chosen, Servers(prefect="2.20.1", mlflow="2.1.0"))
    assert len(lines) == 2 and "the server is 2.1.0" in lines[0] and "2.20.1" in lines[1]


def test_slots_of_dead_runs_are_freed_and_of_live_ones_kept(chosen):
    assert asked(chosen, Servers(running=1, held=1), repair=True) == []
    servers = Servers(held=2)
    assert "2 slots of gpu:0" in asked(chosen, servers)[0] and servers.held == 2
    assert asked(chosen, servers, repair=True)[0].endswith("Mended.")
    assert servers.held == 0 and asked(chosen, servers) == []


def test_slots_of_a_deployment_belong_to_its_own_runs(chosen):
    servers = Servers(running=1, held=1, limit="deployment:d-1")
    assert asked(chosen, servers, repair=True) == []
    assert servers.counted[0]["deployment_id"] == {"any_": ["d-1"]}


def test_a_visit_that_is_a_flow_run_itself_does_not_count_and_keeps_its_own_slot(chosen, monkeypatch):
    from prefect.context import FlowRunContext

    here = SimpleNamespace(flow_run=SimpleNamespace(id="r-1", deployment_id="d-1"))
    monkeypatch.setattr(FlowRunContext, "get", classmethod(lambda _: here))
    assert asked(chosen, Servers(held=1, limit="deployment:d-1"), repair=True) == []
    servers = Servers(held=1)
    assert asked(chosen, servers, repair=True)[0].endswith("Mended.")
    assert servers.counted[0]["id"] == {"not_any_": ["r-1"]}


def test_nonsense_and_silence_are_told(chosen):
    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no", request=request)

    assert len(asked(chosen, silent)) == 3
    assert len(asked(chosen, lambda request: httpx.Response(500, text="oops"))) == 3


def test_without_servers_nothing_is_asked(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    assert asked(Settings(_env_file=None), None) == []

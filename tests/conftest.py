"""Fixtures for every test: no telemetry, no network, nothing written outside a temporary folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.settings import Settings, environment, settings

KEPT = ("PREFECT_", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "OMP_NUM_THREADS")  # decided per test


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The environment block of the project, over a temporary home."""
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "EDIT_R2_S3_BUCKET", "EDIT_R2_S3_ENDPOINT"):
        patch.delenv(name, raising=False)
    patch.setenv("EDIT_R2_HOME", str(home))
    for name, value in environment(Settings()).items():
        if not name.startswith(KEPT):
            patch.setenv(name, value)
    settings.cache_clear()
    yield home
    patch.undo()
    settings.cache_clear()


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised database: it takes two seconds to make and none to copy."""
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def _hurry(connection: Any, _record: Any) -> None:
        if "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous=OFF")  # a test's database need not survive a power cut

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def home(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty installation of its own: state folder, MLflow database, and caches that know no other."""
    from tasks import recording, tracking

    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(mlflow_template, state / "mlflow.db")
    monkeypatch.setenv("EDIT_R2_HOME", str(state))
    uri = f"sqlite:///{state / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow's registry asks for it behind the client's back
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    caches = (settings, recording.client, tracking.experiment_id)
    for cache in caches:
        cache.cache_clear()
    yield state
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """One Prefect server for all tests: it takes some ten seconds to start."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_LEVEL, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):  # noqa: SIM117
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_LEVEL: "CRITICAL"}):
            yield


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy model, for trainings to start from."""
    from tests.model.toys import toy_bundle

    return toy_bundle().save(tmp_path_factory.mktemp("parent") / "model")

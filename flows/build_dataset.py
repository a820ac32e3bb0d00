"""Flow: the sessions to learn from."""

from __future__ import annotations

from prefect import flow

from tasks import building, parameters
from tasks.datasets import Dataset


@flow(name="build-dataset", flow_run_name="build-dataset-{profile}")
def build_dataset(profile: str, parent_run: str | None = None) -> Dataset:
    """Render the sessions of a profile, check them against the expectations, and push them to the remote."""
    return building.build(parameters.load(profile), "sessions", parent_run)

"""Flow: the sessions to be judged on."""

from __future__ import annotations

from prefect import flow

from tasks import building, parameters
from tasks.datasets import Dataset


@flow(name="build-benchmark", flow_run_name="build-benchmark-{profile}")
def build_benchmark(profile: str, parent_run: str | None = None) -> Dataset:
    """Render the benchmark of a profile, check it against the expectations, and push it to the remote."""
    return building.build(parameters.load(profile), "benchmark", parent_run)

"""What the orchestration costs: `python -m benchmarks.orchestration --profile smoke`.

A whole `edit-r2 run` in an empty installation (tracking, lineage, gates and promotion included) against a process that
calls the trainers and the evaluation one after the other on the same data, and nothing else. Prints wall and CPU
seconds of both, what the first has on top, and the wall seconds of the run's stages. Building the data is not counted.
On a machine with other work only the CPU seconds mean something. Most of what comes on top is there once per run: its
share on a long profile is about these seconds over those that its trainers take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from data.errors import UserError


class Cost(NamedTuple):
    """What a command took."""

    wall: float
    cpu: float  # of its processes, and of those that they waited for

    @staticmethod
    def of(command: list[str], home: Path) -> Cost:
        """Run a Python command on an installation."""
        before, started = _cpu_of_children(), time.monotonic()
        environment = {**os.environ, "EDIT_R2_HOME": str(home)}
        subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, check=True)
        return Cost(time.monotonic() - started, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bare(profile: str, folder: Path) -> None:
    """The learning alone, as somebody would script it, on the data that is there."""
    from data.parameters import read_profile
    from model import runtime
    from model.bare import STAGES, Chain
    from tasks.settings import settings

    runtime.prepare()
    for name in ("sessions", "benchmark"):
        (folder / name).symlink_to(settings().root / "data" / name / profile)
    chain = Chain(profile, read_profile(profile, settings().root / "params.yaml"), folder)
    for stage in STAGES:
        chain.do(stage, lambda _step, _metrics: None)


def stages(profile: str, home: Path) -> dict[str, float]:
    """Seconds of each stage's runs, as MLflow has them."""
    from mlflow import MlflowClient

    from mlflow_config.settings import Tag, experiment

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment(profile))
    if found is None:
        raise UserError(f"The run of {profile} has left nothing in {home}", "Look at what it printed")
    result: dict[str, float] = {}
    for run in client.search_runs([found.experiment_id]):
        name = run.data.tags[Tag.STAGE]
        result[name] = round(result.get(name, 0.0) + run.data.metrics.get("system/seconds", 0.0), 1)
    return result


def measure(profile: str, folder: Path) -> tuple[Cost, Cost, dict[str, float]]:
    """The whole run, the bare trainers, and the run's stages; the data is built first, by another installation."""
    home = folder / "home"
    for name in ("dataset", "benchmark"):
        Cost.of(["-m", "flows.cli", f"build-{name}", "--profile", profile], folder / "builder")
    whole = Cost.of(["-m", "flows.cli", "run", "--profile", profile, "--json"], home)
    alone = Cost.of(["-m", "benchmarks.orchestration", "--profile", profile, "--bare", str(folder / "bare")], home)
    return whole, alone, stages(profile, home)


def table(profile: str, whole: Cost, alone: Cost, parts: dict[str, float]) -> str:
    """The figures, in seconds."""
    rows = [("run", *whole), ("bare trainers", *alone), ("on top", whole.wall - alone.wall, whole.cpu - alone.cpu)]
    lines = [f"{profile:<20}{'wall s':>10}{'CPU s':>10}"]
    lines += [f"{name:<20}{wall:>10.1f}{cpu:>10.1f}" for name, wall, cpu in rows]
    lines += [f"{'share on top':<20}{whole.wall / alone.wall - 1:>10.1%}{whole.cpu / alone.cpu - 1:>10.1%}"]
    return "\n".join([*lines, "", *(f"{name:<20}{seconds:>10.1f}" for name, seconds in parts.items())])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bare", type=Path, help="only call the trainers, with results in this folder")
    options = parser.parse_args()
    if options.bare:
        options.bare.mkdir(parents=True)
        bare(options.profile, options.bare)
        return
    with tempfile.TemporaryDirectory() as folder:
        whole, alone, parts = measure(options.profile, Path(folder))
    told = {"profile": options.profile, "run": whole._asdict(), "bare": alone._asdict(), "stages": parts}
    print(json.dumps(told) if options.json else table(options.profile, whole, alone, parts))


if __name__ == "__main__":
    main()

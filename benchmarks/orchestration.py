"""What the orchestration costs: `python -m benchmarks.orchestration --profile smoke`.

Wall time of a whole `edit-r2 run` in an empty installation (tracking, lineage, gates and promotion included) against a
process that calls the trainers and the evaluation one after the other on the same data, and nothing else. Prints both,
the share on top, and the seconds of the run's stages. Building the data is not counted where it lies ready.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data.errors import UserError


def seconds_of(command: list[str], home: Path) -> float:
    """Wall seconds of a Python command."""
    started = time.monotonic()
    environment = {**os.environ, "EDIT_R2_HOME": str(home)}
    subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def bare(profile: str, folder: Path) -> None:
    """The learning alone, as somebody would script it."""
    from data.scenes import world_named
    from model.evaluation import evaluate
    from model.pretrain import train_base
    from model.pretrain_vae import train_vae
    from model.rl import train_rl
    from model.sft import train_sft
    from tasks import parameters
    from tasks.settings import settings

    def silent(_step: int, _metrics: dict[str, float]) -> None:
        pass

    chosen, data = parameters.load(profile), settings().root / "data"
    sessions, benchmark = (data / name / profile for name in ("sessions", "benchmark"))
    if chosen.model.checkpoint:
        base = settings().root / chosen.model.checkpoint
    else:
        world = world_named(str(chosen.sessions["world"]))
        latents = train_vae(chosen.vae, world, folder / "vae", silent)
        base = train_base(chosen.base, chosen.model, latents, world, folder / "base", silent)
    sft = train_sft(chosen.sft, base, sessions, folder / "sft", silent)
    rl = train_rl(chosen.rl, sft, sessions, folder / "rl", silent)
    for name, model in (("base", base), ("sft", sft), ("rl", rl)):
        evaluate(chosen.evaluation, model, benchmark, folder / f"scores-{name}", silent)


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


def report(profile: str, folder: Path) -> dict[str, Any]:
    """The figures of one profile; the data is built first, by a run of its own stage."""
    home = folder / "home"
    for name in ("dataset", "benchmark"):
        seconds_of(["-m", "flows.cli", f"build-{name}", "--profile", profile], folder / "builder")
    whole = seconds_of(["-m", "flows.cli", "run", "--profile", profile, "--json"], home)
    alone = seconds_of(["-m", "benchmarks.orchestration", "--profile", profile, "--bare", str(folder / "bare")], home)
    on_top = {"seconds": round(whole, 1), "bare_seconds": round(alone, 1), "share_on_top": round(whole / alone - 1, 3)}
    return {"profile": profile, **on_top, "stages": stages(profile, home)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--bare", type=Path, help="only call the trainers, with results in this folder")
    options = parser.parse_args()
    if options.bare:
        options.bare.mkdir(parents=True)
        bare(options.profile, options.bare)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(report(options.profile, Path(folder))))


if __name__ == "__main__":
    main()

"""All stages of a profile by one process, without Prefect, MLflow or DVC: `python -m model.bare PROFILE FOLDER`.

For a bare GPU machine. Latents and base (or the checkpoint that the profile names), sessions and benchmark, SFT, RL and
their evaluations, each in a folder of its own. What is finished is not done again; what was cut off goes on. `--until
base` stops early. Numbers go to `<FOLDER>/metrics.jsonl`, what every stage took, all attempts together, and scored to
`<FOLDER>/stages.json`; a kill -9 takes the seconds of its attempt with it.
Nothing is signed, compared or promoted here: that is for the flows. `edit-r2 experiment bare FOLDER` writes the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.build import CONFIGS, build
from data.errors import UserError
from data.parameters import read_profile, section
from data.scenes import world_named
from model import runtime
from model.atomic import write_atomically
from model.config import EvaluationConfig, ModelConfig, RlConfig, SupervisedConfig, VaeConfig
from model.evaluation import evaluate
from model.pretrain import train_base
from model.pretrain_vae import train_vae
from model.rl import train_rl
from model.sft import train_sft
from model.trainer import Report

STAGES = ("vae", "base", "sessions", "benchmark", "evaluate-base", "sft", "evaluate-sft", "rl", "evaluate-rl")


class Chain:
    """The stages of a profile in one folder."""

    def __init__(self, name: str, profile: dict[str, Any], folder: Path) -> None:
        self.name, self.profile, self.folder = name, profile, folder
        self.model, vae = section(profile, "model", ModelConfig), section(profile, "vae", VaeConfig)
        self.vae = dataclasses.replace(vae, checkpoint=self.model.start or vae.checkpoint)
        self.world = world_named(profile["sessions"]["world"])

    def do(self, stage: str, report: Report) -> Path:
        """Do one stage, or find it done."""
        if stage in CONFIGS:
            out = self.folder / stage
            return out if out.exists() else build(section(self.profile, stage, CONFIGS[stage]), out, stage)
        if stage.startswith("evaluate-"):
            of = stage.removeprefix("evaluate-")
            model = self._base() if of == "base" else self.folder / of
            config = section(self.profile, "evaluation", EvaluationConfig)
            return evaluate(config, model, self.folder / "benchmark", self.folder / stage, report)
        return self._train(stage, report)

    def _train(self, stage: str, report: Report) -> Path:
        sessions, folder = self.folder / "sessions", self.folder / stage
        match stage:
            case "vae" | "base" if self.model.checkpoint:
                return self._base()
            case "vae":
                return train_vae(self.vae, self.world, folder, report)
            case "base":
                config = section(self.profile, stage, SupervisedConfig)
                return train_base(config, self.model, self._train("vae", report), self.world, folder, report)
            case "sft":
                return train_sft(section(self.profile, stage, SupervisedConfig), self._base(), sessions, folder, report)
        return train_rl(section(self.profile, stage, RlConfig), self.folder / "sft", sessions, folder, report)

    def _base(self) -> Path:
        return Path(self.model.checkpoint) if self.model.checkpoint else self.folder / "base"


def run(chain: Chain, stages: tuple[str, ...], show: Callable[[str], None]) -> dict[str, Any]:
    """Do the stages in order; seconds of each over all its attempts, and the summary of each evaluation, which
    `stages.json` holds too."""
    runtime.prepare()
    chain.folder.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    about = {"profile": chain.name, "parameters": chain.profile, "device": device}
    table = chain.folder / "stages.json"
    known = json.loads(table.read_text()) if table.exists() else {"seconds": {}, "scores": {}}
    told: dict[str, Any] = {**known, **about}
    with (chain.folder / "metrics.jsonl").open("a") as metrics:
        for stage in stages:
            started = time.monotonic()

            def report(step: int, values: dict[str, float], stage: str = stage, started: float = started) -> None:
                row = {"stage": stage, "step": step, "seconds": round(time.monotonic() - started, 2), **values}
                metrics.write(json.dumps(row) + "\n")
                metrics.flush()
                if step % 100 == 0:
                    show(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()))

            try:
                done = chain.do(stage, report)
                if stage.startswith("evaluate-"):
                    told["scores"][stage.removeprefix("evaluate-")] = json.loads(done.read_text())["summary"]
            finally:
                before = told["seconds"].get(stage, 0.0)
                told["seconds"][stage] = round(before + time.monotonic() - started, 1)
                write_atomically(table, json.dumps(told, indent=1).encode())
            show(f"{stage}: {told['seconds'][stage]} s")
    return told


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m model.bare", description="All stages of a profile, bare.")
    parser.add_argument("profile")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to do")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    options = parser.parse_args(arguments)
    try:
        chain = Chain(options.profile, read_profile(options.profile, options.params), options.folder)
        run(chain, STAGES[: STAGES.index(options.until) + 1], lambda line: print(line, flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the seconds are written
    raise SystemExit(main())

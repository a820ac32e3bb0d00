"""The training stages: the trainers of `model/` under a fingerprint, with their numbers and models in MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data.errors import UserError
from mlflow_config.settings import Stage, Tag
from model import runtime
from tasks import building, identity, models, progress, tracking
from tasks.datasets import Dataset
from tasks.models import ModelRecord
from tasks.parameters import Parameters, flat
from tasks.settings import settings
from tasks.work import work

Report = Callable[[int, dict[str, float]], None]
Train = Callable[[Path, Report], Path]


@dataclass(frozen=True)
class Plan:
    """One training: what decides its outcome, and the call that does it.

    `train(folder, report)` leaves the finished model in `folder` and returns its path; `sections` are typed parameters.
    """

    stage: Stage
    name: str
    sections: Mapping[str, Any]
    sessions: Dataset | None
    parent: ModelRecord | None
    train: Train

    def spec(self, profile: str, parent_run: str | None, label: str | None = None) -> tracking.Spec:
        """Identity of the run; `label` is shown only."""
        print_ = identity.fingerprint(
            self.stage,
            self.sections,
            datasets={self.sessions.title: self.sessions.digest} if self.sessions else {},
            parent=self.parent.digest if self.parent else None,
        )
        return tracking.Spec(self.stage, profile, print_, parent_run, label)


@work("pretrain base")
def pretrain_base(parameters: Parameters, parent_run: str | None = None) -> ModelRecord:
    """Latent space, then the base model, on scenes rendered as they are needed; or a ready model."""
    return _run(base_plan(parameters), parameters.profile, parent_run)


@work("train sft")
def train_sft(
    parameters: Parameters,
    sessions: Dataset,
    base: ModelRecord,
    parent_run: str | None = None,
    label: str | None = None,
) -> ModelRecord:
    """Whole sessions, from the base model. `label` tells runs of one stage apart where they are shown."""
    return _run(sft_plan(parameters, sessions, base), parameters.profile, parent_run, label)


@work("train rl")
def train_rl(
    parameters: Parameters,
    sessions: Dataset,
    sft: ModelRecord,
    parent_run: str | None = None,
    label: str | None = None,
) -> ModelRecord:
    """Multi-turn RL on traces and pictures, from the SFT model. `label` as in `train_sft`."""
    return _run(rl_plan(parameters, sessions, sft), parameters.profile, parent_run, label)


def base_plan(parameters: Parameters) -> Plan:
    """Pre-training: the autoencoder first, then the transformer on its latents; or the ready model that is named."""
    if parameters.model.checkpoint:
        return _ready_plan(parameters.model.checkpoint)
    world = str(parameters.sessions["world"])
    begun = {
        "model.start": parameters.model.start,
        "vae.start": parameters.vae.start,
        "vae.checkpoint": parameters.vae.checkpoint,
    }
    found = {key: _model_at(folder, key) for key, folder in begun.items() if folder}
    here = {key: str(folder) for key, folder in found.items()}
    model = replace(parameters.model, start=here.get("model.start"))
    ready = here.get("model.start") or here.get("vae.checkpoint")
    vae = replace(parameters.vae, start=here.get("vae.start"), checkpoint=ready)
    base = parameters.base
    steps = 0 if ready else vae.optimisation.steps
    share = steps / (steps + base.optimisation.steps)

    def train(folder: Path, report: Report) -> Path:
        from data.scenes import world_named
        from model.pretrain import train_base
        from model.pretrain_vae import train_vae

        latents = train_vae(vae, world_named(world), folder.with_name("vae"), part(report, "vae", 0.0, share))
        return train_base(base, model, latents, world_named(world), folder, part(report, "base", share, 1.0))

    sections = {"world": {"name": world}, "vae": parameters.vae, "model": parameters.model, "base": base}
    if found:
        sections["start"] = {str(begun[key]): models.digest(folder) for key, folder in found.items()}
    return Plan(Stage.PRETRAIN_BASE, "base", sections, None, None, train)


def _ready_plan(checkpoint: str) -> Plan:
    """Take a model folder as it is: it becomes the base under its own digest, as if it had been trained here."""
    source = _model_at(checkpoint, "model.checkpoint")

    def take(folder: Path, report: Report) -> Path:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        report(0, {"progress": 1.0})
        return folder

    sections = {"model": {"checkpoint": checkpoint, "digest": models.digest(source)}}
    return Plan(Stage.PRETRAIN_BASE, "base", sections, None, None, take)


def _model_at(folder: str, key: str) -> Path:
    """The folder of a model, or of an autoencoder alone, that a key of the profile names."""
    source = settings().root / folder
    wanted, what = ("vae/config.json", "autoencoder") if key.startswith("vae.") else ("config.json", "model")
    if not (source / wanted).is_file():
        raise UserError(f"{source} holds no {what}", f"Correct {key} in params.yaml, or set it to null")
    return source


def sft_plan(parameters: Parameters, sessions: Dataset, base: ModelRecord) -> Plan:
    """Supervised fine-tuning."""
    train = _tuning("sft", parameters.sft, sessions, base)
    return Plan(Stage.TRAIN_SFT, "sft", {"sft": parameters.sft}, sessions, base, train)


def rl_plan(parameters: Parameters, sessions: Dataset, sft: ModelRecord) -> Plan:
    """Reinforcement learning."""
    train = _tuning("rl", parameters.rl, sessions, sft)
    return Plan(Stage.TRAIN_RL, "rl", {"rl": parameters.rl}, sessions, sft, train)


def _tuning(name: Literal["sft", "rl"], config: Any, sessions: Dataset, parent: ModelRecord) -> Train:
    """The trainer of a stage, in this process or, where the settings ask for several, by `torchrun`."""

    def train(folder: Path, report: Report) -> Path:
        places = (models.fetch(parent.model_id, parent.digest), sessions.folder, folder)
        if settings().processes > 1:
            from tasks import launch

            return launch.train(name, config, *places, report, settings().processes)
        from model import rl, sft

        return (sft.train_sft if name == "sft" else rl.train_rl)(config, *places, report)

    return train


def part(report: Report, prefix: str, begin: float, end: float) -> Report:
    """A report of one phase: names get its prefix, its progress becomes a part of the whole."""

    def of_part(step: int, metrics: dict[str, float]) -> None:
        share = begin + (end - begin) * metrics.get("progress", 0.0)
        named = {name if "/" in name else f"{prefix}/{name}": v for name, v in metrics.items() if name != "progress"}
        report(step, {**named, "progress": share})

    return of_part


def finished(plan: Plan, profile: str) -> ModelRecord:
    """The model that a plan has led to. Raises UserError when it has not been carried out yet."""
    spec = plan.spec(profile, None)
    for run in tracking.find(profile, spec.stage, spec.fingerprint):
        if found := tracking.result(run):
            return ModelRecord(**found)
    command = f"edit-r2 {plan.stage.replace('_', '-')} --profile {profile}"
    raise UserError(f"there is no {plan.name} model of profile {profile} as it stands now", f"Run `{command}` first")


def finished_sft(parameters: Parameters, sessions: Dataset) -> ModelRecord:
    """The profile's own SFT model. Raises UserError when it, or its base, has not been trained yet."""
    base = finished(base_plan(parameters), parameters.profile)
    return finished(sft_plan(parameters, sessions, base), parameters.profile)


def _run(plan: Plan, profile: str, parent_run: str | None, label: str | None = None) -> ModelRecord:
    with tracking.stage(plan.spec(profile, parent_run, label), lambda found: models.verify(found["model_id"])) as run:
        if run.reused:
            progress.say_once(f"[cyan]same[/cyan] {run.spec.name}, nothing changed: model {run.result['model_id']}")
            return ModelRecord(**run.result)
        _describe(run, plan)
        key = f"{plan.stage.replace('_', '-')}-{profile}"
        runtime.prepare()
        with progress.shown(f"{run.spec.name} {profile}", key) as advance:
            folder = plan.train(run.folder / "model", _reporter(run, advance))
        run.flush()
        made = models.log(run, folder, plan.name, plan.parent.model_id if plan.parent else None, _flat(plan))
        _attest(made, folder, plan)
        run.finish(asdict(made))
    models.adopt(folder, made.digest)
    shutil.rmtree(run.folder, ignore_errors=True)  # checkpoints; the model itself is stored and cached
    return made


def _describe(run: tracking.ActiveRun, plan: Plan) -> None:
    run.params(_flat(plan))
    if plan.sessions:
        building.record_input(run, plan.sessions, "training")
    if plan.parent:
        run.model_input(plan.parent.model_id)


def _attest(made: ModelRecord, folder: Path, plan: Plan) -> None:
    """Sign where the model comes from, while the run that made it is still open."""
    from tasks.attestation import attest
    from tasks.books import open_books

    attest(open_books(), made, folder, plan.sections, settings().root)


def _flat(plan: Plan) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, section in plan.sections.items() for key, value in flat(section).items()}


def _reporter(run: tracking.ActiveRun, advance: progress.Advance) -> Report:
    """Send a trainer's numbers to MLflow and its progress to whoever waits."""

    sent: set[str] = set()
    alerted: list[int] = []

    def report(step: int, metrics: dict[str, float]) -> None:
        values = {name: value for name, value in metrics.items() if name != "progress"}
        run.report(step, values)
        if metrics.get("rl/alert") and not alerted:
            alerted.append(step)
            run.tag({Tag.ALERT: f"step {step}: the reward rises while the held-out score falls"})
        for path in sorted((run.folder / "model.samples").glob("*.png")):
            if path.name not in sent:
                sent.add(path.name)
                run.artifact(path, "samples")
        shown = next(
            (f"{name} {value:.4g}" for name, value in values.items() if "loss" in name or "reward" in name), ""
        )
        advance(metrics.get("progress", 0.0), shown)

    return report

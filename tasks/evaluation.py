"""Evaluation as a stage: the score sheet of one model on one benchmark, tied to both in MLflow, with its pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.errors import UserError
from mlflow_config.settings import Stage, Tag
from model.atomic import replace_folder, write_atomically
from tasks import building, identity, models, progress, tracking, witness
from tasks.books import Books, open_books
from tasks.canonical import sha256
from tasks.datasets import Dataset
from tasks.models import ModelRecord
from tasks.parameters import Parameters, flat
from tasks.scores import Scores, read_scores
from tasks.settings import settings
from tasks.signing import SignatureError
from tasks.work import work


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model. `digest` is the SHA-256 of scores.json, which lies in the run's artifacts, and `note` that of
    what was signed about it (`tasks.witness`)."""

    name: str
    model_id: str
    run_id: str
    digest: str
    note: str

    def scores(self) -> dict[str, Any]:
        """The score sheet, from the cache or the run's artifacts."""
        sheet: dict[str, Any] = json.loads(self.path().read_text())
        return sheet

    def proven(self, books: Books, model: str, benchmark: str) -> Scores:
        """The scores that the gates may go by: those that were signed for a model on a benchmark, by their digests.

        Raises:
            UserError: nobody signed for them, or for others.
        """
        sheet = self.path()
        try:
            witness.check(books, self.note, sheet.read_bytes(), witness.scores_of(model, benchmark))
        except SignatureError as error:
            problem = f"the scores of model {self.model_id} in run {self.run_id[:8]} do not hold: {error}"
            raise UserError(problem, "Find out who changed them; `edit-r2 evaluate` scores the model again") from error
        return read_scores(sheet)

    def path(self) -> Path:
        """scores.json on this disk; `strips/` lies beside it when the evaluation drew any."""
        folder = _cached(self.digest)
        if not self._holds(folder / "scores.json"):
            with TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as place:
                got = tracking.client().download_artifacts(self.run_id, "evaluation", place)
                replace_folder(Path(got), folder)
        return folder / "scores.json"

    def is_stored(self) -> bool:
        """Whether the score sheet is in the cache or among the run's artifacts."""
        if self._holds(_cached(self.digest) / "scores.json"):
            return True
        listed = tracking.client().list_artifacts(self.run_id, "evaluation")
        return any(file.path == "evaluation/scores.json" for file in listed)

    def _holds(self, sheet: Path) -> bool:
        return sheet.exists() and sha256(sheet.read_bytes()) == self.digest


def spec(
    parameters: Parameters,
    benchmark: Dataset,
    model: ModelRecord,
    parent_run: str | None = None,
    label: str | None = None,
) -> tracking.Spec:
    """Identity of an evaluation: sampling and judge, benchmark, model; `label` is shown only."""
    print_ = identity.fingerprint(
        Stage.EVALUATE, parameters.evaluation, datasets={benchmark.title: benchmark.digest}, parent=model.digest
    )
    tags = {str(Tag.MODEL): model.model_id, str(Tag.MODEL_NAME): model.name}
    return tracking.Spec(Stage.EVALUATE, parameters.profile, print_, parent_run, label or model.name, tags)


@work("evaluate")
def evaluate(
    parameters: Parameters,
    benchmark: Dataset,
    model: ModelRecord,
    parent_run: str | None = None,
    label: str | None = None,
) -> Evaluation:
    """Free-running edits over every turn of the benchmark, judged. `label` tells evaluations apart where shown."""
    books = open_books()
    about = witness.scores_of(model.digest, benchmark.digest)
    holds = partial(_holds, books, about)
    with tracking.stage(spec(parameters, benchmark, model, parent_run, label), holds) as run:
        if run.reused:
            progress.say_once(f"[cyan]same[/cyan] {run.spec.name}, nothing changed")
            return Evaluation(**run.result)
        run.params(flat(parameters.evaluation))
        building.record_input(run, benchmark, "evaluation")
        run.model_input(model.model_id)
        path = _evaluate(run, parameters, benchmark, model)
        shown = {"model_id": model.model_id, "dataset_name": benchmark.title, "dataset_digest": benchmark.digest}
        run.report(0, dict(summary_metrics(json.loads(path.read_text())["summary"])), **shown)
        run.artifact(path.parent, "evaluation")
        log_strips(run, path.parent)
        sheet = path.read_bytes()
        note = witness.witness(books, sheet, about)
        result = Evaluation(model.name, model.model_id, run.run_id, sha256(sheet), note)
        run.finish(asdict(result))
    _keep(path.parent, result.digest)
    shutil.rmtree(run.folder, ignore_errors=True)
    return result


def _evaluate(run: tracking.ActiveRun, parameters: Parameters, benchmark: Dataset, model: ModelRecord) -> Path:
    from model import runtime
    from model.evaluation import evaluate as judge

    runtime.prepare()
    with progress.shown(run.spec.name, f"evaluate-{model.name}-{parameters.profile}") as advance:

        def report(_step: int, metrics: dict[str, float]) -> None:
            advance(metrics.get("progress", 0.0), "")

        target = run.folder / "scores"
        path = judge(parameters.evaluation, models.fetch(model.model_id), benchmark.folder, target, report)
    sheet = json.loads(path.read_text())
    sheet |= {
        "profile": parameters.profile,
        "model_digest": model.digest,
        "benchmark": {"name": benchmark.title, "digest": benchmark.digest},
    }
    write_atomically(path, json.dumps(sheet, indent=1, sort_keys=True).encode())
    return path


def summary_metrics(summary: dict[str, Any], prefix: str = "evaluation") -> Iterator[tuple[str, float]]:
    """Flatten a summary: every cell {"mean", "n"} becomes `<path>` (left out when absent) and `<path>/n`."""
    for name, cell in summary.items():
        path = f"{prefix}/{name}"
        if not isinstance(cell, dict):
            continue
        if set(cell) == {"mean", "n"}:
            if cell["mean"] is not None:
                yield path, float(cell["mean"])
            yield f"{path}/n", float(cell["n"])
        else:
            yield from summary_metrics(cell, path)


def log_strips(run: tracking.ActiveRun, folder: Path) -> None:
    """One picture per drawn session: in the run's gallery, and in a table beside its captions."""
    if not (folder / "strips.json").exists():
        return
    import mlflow
    from PIL import Image

    captions: dict[str, list[str]] = json.loads((folder / "strips.json").read_text())
    table: dict[str, list[Any]] = {"session": [], "strip": [], "turns": []}
    for session, lines in captions.items():
        with Image.open(folder / "strips" / f"{session}.png") as opened:
            picture = opened.convert("RGB")
        tracking.client().log_image(run.run_id, picture, key=f"session {session}", step=0, synchronous=True)
        table["session"].append(session)
        table["strip"].append(mlflow.Image(picture))
        table["turns"].append("\n".join(lines))
    if captions:
        tracking.client().log_table(run.run_id, table, "strips.json")


def _holds(books: Books, about: dict[str, str], found: dict[str, Any]) -> bool:
    """Whether the stored score sheet is what was signed for; a store that does not answer raises what it raises."""
    try:
        kept = Evaluation(**found)
    except TypeError:
        return False
    return kept.is_stored() and witness.holds(books, kept.note, kept.path().read_bytes(), about)


def _cached(digest: str) -> Path:
    return settings().folder("scores") / digest[:12]


def _keep(folder: Path, digest: str) -> None:
    target = _cached(digest)
    shutil.rmtree(target, ignore_errors=True)
    folder.replace(target)

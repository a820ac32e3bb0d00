"""Evaluation as a stage: the score sheet of one model on one benchmark, tied to both in MLflow, with its pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
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
from tasks.canonical import is_digest, sha256
from tasks.datasets import Dataset
from tasks.models import ModelRecord
from tasks.parameters import Parameters, flat
from tasks.scores import Scores, parse_scores
from tasks.settings import settings
from tasks.signing import SignatureError
from tasks.work import work


class Damaged(UserError):
    """A score sheet that is not the one with its digest."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model. `digest` is the SHA-256 of scores.json, which lies in the run's artifacts, and `note` that of
    what was signed about it (`tasks.witness`)."""

    name: str
    model_id: str
    run_id: str
    digest: str
    note: str

    def __post_init__(self) -> None:
        if not (is_digest(self.digest) and is_digest(self.note)):  # they name files
            raise Damaged(f"the result of evaluation {self.run_id} names no digests", "Evaluate the model again")

    def scores(self) -> dict[str, Any]:
        """The score sheet, from the cache or the run's artifacts."""
        return dict(json.loads(self._bytes()))

    def proven(self, books: Books, spec: tracking.Spec, model: str, benchmark: str) -> Scores:
        """The scores that the gates may go by: those that were signed for this evaluation.

        Args:
            books: hold the note and the trusted keys.
            spec: of the evaluation that it should be.
            model: digest of the model.
            benchmark: digest of the benchmark.

        Raises:
            UserError: nobody signed for them, or for others.
        """
        try:
            self.check(books, witness.scores_of(model, benchmark, spec.fingerprint))
        except SignatureError as error:
            problem = f"the scores of model {self.model_id} in run {self.run_id[:8]} do not hold: {error}"
            raise UserError(problem, "Find out who changed them; `edit-r2 evaluate` scores the model again") from error
        return parse_scores(self._bytes(), "scores.json")

    def check(self, books: Books, about: Mapping[str, str]) -> None:
        """Raises SignatureError unless a trusted key signed that this sheet, by its digest, was found about it."""
        if witness.found_about(books, self.note, about) != self.digest:
            raise SignatureError("another sheet was signed")

    def path(self) -> Path:
        """scores.json on this disk; `strips/` lies beside it when the evaluation drew any.

        Raises:
            Damaged: what the run's artifacts hold is not the sheet with this digest.
        """
        folder = _cached(self.digest)
        if not self._is(folder / "scores.json"):
            with TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as place:
                got = Path(tracking.client().download_artifacts(self.run_id, "evaluation", place))
                if not self._is(got / "scores.json"):
                    raise Damaged(f"the score sheet of run {self.run_id[:8]} was changed", "Evaluate the model again")
                replace_folder(got, folder)
        return folder / "scores.json"

    def _bytes(self) -> bytes:
        """The score sheet, once it is known to be that of the digest."""
        found = self.path().read_bytes()
        if sha256(found) != self.digest:
            raise Damaged(
                f"the score sheet of run {self.run_id[:8]} was changed just now", "Run the same command again"
            )
        return found

    def is_stored(self) -> bool:
        """Whether the score sheet is in the cache or among the run's artifacts."""
        if self._is(_cached(self.digest) / "scores.json"):
            return True
        listed = tracking.client().list_artifacts(self.run_id, "evaluation")
        return any(file.path == "evaluation/scores.json" for file in listed)

    def _is(self, sheet: Path) -> bool:
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
    books, wanted = open_books(), spec(parameters, benchmark, model, parent_run, label)
    about = witness.scores_of(model.digest, benchmark.digest, wanted.fingerprint)
    with tracking.stage(wanted, partial(_holds, books, about)) as run:
        if run.reused:
            progress.say_once(f"[cyan]same[/cyan] {run.spec.name}, nothing changed")
            return Evaluation(**run.result)
        run.params(flat(parameters.evaluation))
        building.record_input(run, benchmark, "evaluation")
        run.model_input(model.model_id)
        path = _evaluate(run, parameters, benchmark, model)
        digest = sha256(path.read_bytes())
        note = witness.witness(books, digest, about)
        shown = {"model_id": model.model_id, "dataset_name": benchmark.title, "dataset_digest": benchmark.digest}
        run.report(0, dict(summary_metrics(json.loads(path.read_text())["summary"])), **shown)
        run.artifact(path.parent, "evaluation")
        log_strips(run, path.parent)  # last: MLflow adds to pictures and tables that are there
        result = Evaluation(model.name, model.model_id, run.run_id, digest, note)
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
        path = judge(
            parameters.evaluation, models.fetch(model.model_id, model.digest), benchmark.folder, target, report
        )
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
    """One picture per drawn session: in the run's gallery, and in a table beside its captions; once for a run."""
    there = tracking.client().list_artifacts(run.run_id)
    if not (folder / "strips.json").exists() or any(file.path == "strips.json" for file in there):
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


def _holds(books: Books, about: Mapping[str, str], found: dict[str, Any]) -> bool:
    """Whether the stored score sheet is what was signed for; a store that does not answer raises what it raises."""
    try:
        kept = Evaluation(**found)
        kept.check(books, about)
        return kept.is_stored() and kept.path().exists()
    except (TypeError, SignatureError, Damaged) as error:
        progress.say_once(f"[yellow]again[/yellow] the scores of run {found.get('run_id')} do not hold: {error}")
        return False


def _cached(digest: str) -> Path:
    return settings().folder("scores") / digest[:12]


def _keep(folder: Path, digest: str) -> None:
    target = _cached(digest)
    shutil.rmtree(target, ignore_errors=True)
    folder.replace(target)

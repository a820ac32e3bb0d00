"""The data stages: DVC builds, expectations judge, the remote keeps; MLflow knows."""

from __future__ import annotations

from typing import Any

from data.errors import UserError
from mlflow_config.settings import Stage, Tag
from tasks import datasets, identity, tracking, witness
from tasks.books import open_books
from tasks.canonical import sha256
from tasks.datasets import Dataset, Name
from tasks.parameters import Parameters
from tasks.settings import settings
from tasks.signing import SignatureError
from tasks.work import work

STAGES: dict[Name, Stage] = {"sessions": Stage.BUILD_DATASET, "benchmark": Stage.BUILD_BENCHMARK}


def spec(parameters: Parameters, name: Name, parent_run: str | None = None) -> tracking.Spec:
    """Identity of a build: its parameters and its code; DVC itself says what bytes they lead to."""
    stage = STAGES[name]
    sections = {"sessions": parameters.sessions}
    if name == "benchmark":  # sessions stay in: the benchmark is checked against their sources
        sections["benchmark"] = parameters.benchmark
    return tracking.Spec(stage, parameters.profile, identity.fingerprint(stage, sections), parent_run)


@work("build data")
def build(parameters: Parameters, name: Name, parent_run: str | None = None) -> Dataset:
    """Build, check and push a data set; with nothing changed, DVC only confirms the files.

    Raises:
        UserError: the build fails, a critical expectation fails (rows named), or the remote does not answer.
    """

    def confirmed(result: dict[str, Any]) -> bool:
        try:
            found = datasets.build(parameters.profile, name, push=False).digest
        except UserError:
            return False  # the run is opened again and fails there, on record
        return found == result.get("digest") and _signed(result.get("note"), found)

    with tracking.stage(spec(parameters, name, parent_run), confirmed) as run:
        if run.reused:
            return datasets.locked(parameters.profile, name)
        dataset = datasets.build(parameters.profile, name, push=False)
        record_input(run, dataset, "build")
        note = _validate(run, dataset)
        datasets.push_dataset(dataset)
        run.report(0, {f"data/{split}_sessions": count for split, count in dataset.splits.items()})
        run.tag({Tag.DATASET: dataset.digest})
        run.finish({"name": dataset.title, "digest": dataset.digest, "sha256": dataset.sha256_manifest, "note": note})
    return dataset


def current(parameters: Parameters, name: Name) -> Dataset:
    """The data set that dvc.lock names; where it does not lie here, or another build does, it is built first."""
    try:
        return datasets.locked(parameters.profile, name)
    except UserError:
        return datasets.build(parameters.profile, name, push=False)


def record_input(run: tracking.ActiveRun, dataset: Dataset, context: str) -> None:
    """Log a data set as input of a run, DVC's hash as its digest."""
    source = {
        "remote": settings().dvc_remote_url,
        "path": f"data/{dataset.name}/{dataset.profile}",
        "stage": f"{dataset.name}@{dataset.profile}",
        "md5": dataset.digest,
    }
    about = {"rows": dataset.rows, "splits": dataset.splits, "sha256": dataset.sha256_manifest}
    run.dataset(dataset.title, dataset.digest, source, context, about)


def _validate(run: tracking.ActiveRun, dataset: Dataset) -> str:
    """Run the expectations, keep their result with the run, stop at a critical failure, and sign.

    Returns:
        SHA-256 of the signed note.
    """
    from tasks import expectations

    report = expectations.validate(dataset)
    run.text(report.as_json(), "validation.json")
    run.text(report.html, "validation.html")
    run.tag({Tag.VALIDATION: "passed" if report.success else "failed"})
    report.raise_for_failure()
    about = witness.expectations_of(dataset.digest)
    return witness.witness(open_books(), sha256(report.as_json().encode()), about)


def _signed(note: object, digest: str) -> bool:
    """Whether a trusted key signed that a data set met its expectations."""
    try:
        witness.found_about(open_books(), note, witness.expectations_of(digest))
    except SignatureError:
        return False
    return True

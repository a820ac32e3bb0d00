"""Statements and evidence from what the stages recorded: the bridge between MLflow runs and the lineage documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import lineage, recording, witness
from tasks.books import Books
from tasks.canonical import canonical, plain, sha256
from tasks.decision import DatasetEvidence, Evidence, RewardTrend
from tasks.models import manifest
from tasks.origin import DatasetOrigin, Origin, ParentOrigin, hardware, libraries
from tasks.redaction import redact
from tasks.registry import STATEMENT_TAG, record_digest
from tasks.signing import SignatureError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from tasks.models import ModelRecord

REWARD_METRIC = "rl/reward"
LOCK, DVC_LOCK = "requirements.lock", "dvc.lock"


def attest(books: Books, made: ModelRecord, folder: Path, sections: Mapping[str, Any], root: Path) -> str:
    """Sign the statement of a model that a stage has just logged, and name it in the model's tags.

    Call it as the last thing before the run ends: the statement covers the run's parameters, metrics and inputs.

    Args:
        books: where the statement is kept, and who signs.
        made: the logged model.
        folder: its files, as they were logged.
        sections: the typed parameters that decided the outcome, by section.
        root: the checkout, for the lock files.

    Returns:
        SHA-256 of the signed statement.
    """
    run = books.registry.run(made.run_id)
    origin = _origin(books, made, run, manifest(folder), _plain(sections), root)
    digest = lineage.attest(origin, books.shelf, books.identity)
    books.registry.client.set_logged_model_tags(made.model_id, {STATEMENT_TAG: digest})
    return digest


def _origin(
    books: Books, made: ModelRecord, run: Run, files: dict[str, str], parameters: dict[str, Any], root: Path
) -> Origin:
    tags = run.data.tags
    return Origin(
        name=made.name,  # type: ignore[arg-type]  # pydantic checks it
        profile=tags[Tag.PROFILE],
        stage=tags[Tag.STAGE],
        fingerprint=tags[Tag.FINGERPRINT],
        model_id=made.model_id,
        model_digest=made.digest,
        files=files,
        parameters=parameters,
        seeds=seeds(parameters),
        commit=tags.get(Tag.COMMIT),
        dirty=tags.get(Tag.DIRTY) != "false",
        lock_digest=_filed(books, root / LOCK),
        dvc_lock_digest=_filed(books, root / DVC_LOCK),
        datasets=tuple(_datasets(books, run)),
        parent=_parent(books, made.parent),
        reward=_reward(parameters),
        run_id=made.run_id,
        parent_run_id=tags.get(Tag.PARENT_RUN),
        run_record=record_digest(books.registry.run_record(made.run_id)),
        flow_run_id=tags.get(Tag.FLOW_RUN),
        deployment=_deployment(),
        hardware=hardware(),
        libraries=libraries(),
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _deployment() -> str | None:
    """Name of the Prefect deployment that this process runs for, None where a person started it."""
    if "prefect" not in sys.modules:  # a process that runs a flow has imported it; for others it costs seconds
        return None
    from prefect.runtime import deployment

    return str(deployment.name) if deployment.name else None


def _reward(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a model trained by RL was rewarded for, and by which judge."""
    if "rl" not in parameters:
        return None
    from model.judges import JUDGE

    return {"parameters": parameters["rl"], "judge": dict(JUDGE)}


def _plain(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON values."""
    found = {name: asdict(value) if is_dataclass(value) else value for name, value in sections.items()}  # type: ignore[arg-type]
    return dict(json.loads(canonical(found, plain)))


def seeds(parameters: Mapping[str, Any], path: str = "") -> dict[str, int]:
    """Every parameter named `seed`, by its dotted path."""
    found: dict[str, int] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            found |= seeds(value, f"{path}{name}.")
        elif name == "seed" and isinstance(value, int):
            found[f"{path}{name}"] = value
    return found


def _filed(books: Books, path: Path) -> str | None:
    """SHA-256 of a file whose text is kept as a document; None when there is no file."""
    return books.shelf.put(path.read_bytes()) if path.is_file() else None


def _datasets(books: Books, run: Run) -> list[DatasetOrigin]:
    found = []
    for item in run.inputs.dataset_inputs if run.inputs else []:
        about = json.loads(item.dataset.profile or "{}")
        valid, report = _validation(books, run.info.experiment_id, item.dataset.digest)
        found.append(
            DatasetOrigin(
                name=item.dataset.name,
                digest=item.dataset.digest,
                sha256=about.get("sha256"),
                valid=valid,
                validation=report,
            )
        )
    return found


def _validation(books: Books, experiment: str, digest: str) -> tuple[bool | None, str | None]:
    """Whether a run that built a data set signed that it met its expectations (None: nobody did), and the report as a
    kept document."""
    client, about = books.registry.client, witness.expectations_of(digest)
    runs = client.search_runs([experiment], f"tags.`{Tag.DATASET}` = '{digest}' and attributes.status = 'FINISHED'")
    for run in runs:
        with suppress(SignatureError):
            signed = witness.found_about(books, recording.result(run).get("note"), about)
            return True, _report(books, run.info.run_id, signed)
    return None, None


def _report(books: Books, run_id: str, digest: str) -> str | None:
    """The report with that digest as a kept document; None where MLflow does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        found = Path(books.registry.client.download_artifacts(run_id, "validation.json")).read_bytes()
    except (MlflowException, OSError):
        return None
    return books.shelf.put(canonical(redact(json.loads(found)))) if sha256(found) == digest else None


def _parent(books: Books, model_id: str | None) -> ParentOrigin | None:
    if model_id is None:
        return None
    found = books.registry.client.get_logged_model(model_id)
    return ParentOrigin(
        name=found.name, model_id=model_id, digest=found.tags[Tag.DIGEST], statement=found.tags.get(STATEMENT_TAG)
    )


def statement_of(books: Books, model_id: str) -> str:
    """Digest of the statement of a logged model. Raises UserError when it has none."""
    found = books.registry.model_tags(model_id).get(STATEMENT_TAG)
    if found is None:
        raise UserError(f"model {model_id} has no signed statement", "Train it again")
    return found


def evidence(
    books: Books,
    model: ModelRecord,
    benchmark_digest: str,
    locked: Mapping[str, str],
    pushed: Mapping[str, bool],
    benchmark: str | None = None,
) -> Evidence:
    """What is known of a candidate, from its statement and its run.

    Args:
        books: hold the statement.
        model: the candidate.
        benchmark_digest: DVC digest of the benchmark that this retraining built.
        locked: DVC digest by dataset name as dvc.lock has it now.
        pushed: by dataset name, whether the remote holds it.
        benchmark: name of the benchmark, when its validation and its place in DVC count too.
    """
    payload = lineage.opened(statement_of(books, model.model_id), books.shelf, books.trusted)
    build = payload["predicate"]["buildDefinition"]
    origin = {item["name"]: item for item in build["resolvedDependencies"]}
    commit = origin["source"]["digest"]["gitCommit"]
    parents = lineage.dependencies(payload, "model")
    datasets = [_known(item, locked, pushed) for item in lineage.dependencies(payload, "dataset")]
    if benchmark is not None:
        valid, _ = _validation(books, books.registry.run(model.run_id).info.experiment_id, benchmark_digest)
        there, sent = locked.get(benchmark), pushed.get(benchmark)
        made = DatasetEvidence(name=benchmark, used=benchmark_digest, locked=there, pushed=sent, valid=valid)
        datasets.append(made)
    return Evidence(
        profile=build["externalParameters"]["profile"],
        stage=build["externalParameters"]["model"],
        model_digest=model.digest,
        commit=None if commit == "unknown" else commit,
        dirty=origin["source"]["annotations"]["dirty"],
        lock_digest=origin[LOCK]["digest"]["sha256"] if LOCK in origin else None,
        datasets=tuple(datasets),
        benchmark_digest=benchmark_digest,
        parent_digest=parents[0]["digest"]["sha256"] if parents else None,
        parent_signed=_signed(books, parents[0]) if parents else None,
        reward=reward_trend(books, _unchanged_run(books, build["internalParameters"])),
    )


def _unchanged_run(books: Books, stated: Mapping[str, Any]) -> str:
    """The run that made a model. Raises UserError when its record is no longer that of the statement: its rewards count
    before the gates."""
    run_id = str(stated["run_id"])
    if record_digest(books.registry.run_record(run_id)) != stated["run_record"]:
        problem = f"run {run_id[:8]}: parameters, tags, metrics or inputs were changed after its model was signed for"
        raise UserError(problem, "Find out who changed them, or train again")
    return run_id


def _known(item: Mapping[str, Any], locked: Mapping[str, str], pushed: Mapping[str, bool]) -> DatasetEvidence:
    name, digests = item["name"], item["digest"]
    used = f"{digests['dvcMd5Dir']}.dir" if "dvcMd5Dir" in digests else digests.get("md5")
    valid = item["annotations"].get("valid")
    return DatasetEvidence(name=name, used=used, locked=locked.get(name), pushed=pushed.get(name), valid=valid)


def _signed(books: Books, parent: Mapping[str, Any]) -> bool:
    """Whether a parent's own statement holds and is about that parent."""
    try:
        payload = lineage.opened(parent["annotations"]["statement"], books.shelf, books.trusted)
    except (KeyError, SignatureError, UserError):
        return False
    return lineage.model_digest(payload) == parent["digest"]["sha256"]


def reward_trend(books: Books, run_id: str) -> RewardTrend | None:
    """Mean training reward over the first and the last tenth of the steps; None without one."""
    history = sorted(books.registry.client.get_metric_history(run_id, REWARD_METRIC), key=lambda metric: metric.step)
    if len(history) < 2:
        return None
    values = np.array([metric.value for metric in history])
    part = max(1, len(values) // 10)
    # A steady trend adds the same to every difference of neighbours, noise adds twice its variance to their spread.
    noise = float(np.diff(values).std(ddof=1)) / 2**0.5 if len(values) > 2 else 0.0
    return RewardTrend(
        first=round(float(values[:part].mean()), 6),
        last=round(float(values[-part:].mean()), 6),
        error=round(noise * (2 / part) ** 0.5, 6),
    )

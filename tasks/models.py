"""Model folders: their manifest and digest, and their way into and out of MLflow's logged models."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from mlflow_config.settings import MODEL_TYPE, Tag
from tasks import tracking
from tasks.canonical import is_digest
from tasks.failures import transient
from tasks.locks import file_lock
from tasks.recording import known_to_mlflow
from tasks.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Differs(UserError):
    """The stored files of a model are not those that it was logged with."""


@dataclass(frozen=True)
class ModelRecord:
    """A model in MLflow. `name` is base, sft or rl; `digest` the SHA-256 of its manifest; `parent` a model id."""

    name: str
    model_id: str
    digest: str
    run_id: str
    parent: str | None = None


def manifest(folder: Path) -> dict[str, str]:
    """Path relative to `folder` (with slashes, sorted) to SHA-256 of every file.

    Raises:
        UserError: the folder is missing, empty or holds a link, which could point to anything.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link", "Replace it by the file itself")
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    if not found:
        raise UserError(f"{folder} holds no model", "Name a model's folder")
    return found


def digest_of(files: Mapping[str, str]) -> str:
    """SHA-256 over the lines `<sha256>  <path>`, sorted by path, each ended by a newline (as `sha256sum` prints)."""
    lines = "".join(f"{sha}  {path}\n" for path, sha in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def digest(folder: Path) -> str:
    """Digest of a model folder. Raises UserError as `manifest`."""
    return digest_of(manifest(folder))


def log(run: tracking.ActiveRun, folder: Path, name: str, parent: str | None, params: Mapping[str, Any]) -> ModelRecord:
    """Store a model folder as the output of a run; the parent model is an input of the run already.

    A run that broke off after it had stored these very files hands on that model.
    """
    sha = digest(folder)
    model_id = _stored_by(run, sha) or _store(run, folder, name, parent, params, sha)
    run.model_output(model_id)
    return ModelRecord(name, model_id, sha, run.run_id, parent)


def _stored_by(run: tracking.ActiveRun, sha: str) -> str | None:
    """The model with this digest that a run has stored whole."""
    own = f"source_run_id = '{run.run_id}'"
    for found in tracking.client().search_logged_models([run.experiment_id], own):
        if found.status == "READY" and found.tags.get(Tag.DIGEST) == sha:
            return str(found.model_id)
    return None


def _store(
    run: tracking.ActiveRun, folder: Path, name: str, parent: str | None, params: Mapping[str, Any], sha: str
) -> str:
    client = tracking.client()
    tags = {Tag.DIGEST: sha, Tag.PROFILE: run.spec.profile, Tag.STAGE: run.spec.stage}
    if parent:
        tags[Tag.PARENT] = parent
    made = client.create_logged_model(
        run.experiment_id,
        name=name,
        source_run_id=run.run_id,
        tags={str(key): value for key, value in tags.items()},
        params={key: str(value)[:6000] for key, value in params.items()},
        model_type=MODEL_TYPE,
    )
    try:
        client.log_model_artifacts(made.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(made.model_id, "FAILED")
        raise
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def record(model_id: str) -> ModelRecord:
    """What MLflow holds of a model. Raises UserError when it holds none that this project made, and what MLflow raises
    when it cannot tell."""
    problem = f"MLflow holds no model {model_id} of this project"
    remedy = "List models with `edit-r2 status`, or train one with `edit-r2 run`"
    with known_to_mlflow(problem, remedy):
        found = tracking.client().get_logged_model(model_id)
    if Tag.DIGEST not in found.tags:
        raise UserError(problem, remedy)
    digest = found.tags[Tag.DIGEST]
    if not is_digest(digest):  # it names a folder of the cache
        raise UserError(f"the digest of model {model_id} in MLflow is none", "Find out who changed its tags")
    return ModelRecord(found.name, model_id, digest, str(found.source_run_id), found.tags.get(Tag.PARENT))


def fetch(model_id: str, expected: str | None = None) -> Path:
    """Local folder of a model, downloaded at need, every byte checked against the digest it was logged with.

    Args:
        model_id: of the logged model.
        expected: the digest that it must be, where the caller knows one from elsewhere than MLflow.

    Raises:
        UserError: no such model, its files are gone, or they differ from the digest.
        Busy: another process has been bringing the same model for longer than a stage may take.
    """
    known = record(model_id)
    if expected not in (None, known.digest):
        problem = f"MLflow gives model {model_id} the digest {known.digest[:12]}, which is not {str(expected)[:12]}"
        raise Differs(problem, "Find out who changed its tags, and restore the registry")
    cached = _cached(known.digest)
    if _holds(cached, known.digest):
        return cached
    with copy_lock(settings().state, cached.name, settings().stage_timeout):
        if not _holds(cached, known.digest):  # else another process has just brought it
            _bring(known, cached)
    return cached


def _bring(known: ModelRecord, cached: Path) -> None:
    """Put a checked copy of a model into the cache, whole or not at all."""
    temporary = cached.with_name(f".{cached.name}-{uuid.uuid4().hex[:8]}")
    shutil.rmtree(cached, ignore_errors=True)
    try:
        _download(known.model_id, temporary)
        if not _holds(temporary, known.digest):
            remedy = "The store was tampered with or damaged: restore it, or delete the run and train again"
            raise Differs(f"the files of model {known.model_id} differ from their digest {known.digest[:12]}", remedy)
        temporary.rename(cached)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def adopt(folder: Path, sha: str) -> None:
    """Move a freshly stored folder into the cache, so that the next stage need not download it."""
    cached = _cached(sha)
    with copy_lock(settings().state, cached.name, settings().stage_timeout):
        if not cached.exists():
            folder.replace(cached)


def copy_lock(state: Path, name: str, wait: float) -> AbstractContextManager[None]:
    """The lock on a cached copy: who brings it and who deletes it keep out of each other's way."""
    return file_lock(state / "locks" / f"{name}.lock", wait)


def _cached(sha: str) -> Path:
    return settings().folder("models") / sha[:12]


def verify(model_id: str) -> bool:
    """Whether the stored files of a model still hold.

    A store on this disk is read in place, every byte. A remote one is asked for names and sizes, which are compared
    with the verified copy in the cache; promotion and audit read its bytes too. A store that does not answer says
    nothing about the files: its error is raised, so that nothing is trained again for it.
    """
    try:
        known = record(model_id)
    except UserError:
        return False
    location = Path(tracking.client().get_logged_model(model_id).artifact_location.removeprefix("file://"))
    if location.is_absolute():
        return _holds(location, known.digest)
    there = stored(tracking.client(), model_id)
    if not there:
        return False
    try:
        copy = fetch(model_id)
    except Differs:
        return False
    return there == {path: (copy / path).stat().st_size for path in manifest(copy)}


def stored(client: MlflowClient, model_id: str, folder: str | None = None) -> dict[str, int]:
    """Path to size of every file that the store holds of a model."""
    found: dict[str, int] = {}
    for entry in client.list_logged_model_artifacts(model_id, folder):
        found |= stored(client, model_id, entry.path) if entry.is_dir else {entry.path: int(entry.file_size or 0)}
    return found


def _holds(folder: Path, sha: str) -> bool:
    try:
        return digest(folder) == sha
    except UserError:
        return False


def _download(model_id: str, target: Path) -> None:
    """Copy the stored files of a model to a new folder."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        # By location: an address `models:/...` is looked up in whatever store the process used last.
        location = tracking.client().get_logged_model(model_id).artifact_location
        with TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as place:
            got = mlflow.artifacts.download_artifacts(
                artifact_uri=location, dst_path=place, tracking_uri=settings().tracking_uri
            )
            Path(got).replace(target)
    except (MlflowException, OSError) as error:
        if transient(error):
            raise
        remedy = "Restore the artifact store, or delete the run and train again"
        raise UserError(f"the files of model {model_id} cannot be read: {error}", remedy) from error

"""A small installation for tests of provenance: MLflow on sqlite, books, a dataset in DVC's layout, three models."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import attestation
from tasks.books import Books
from tasks.documents import FolderShelf
from tasks.filing import file_decision
from tasks.ledger import Ledger
from tasks.models import ModelRecord, digest
from tasks.policy import Policy, load_policy
from tasks.promotion import Candidate
from tasks.registry import Registry
from tasks.signing import load_identity
from tests.tasks.scoresets import Quality, score_set, skilled

POLICY = load_policy("small").model_copy(update={"alias": "champion"})
PROFILE = "tiny"
DATASET = f"sessions/{PROFILE}"


@dataclass
class House:
    """`root` is the checkout, `root/.edit-r2` the state."""

    root: Path
    books: Books
    experiment: str

    @property
    def client(self) -> Any:
        return self.books.registry.client


def sqlite_template(folder: Path) -> Path:
    """An initialised MLflow database: seconds to make, and nothing to copy."""
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def _hurry(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")  # a test's database need not survive a power cut

    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


def build_house(root: Path, template: Path) -> House:
    """A fresh installation with a checkout that holds one dataset."""
    from mlflow import MlflowClient

    state = root / ".edit-r2"
    state.mkdir(parents=True)
    shutil.copy(template, state / "mlflow.db")
    client = MlflowClient(f"sqlite:///{state}/mlflow.db", f"sqlite:///{state}/mlflow.db")
    experiment = client.create_experiment(f"edit-r2/{PROFILE}", artifact_location=str(state / "artifacts"))
    books = open_test_books(state, client)
    (root / "requirements.lock").write_text("torch==2.13.0\n")
    write_dataset(root)
    return House(root, books, experiment)


def open_test_books(state: Path, client: Any, actor: str = "ada") -> Books:
    identity = load_identity(state / "keys")
    shelf = FolderShelf(state / "ledger")
    ledger = Ledger(shelf, state / "keys", identity)
    return Books(ledger, shelf, state / "keys", identity, Registry(client, "edit-r2"), "champion", actor, state)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def write_dataset(root: Path, text: str = "session") -> str:
    """Sessions in the checkout, in DVC's cache and remote, and in dvc.lock; the folder's DVC hash."""
    folder = root / "data" / DATASET
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(f'{{"id": "{text}"}}\n')
    (folder / "images-train-00000.parquet").write_bytes(text.encode() * 50)
    files = [
        {"md5": md5(path.read_bytes()), "relpath": path.name}
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
    ]
    listing = json.dumps(files, sort_keys=True).encode()
    found = f"{md5(listing)}.dir"
    for store in (root / ".dvc" / "cache", root / ".edit-r2" / "dvc-remote"):
        place(store, found, listing)
        for path in folder.iterdir():
            place(store, md5(path.read_bytes()), path.read_bytes())
    (root / "dvc.lock").write_text(
        json.dumps({"schema": "2.0", "stages": {f"sessions@{PROFILE}": {"outs": [out(found)]}}})
    )
    return found


def out(found: str) -> dict[str, str]:
    return {"path": f"data/{DATASET}", "hash": "md5", "md5": found}


def place(store: Path, name: str, data: bytes) -> None:
    path = store / "files" / "md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def train(house: House, name: str = "rl", parent: ModelRecord | None = None, content: str = "weights") -> ModelRecord:
    """A run with parameters, metrics and inputs that made a model, and the model's signed statement."""
    client = house.client
    stage = {"base": "pretrain_base", "sft": "train_sft", "rl": "train_rl"}[name]
    tags = {
        Tag.STAGE: stage,
        Tag.FINGERPRINT: hashlib.sha256(content.encode()).hexdigest(),
        Tag.PROFILE: PROFILE,
        Tag.COMMIT: "c" * 40,
        Tag.DIRTY: "false",
    }
    run = client.create_run(house.experiment, tags={str(key): value for key, value in tags.items()})
    run_id = run.info.run_id
    client.log_param(run_id, "rl.optimisation.seed", 7)
    for step, value in enumerate((0.3, 0.4, 0.5)):
        client.log_metric(run_id, "rl/reward", value, step=step, timestamp=1_000 + step)
    if name != "base":
        _dataset_input(house, run_id)
    model = _log_model(house, run_id, name, parent, content)
    folder = Path(client.get_logged_model(model.model_id).artifact_location)
    attestation.attest(house.books, model, folder, {"rl": {"optimisation": {"seed": 7}}}, house.root)
    client.set_terminated(run_id, "FINISHED")
    return model


def _dataset_input(house: House, run_id: str) -> None:
    from mlflow.entities import Dataset, DatasetInput

    found = json.loads((house.root / "dvc.lock").read_text())["stages"][f"sessions@{PROFILE}"]["outs"][0]["md5"]
    if not house.client.search_runs([house.experiment], f"tags.`{Tag.DATASET}` = '{found}'"):
        built = house.client.create_run(house.experiment, tags={str(Tag.DATASET): found, str(Tag.VALIDATION): "passed"})
        house.client.log_text(built.info.run_id, '{"success": true}', "validation.json")
        house.client.set_terminated(built.info.run_id, "FINISHED")
    source = json.dumps({"path": f"data/{DATASET}", "stage": f"sessions@{PROFILE}"})
    dataset = Dataset(DATASET, found, "dvc", source, profile=json.dumps({"rows": 1}))
    house.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [])])


def _log_model(house: House, run_id: str, name: str, parent: ModelRecord | None, content: str) -> ModelRecord:
    folder = house.root / "work" / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    (folder / "vae").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(f"{name} {content} ".encode() * 20)
    (folder / "vae" / "config.json").write_text("{}")
    tags = {str(Tag.DIGEST): digest(folder)}
    made = house.client.create_logged_model(
        house.experiment, name=name, source_run_id=run_id, tags=tags, params={}, model_type="edit-r2"
    )
    house.client.log_model_artifacts(made.model_id, str(folder))
    house.client.finalize_logged_model(made.model_id, "READY")
    return ModelRecord(name, made.model_id, digest(folder), run_id, parent.model_id if parent else None)


def family(house: House, content: str = "weights") -> ModelRecord:
    """Base, SFT and RL model; the RL model."""
    base = train(house, "base", content="base")
    sft = train(house, "sft", base, content="sft")
    return train(house, "rl", sft, content)


def stand(house: House, model: ModelRecord, quality: Quality, seed: int = 3, policy: Policy = POLICY) -> Any:
    """Scores, evidence and a filed decision against the present champion: (candidate, decision)."""
    books = house.books
    scores = score_set(quality, seed=seed, model_digest=model.digest)
    current = books.ledger.champion("edit-r2", "champion")
    champion = None
    if current is not None:
        from tasks.decision import Decision
        from tasks.scores import Scores

        kept = Decision.model_validate_json(books.shelf.get(str(current.decision)))
        champion = Scores.model_validate_json(books.shelf.get(kept.inputs.candidate))
    locked = json.loads((house.root / "dvc.lock").read_text())["stages"][f"sessions@{PROFILE}"]["outs"][0]["md5"]
    known = attestation.evidence(books, model, scores.benchmark.digest, {DATASET: locked}, {DATASET: True})
    parent = score_set(skilled(0.4), seed=2, name="parent")
    decision = file_decision(books.shelf, policy, scores, champion, known, parent)
    statement = attestation.statement_of(books, model.model_id)
    return Candidate(model.model_id, model.run_id, model.digest, statement), decision


__all__ = ["POLICY", "House", "UserError", "build_house", "family", "sqlite_template", "stand", "train"]

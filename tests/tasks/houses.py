"""A small installation for tests of provenance: MLflow on sqlite, books, a dataset in DVC's layout, three models."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_config.settings import Tag
from tasks import attestation, witness
from tasks.books import Books
from tasks.candidacy import Standing, assess
from tasks.decision import Decision
from tasks.documents import FolderShelf
from tasks.ledger import Ledger
from tasks.models import ModelRecord, digest
from tasks.policy import load_policy
from tasks.promotion import Candidate
from tasks.recording import log_dataset
from tasks.registry import Registry
from tasks.scores import Scores
from tasks.signing import load_identity
from tests.tasks.scoresets import Quality, score_set, skilled

POLICY = load_policy("small").model_copy(update={"alias": "champion"})
PROFILE = "tiny"
DATASET = f"sessions/{PROFILE}"
BENCHMARK_NAME = f"benchmark/{PROFILE}"


@dataclass
class House:
    """`root` is the checkout, `root/.edit-r2` the state."""

    root: Path
    books: Books
    experiment: str
    commit: str

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
    write_dataset(root, BENCHMARK_NAME, "benchmark")
    return House(root, books, experiment, commit(root))


def open_test_books(state: Path, client: Any, actor: str = "ada") -> Books:
    identity = load_identity(state / "keys")
    shelf = FolderShelf(state / "ledger")
    ledger = Ledger(shelf, state / "keys", identity)
    return Books(ledger, shelf, state / "keys", identity, Registry(client, "edit-r2"), "champion", actor, state)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def write_dataset(root: Path, name: str = DATASET, text: str = "session") -> str:
    """A dataset in the checkout, in DVC's cache and remote, and in dvc.lock; the folder's DVC hash."""
    folder = root / "data" / name
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
    lock = root / "dvc.lock"
    content = json.loads(lock.read_text()) if lock.exists() else {"schema": "2.0", "stages": {}}
    content["stages"][name.replace("/", "@")] = {"outs": [{"path": f"data/{name}", "hash": "md5", "md5": found}]}
    lock.write_text(json.dumps(content))
    return found


def locked(house: House, name: str = DATASET) -> str:
    return json.loads((house.root / "dvc.lock").read_text())["stages"][name.replace("/", "@")]["outs"][0]["md5"]


def commit(root: Path) -> str:
    """A repository with one commit that holds the lock; the commit."""
    words = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "requirements.lock"], [*words, "commit", "-q", "-m", "lock"]):
        subprocess.run(["git", *command], cwd=root, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    return head.stdout.strip()


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
        Tag.COMMIT: house.commit,
        Tag.DIRTY: "false",
    }
    run = client.create_run(house.experiment, tags={str(key): value for key, value in tags.items()})
    run_id = run.info.run_id
    client.log_param(run_id, "rl.optimisation.seed", 7)
    for step, value in enumerate((0.3, 0.4, 0.5)):
        client.log_metric(run_id, "rl/reward", value, step=step, timestamp=1_000 + step)
    if name != "base":
        use_dataset(house, run_id, DATASET)
    model = _log_model(house, run_id, name, parent, content)
    folder = Path(client.get_logged_model(model.model_id).artifact_location)
    attestation.attest(house.books, model, folder, {"rl": {"optimisation": {"seed": 7}}}, house.root)
    client.set_terminated(run_id, "FINISHED")
    return model


def ensure_built(house: House, name: str) -> str:
    """The digest of a dataset, built and validated by a run of its own. Not for several processes at once."""
    found = locked(house, name)
    if not house.client.search_runs([house.experiment], f"tags.`{Tag.DATASET}` = '{found}'"):
        report, about = '{"success": true}', witness.expectations_of(found)
        signed = hashlib.sha256(report.encode()).hexdigest()
        result = json.dumps({"note": witness.witness(house.books, signed, about)})
        built = house.client.create_run(house.experiment, tags={str(Tag.DATASET): found, str(Tag.RESULT): result})
        house.client.log_text(built.info.run_id, report, "validation.json")
        house.client.set_terminated(built.info.run_id, "FINISHED")
    return found


def use_dataset(house: House, run_id: str, name: str) -> None:
    """Log a dataset as input of a run; the run that built and validated it is made at need."""
    from mlflow.entities import Dataset, DatasetInput

    found = ensure_built(house, name)
    source = json.dumps({"path": f"data/{name}"})
    dataset = Dataset(name, found, "dvc", source, profile=json.dumps({"rows": 1}))
    log_dataset(house.client, run_id, DatasetInput(dataset, []))


def evaluate(house: House, model: ModelRecord, scores: Scores) -> str:
    """A finished evaluation run with the means as metrics."""
    tags = {Tag.STAGE: "evaluate", Tag.MODEL: model.model_id, Tag.PROFILE: PROFILE, Tag.COMMIT: house.commit}
    run_id = house.client.create_run(house.experiment, tags={str(k): v for k, v in tags.items()}).info.run_id
    for metric, cell in scores.means().items():
        if cell["mean"] is not None:
            house.client.log_metric(run_id, f"evaluation/{metric}", cell["mean"])
    use_dataset(house, run_id, BENCHMARK_NAME)
    house.client.set_terminated(run_id, "FINISHED")
    return run_id


def _log_model(house: House, run_id: str, name: str, parent: ModelRecord | None, content: str) -> ModelRecord:
    folder = house.root / "work" / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    (folder / "vae").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(f"{name} {content} ".encode() * 20)
    (folder / "vae" / "config.json").write_text("{}")
    tags = {str(Tag.DIGEST): digest(folder)} | ({str(Tag.PARENT): parent.model_id} if parent else {})
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


def standing(house: House, model: ModelRecord, quality: Quality, seed: int = 3) -> Standing:
    """Scores of a model, of its parent and of the present champion, and the state of the data."""
    books, benchmark = house.books, {"name": BENCHMARK_NAME, "digest": locked(house, BENCHMARK_NAME)}
    scores = score_set(quality, seed=seed, model_digest=model.digest, benchmark=benchmark)
    evaluate(house, model, scores)
    current = books.ledger.champion("edit-r2", "champion")
    champion = None
    if current is not None:
        kept = Decision.model_validate_json(books.shelf.get(str(current.decision)))
        champion = Scores.model_validate_json(books.shelf.get(kept.inputs.candidate))
    there = {name: locked(house, name) for name in (DATASET, BENCHMARK_NAME)}
    return Standing(
        candidate=scores,
        champion=champion,
        parent=score_set(skilled(0.4), seed=2, model_digest=_parent_digest(house, model), benchmark=benchmark),
        benchmark_digest=benchmark["digest"],
        locked=there,
        pushed=dict.fromkeys(there, True),
    )


def _parent_digest(house: House, model: ModelRecord) -> str:
    assert model.parent is not None
    return str(house.client.get_logged_model(model.parent).tags[Tag.DIGEST])


def stand(house: House, model: ModelRecord, quality: Quality, seed: int = 3) -> tuple[Candidate, Decision]:
    """A candidate and the filed decision on it, against the present champion."""
    decision = assess(house.books, POLICY, model, standing(house, model, quality, seed))
    statement = attestation.statement_of(house.books, model.model_id)
    return Candidate(model.model_id, model.run_id, model.digest, statement), decision

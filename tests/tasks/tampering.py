"""Single changes to an installation, each with its undoing and the link that an audit must name."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.tasks.houses import BENCHMARK_NAME, DATASET, House, locked

Undo = Callable[[], None]


@dataclass(frozen=True)
class Tampering:
    """`act` changes one thing and returns how to undo it; `links` are the names that an audit may give first."""

    name: str
    act: Callable[[random.Random], Undo]
    links: frozenset[str]


def flip(path: Path, generator: random.Random) -> Undo:
    """Change one bit of a file."""
    before, mode = path.read_bytes(), path.stat().st_mode
    after = bytearray(before)
    after[generator.randrange(len(after))] ^= 1 << generator.randrange(8)
    path.write_bytes(bytes(after))

    def undo() -> None:
        path.write_bytes(before)
        path.chmod(mode)

    return undo


def _file(name: str, paths: Callable[[], list[Path]], *links: str) -> Tampering:
    return Tampering(name, lambda generator: flip(generator.choice(sorted(paths())), generator), frozenset(links))


def _sql(name: str, house: House, table: str, column: str, where: str, *links: str) -> Tampering:
    """One row of MLflow's database gets another value in one column."""
    database = house.books.state / "mlflow.db"

    def write(row: int, value: object) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            assert connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row)).rowcount == 1

    def act(generator: random.Random) -> Undo:
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {where}").fetchall()
        row, before = generator.choice(rows)
        write(row, before + 0.25 if isinstance(before, float) else f"{before}1")
        return lambda: write(row, before)

    return Tampering(name, act, frozenset(links))


def _objects(house: House, name: str, store: Path) -> list[Path]:
    head = locked(house, name)
    listing = store / "files" / "md5" / head[:2] / head[2:]
    items = json.loads(listing.read_bytes())
    return [listing, *(store / "files" / "md5" / item["md5"][:2] / item["md5"][2:] for item in items)]


def _documents(house: House, names: Callable[[], list[str]]) -> Callable[[], list[Path]]:
    folder = house.books.state / "ledger" / "documents"
    return lambda: [folder / name[:2] / name for name in names()]


def _decision_inputs(house: House) -> list[str]:
    entry = house.books.ledger.champion("edit-r2", "champion")
    kept = json.loads(house.books.shelf.get(entry.decision))
    return [name for name in kept["inputs"].values() if name]


def _edit_data(house: House, _generator: random.Random) -> Undo:
    """Other sessions in the checkout, under the digest that dvc.lock names."""
    file = house.root / "data" / DATASET / "train.jsonl"
    before = file.read_bytes()
    file.write_text('{"id": "another"}\n')
    return lambda: file.write_bytes(before) and None


def _move_alias(house: House, number: int | None) -> Callable[[random.Random], Undo]:
    def act(_generator: random.Random) -> Undo:
        before = house.books.registry.alias("champion")
        house.books.registry.point("champion", number)
        return lambda: house.books.registry.point("champion", before)

    return act


def _cut_ledger(house: House, _generator: random.Random) -> Undo:
    file = house.books.shelf.file
    before = file.read_bytes()
    file.write_bytes(b"".join(line + b"\n" for line in before.splitlines()[:-1]))
    return lambda: file.write_bytes(before) and None


def _one_of(column: str, values: list[str]) -> str:
    return f"{column} IN ({','.join(repr(value) for value in values)})"


def tamperings(house: House) -> list[Tampering]:
    """Every kind of change, for a house with two promoted versions of which the second is champion."""
    return [*_file_tamperings(house), *_row_tamperings(house), *_other_tamperings(house)]


def _file_tamperings(house: House) -> list[Tampering]:
    books = house.books
    entry = books.ledger.champion("edit-r2", "champion")
    stored = [books.state / "artifacts" / "models" / model for model in _chain_models(house)]
    cache, remote = house.root / ".dvc" / "cache", books.state / "dvc-remote"
    checkout = house.root / "data" / DATASET
    weights = [path for model in stored for path in model.rglob("*") if path.is_file()]
    return [
        _file("a byte of weights", lambda: weights, "files", "signature"),
        _file("a byte of the dataset in the cache", lambda: _objects(house, DATASET, cache), "data"),
        _file("a byte of the dataset in the remote", lambda: _objects(house, DATASET, remote), "data"),
        _file("a byte of the dataset in the checkout", lambda: list(checkout.iterdir()), "data"),
        _file("a byte of the benchmark", lambda: _objects(house, BENCHMARK_NAME, remote), "data"),
        _file("a byte of a statement", _documents(house, lambda: _statements(house)), "statement"),
        _file("a byte of a kept lock", _documents(house, lambda: _locks(house)), "lock"),
        _file("a byte of a ledger entry", lambda: [books.shelf.file], "ledger"),
        _file("a byte of scores, policy or evidence", _documents(house, lambda: _decision_inputs(house)), "decision"),
        _file("a byte of the gate decision", _documents(house, lambda: [entry.decision]), "decision"),
    ]


def _row_tamperings(house: House) -> list[Tampering]:
    runs, models = _one_of("run_uuid", _chain_runs(house)), _one_of("model_id", _chain_models(house))
    return [
        _sql("a parameter", house, "params", "value", runs, "run"),
        _sql("a metric point", house, "metrics", "value", runs, "run"),
        _sql("a metric's step", house, "metrics", "step", runs, "run"),
        _sql("a latest metric", house, "latest_metrics", "value", runs, "run"),
        _sql("a run's commit", house, "tags", "value", f"key = 'git.commit' AND {runs}", "run"),
        _sql("a dataset's digest", house, "datasets", "digest", f"name = '{DATASET}'", "run"),
        _sql("the model behind a version", house, "model_versions", "source", "version = 2", "registry", "statement"),
        _sql(
            "a tag of a version",
            house,
            "model_version_tags",
            "value",
            "version = 2 AND key IN ('edit_r2.digest', 'edit_r2.statement')",
            "registry",
        ),
        _sql(
            "a tag of a logged model",
            house,
            "logged_model_tags",
            "tag_value",
            f"tag_key IN ('edit_r2.digest', 'edit_r2.statement') AND {models}",
            "registry",
        ),
        _sql("an evaluated score", house, "latest_metrics", "value", _one_of("run_uuid", _evaluations(house)), "run"),
    ]


def _other_tamperings(house: House) -> list[Tampering]:
    return [
        Tampering("the alias", _move_alias(house, 1), frozenset({"alias"})),
        Tampering("no alias", _move_alias(house, None), frozenset({"alias"})),
        Tampering("the newest entry removed", lambda generator: _cut_ledger(house, generator), frozenset({"ledger"})),
        Tampering(
            "other data under the same lock", lambda generator: _edit_data(house, generator), frozenset({"data"})
        ),
    ]


def _payload(house: House, name: str) -> dict:
    from tasks import lineage

    return lineage.opened(name, house.books.shelf, house.books.trusted)


def _statements(house: House) -> list[str]:
    """Every statement of the champion's chain."""
    from tasks import lineage

    release = house.books.ledger.champion("edit-r2", "champion").statement
    found = [release, lineage.byproduct(_payload(house, release), "training-statement")]
    while parents := lineage.dependencies(_payload(house, found[-1]), "model"):
        found.append(parents[0]["annotations"]["statement"])
    return found


def _chain_models(house: House) -> list[str]:
    payloads = [_payload(house, name) for name in _statements(house)]
    return [payload["predicate"]["buildDefinition"]["internalParameters"]["model_id"] for payload in payloads]


def _chain_runs(house: House) -> list[str]:
    payloads = [_payload(house, name) for name in _statements(house)]
    return [payload["predicate"]["buildDefinition"]["internalParameters"]["run_id"] for payload in payloads]


def _evaluations(house: House) -> list[str]:
    byproducts = _payload(house, _statements(house)[0])["predicate"]["runDetails"]["byproducts"]
    return list(next(item for item in byproducts if item["name"] == "scores")["annotations"]["evaluations"])


def _locks(house: House) -> list[str]:
    build = _payload(house, _statements(house)[0])["predicate"]["buildDefinition"]
    locks = [item for item in build["resolvedDependencies"] if item["name"].endswith(".lock")]
    return [item["digest"]["sha256"] for item in locks]

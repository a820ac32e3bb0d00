"""Lineage statements: complete, in the published schema, signed, and silent about secrets and folders."""

from __future__ import annotations

import json

import pytest

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import attestation, lineage, recording
from tasks.canonical import sha256
from tasks.documents import FolderShelf
from tasks.origin import DatasetOrigin, Origin, ParentOrigin, hardware, libraries
from tasks.pedigree import Generation
from tasks.picture import made_from
from tasks.redaction import leaks, redact
from tasks.signing import SignatureError, load_identity, trusted_keys
from tests.tasks.houses import DATASET, build_house, family, locked, sqlite_template
from tests.tasks.scoresets import digest


def origin(**changes) -> Origin:
    base = {
        "name": "rl",
        "profile": "tiny",
        "stage": "train_rl",
        "fingerprint": "f" * 64,
        "model_id": "m-1",
        "model_digest": digest("model"),
        "files": {"model.safetensors": digest("weights"), "vae/config.json": digest("vae")},
        "parameters": {"rl": {"clip": 0.2, "optimisation": {"seed": 3}}},
        "seeds": {"rl.optimisation.seed": 3},
        "commit": "c" * 40,
        "dirty": False,
        "lock_digest": "1" * 64,
        "dvc_lock_digest": "2" * 64,
        "datasets": (DatasetOrigin(name=DATASET, digest="a" * 32 + ".dir", sha256="b" * 64, valid=True),),
        "parent": ParentOrigin(name="sft", model_id="m-0", digest=digest("sft"), statement="e" * 64),
        "reward": {"weights": {"IF": 1.0}},
        "run_id": "r" * 32,
        "flow_run_id": "0190-run",
        "hardware": hardware(),
        "libraries": libraries(),
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T01:00:00+00:00",
    }
    return Origin.model_validate(base | changes)


def test_a_statement_names_everything_by_digest():
    made = lineage.statement(origin())
    lineage.check_schema(made)
    build = made["predicate"]["buildDefinition"]
    names = {item["name"]: item["digest"] for item in build["resolvedDependencies"]}
    assert names["source"] == {"gitCommit": "c" * 40}
    assert names[DATASET] == {"dvcMd5Dir": "a" * 32, "sha256": "b" * 64}
    assert names["sft"] == {"sha256": digest("sft")}
    assert names["dvc.lock"] == {"sha256": "2" * 64}
    assert build["internalParameters"]["reference_policy"] == digest("sft")
    assert lineage.model_digest(made) == digest("model")
    assert lineage.files(made)["vae/config.json"] == digest("vae")
    assert made["predicate"]["runDetails"]["builder"]["version"]["python"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"model": {"checkpoint": "model/checkpoints/tiny", "digest": "d" * 64}},
        {"model": {"checkpoint": None}, "start": {"model/checkpoints/tiny": "d" * 64}},
    ],
)
def test_a_base_that_came_ready_says_so(parameters):
    made = lineage.statement(origin(parameters=parameters))
    lineage.check_schema(made)
    (ready,) = lineage.dependencies(made, "checkpoint")
    assert (ready["name"], ready["digest"]) == ("model/checkpoints/tiny", {"sha256": "d" * 64})
    assert lineage.dependencies(lineage.statement(origin()), "checkpoint") == []
    data = (DATASET, f"dvc {'a' * 16}")
    outside = ("imported model/checkpoints/tiny", "d" * 12, "made outside this ledger")
    assert made_from(Generation("e" * 64, made)) == [data, outside]
    assert made_from(Generation("e" * 64, lineage.statement(origin()))) == [data]


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.pop("subject"),
        lambda made: made.update(extra=1),
        lambda made: made.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda made: made["subject"][0].pop("digest"),
        lambda made: made["predicate"].update(buildDefinitions={}),
        lambda made: made["predicate"]["runDetails"]["metadata"].update(startedOn="yesterday"),
    ],
)
def test_the_schema_is_held(change):
    made = lineage.statement(origin())
    change(made)
    with pytest.raises(ValueError, match=r".+"):
        lineage.check_schema(made)


def test_kept_statements_are_opened_only_when_whole(tmp_path):
    shelf, identity = FolderShelf(tmp_path / "ledger"), load_identity(tmp_path / "keys")
    name = lineage.attest(origin(), shelf, identity)
    assert lineage.attest(origin(), shelf, identity) == name, "signing the same facts twice gives the same bytes"
    trusted = trusted_keys(tmp_path / "keys")
    assert lineage.model_digest(lineage.opened(name, shelf, trusted)) == digest("model")
    path = tmp_path / "ledger" / "documents" / name[:2] / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(SignatureError, match="digest"):
        lineage.opened(name, shelf, trusted)


SECRETS = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "PREFECT_API_AUTH_STRING": "admin:hunter22"}


def test_planted_secrets_and_paths_do_not_appear(tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    planted = {
        "checkpoint": "/home/ada/models/BAGEL",
        "store": "s3://key:wJalrXUtnFEMI@store/bucket",
        "tracking": "sqlite:////srv/mlflow/mlflow.db",
        "note": "log in as admin:hunter22",
        "api_key": "abcdef",
        "windows": "C:\\Users\\ada\\model",
        "home": "~/models/x",
    }
    shelf, identity = FolderShelf(tmp_path / "ledger"), load_identity(tmp_path / "keys")
    name = lineage.attest(origin(parameters=planted), shelf, identity)
    payload = lineage.opened(name, shelf, trusted_keys(tmp_path / "keys"))
    text = json.dumps(payload)
    for secret in (*SECRETS.values(), "key:", "/home/ada", "/srv", "abcdef", "C:\\\\Users", "~/"):
        assert secret not in text
    assert payload["predicate"]["buildDefinition"]["externalParameters"]["parameters"]["checkpoint"] == "BAGEL"
    assert list(leaks(text)) == []


def test_a_statement_that_would_leak_is_not_signed(tmp_path, monkeypatch):
    made = lineage.statement(origin())
    made["predicate"]["buildDefinition"]["externalParameters"]["note"] = "see /home/ada/notes"
    with pytest.raises(UserError, match="absolute path"):
        lineage.seal(made, FolderShelf(tmp_path / "ledger"), load_identity(tmp_path / "keys"))


@pytest.mark.parametrize(
    "text",
    ["https://slsa.dev/provenance/v1", "images/test/1/0.png", "models:/m-1", "http://127.0.0.1:5000/x/y", "1/2/3"],
)
def test_addresses_and_relative_names_stay(text):
    assert redact(text, ()) == text
    assert list(leaks(text, ())) == []


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    template = sqlite_template(tmp_path_factory.mktemp("mlflow"))
    return build_house(tmp_path_factory.mktemp("house"), template)


def test_statements_are_made_from_recorded_runs(house):
    model = family(house)
    books = house.books
    payload = lineage.opened(attestation.statement_of(books, model.model_id), books.shelf, books.trusted)
    build = payload["predicate"]["buildDefinition"]
    dataset = lineage.dependencies(payload, "dataset")[0]
    assert (dataset["name"], dataset["annotations"]["valid"]) == (DATASET, True)
    assert books.shelf.get(dataset["annotations"]["validation"]) == b'{"success":true}'
    assert build["externalParameters"]["seeds"] == {"rl.optimisation.seed": 7}
    lock = next(item for item in build["resolvedDependencies"] if item["name"] == "requirements.lock")
    assert lock["digest"]["sha256"] == sha256((house.root / "requirements.lock").read_bytes())
    assert build["internalParameters"]["reward"]["judge"]["name"] == "exact"
    parent = lineage.dependencies(payload, "model")[0]
    grandparent = lineage.dependencies(
        lineage.opened(parent["annotations"]["statement"], books.shelf, books.trusted), "model"
    )
    assert [parent["name"], grandparent[0]["name"]] == ["sft", "base"]
    assert str(house.root) not in json.dumps(payload)


def test_evidence_follows_the_statement(house):
    model = family(house, "other")
    there = locked(house)
    known = attestation.evidence(house.books, model, "b.dir", {DATASET: there}, {})
    assert (known.stage, known.commit, known.dirty, known.parent_signed) == ("rl", house.commit, False, True)
    assert known.datasets[0].used == known.datasets[0].locked == there
    assert known.datasets[0].pushed is None
    assert (known.reward.first, known.reward.last, known.reward.error) == (0.3, 0.5, 0.0)


def test_that_a_data_set_passed_counts_only_where_the_run_that_checked_it_signed_for_it(house):
    """Who may write to MLflow may enter a run that says so."""
    model = family(house, "third")
    signed = locked(house)

    def valid(digest: str) -> bool | None:
        return attestation.evidence(house.books, model, digest, {}, {}, benchmark="bench").datasets[-1].valid

    def enter(digest: str, **result: object) -> None:
        tags = {Tag.DATASET: digest, Tag.VALIDATION: "passed", Tag.RESULT: json.dumps(result)}
        run = house.client.create_run(house.experiment, tags={str(key): value for key, value in tags.items()})
        house.client.set_terminated(run.info.run_id, "FINISHED")

    of_it = f"tags.`{Tag.DATASET}` = '{signed}'"
    (built,) = house.client.search_runs([house.experiment], of_it)
    note = recording.result(built)["note"]
    enter("a.dir")
    enter("b.dir", note="0" * 64)
    enter("c.dir", note=note)
    enter("d.dir", note=5)
    assert [valid(name) for name in (signed, "a.dir", "b.dir", "c.dir", "d.dir")] == [True, None, None, None, None]


def test_rewards_that_were_changed_after_the_model_was_signed_for_do_not_count(house):
    model = family(house, "fourth")
    house.client.log_metric(model.run_id, "rl/reward", 0.9, step=-1)
    with pytest.raises(UserError, match="were changed after its model was signed for"):
        attestation.evidence(house.books, model, "b.dir", {}, {})


def test_a_model_without_a_statement_is_named(house):
    made = house.client.create_logged_model(house.experiment, name="bare")
    with pytest.raises(UserError, match="no signed statement"):
        attestation.statement_of(house.books, made.model_id)

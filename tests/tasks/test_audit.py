"""Audit: silent on what is whole, and exact about the one thing that is not."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from data.errors import UserError
from tasks.audit import audit
from tasks.export import check_leaks, export
from tasks.pedigree import pedigree, tree, who_used
from tasks.promotion import promote, recall
from tasks.registry import Registry
from tasks.signing import load_identity
from tasks.view import exported, live
from tests.tasks.houses import DATASET, build_house, family, locked, sqlite_template, stand
from tests.tasks.scoresets import skilled
from tests.tasks.tampering import flip, tamperings


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return sqlite_template(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def house(tmp_path_factory, template):
    """Two promoted versions; the second is champion."""
    house = build_house(tmp_path_factory.mktemp("house"), template)
    for content, skill, seed in (("a", 0.5, 3), ("b", 0.9, 4)):
        outcome = promote(house.books, *stand(house, family(house, content), skilled(skill), seed), reason="better")
        assert outcome.promoted
    return house


def look(house, version=None):
    return audit(live(house.books, house.root, house.books.state / "dvc-remote"), version)


def test_an_untouched_installation_passes(house):
    report = look(house)
    assert report.ok, report.line
    assert report.version == 2
    assert {link.name for link in report.links} == {
        *("ledger", "alias", "recall", "rollback", "registry", "statement", "signature", "files", "run", "lock"),
        *("code", "validation", "data", "parent", "decision", "scores"),
    }
    assert all(link.holds for link in report.links)
    assert look(house, 1).ok
    assert "links hold" in report.line


def test_every_kind_of_tampering_is_named(house):
    generator = random.Random(1)
    for tampering in tamperings(house):
        undo = tampering.act(generator)
        report = look(house)
        undo()
        assert report.broken is not None, f"{tampering.name} was not noticed"
        assert report.broken.name in tampering.links, f"{tampering.name}: {report.line}"
    assert look(house).ok, look(house).line


@pytest.mark.slow
def test_two_hundred_random_changes_and_no_false_alarm(house):
    generator, kinds = random.Random(2), tamperings(house)
    named: dict[str, int] = {}
    for _ in range(200):
        tampering = generator.choice(kinds)
        undo = tampering.act(generator)
        report = look(house)
        undo()
        assert report.broken is not None, f"{tampering.name} was not noticed"
        assert report.broken.name in tampering.links, f"{tampering.name}: {report.line}"
        named[tampering.name] = named.get(tampering.name, 0) + 1
    alarms = [report.line for report in (look(house) for _ in range(50)) if not report.ok]
    print(f"\n200 changes of {len(named)} kinds named, {len(alarms)} false alarms in 50 audits")
    assert alarms == []


def test_an_unknown_version_is_said_to_be_unknown(house):
    report = look(house, 9)
    assert not report.ok
    assert "no such version" in report.line


def test_an_empty_installation_has_nothing_to_show(tmp_path, template):
    report = look(build_house(tmp_path, template))
    assert not report.ok


def test_a_recalled_champion_fails_the_audit(tmp_path, template):
    house = build_house(tmp_path, template)
    promote(house.books, *stand(house, family(house), skilled(0.7)), reason="better")
    recall(house.books, 1, "a session was withdrawn")
    report = look(house)
    assert report.broken.name == "recall"
    assert "withdrawn" in report.line


def test_reports_are_plain_data_without_paths(house):
    text = str(look(house).as_json())
    assert str(house.root) not in text
    assert '"ok": True' in text.replace("'", '"')


@pytest.fixture(scope="module")
def folder(house, tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "auditor"
    report = export(live(house.books, house.root, house.books.state / "dvc-remote"), target)
    assert report.ok, report.line
    return target


def test_an_exported_folder_verifies_by_itself(house, folder):
    report = audit(exported(folder))
    assert report.ok, report.line
    assert {link.name for link in report.links if link.holds} >= {"ledger", "alias", "files", "signature", "decision"}
    assert {link.name for link in report.links if link.holds is None} == {"code", "data", "files"}
    with pytest.raises(UserError, match="exists"):
        export(live(house.books, house.root, None), folder)


def test_every_file_of_an_export_that_counts_is_checked(folder):
    generator = random.Random(4)
    counted = [path for part in ("ledger", "models", "registry.json") for path in _files(folder / part)]
    assert len(counted) > 15
    for path in counted:
        undo = flip(path, generator)
        broken = []
        try:
            broken = [link for link in audit(exported(folder)).links if link.holds is False]
        except UserError:
            broken = [path]
        finally:
            undo()
        assert broken, f"{path.name} was altered unnoticed"


def _files(path):
    return [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())


def test_keys_can_come_from_another_source(folder, tmp_path):
    load_identity(tmp_path / "keys")
    assert not audit(exported(folder, tmp_path / "keys")).ok
    assert audit(exported(folder, folder / "keys")).ok


def test_an_export_gives_nothing_away(house, folder):
    for path in _files(folder):
        text = path.read_bytes().decode(errors="ignore")
        assert str(house.root) not in text, path.name
        assert "PRIVATE KEY" not in text, path.name
    payloads = [
        json.loads(base64.b64decode(json.loads(line)["payload"]))
        for line in (folder / "ledger" / "ledger.jsonl").read_bytes().splitlines()
    ]
    assert all(str(house.root) not in str(payload) for payload in payloads)


def test_a_signature_is_not_mistaken_for_a_path(tmp_path):
    envelope = {"payload": "e30=", "signatures": [{"sig": "/ab/cd+/ef/gh==", "keyid": ""}]}
    (tmp_path / "ledger.jsonl").write_text(json.dumps(envelope))
    (tmp_path / "bom.json").write_text(json.dumps(envelope, separators=(",", ":")))
    check_leaks(tmp_path)
    (tmp_path / "ledger.jsonl").write_text(json.dumps(envelope | {"reason": "/home/ada/notes"}))
    with pytest.raises(UserError, match="absolute path"):
        check_leaks(tmp_path)


def test_a_broken_chain_is_not_exported(house, tmp_path):
    tampering = next(kind for kind in tamperings(house) if kind.name == "the alias")
    undo = tampering.act(random.Random(0))
    try:
        with pytest.raises(UserError, match="alias"):
            export(live(house.books, house.root, None), tmp_path / "out")
    finally:
        undo()
    assert not (tmp_path / "out").exists()


def test_documents_for_other_tools(house, folder):
    bom = json.loads((folder / "bom.cdx.json").read_text())
    assert bom["specVersion"] == "1.7"
    assert bom["metadata"]["component"]["modelCard"]["modelParameters"]["approach"] == {
        "type": "reinforcement-learning"
    }
    names = {item["name"] for item in bom["components"]}
    assert {"edit-r2-sft", "edit-r2-base", "sessions/tiny", "benchmark/tiny", "numpy"} <= names
    events = [json.loads(line) for line in (folder / "openlineage.jsonl").read_text().splitlines()]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 3
    assert {item["name"] for item in events[-1]["inputs"]} == {"sessions/tiny", "model/sft"}
    drawn = ElementTree.parse(folder / "lineage.svg")
    words = [node.text for node in drawn.iter() if node.tag.endswith("text")]
    assert {"model base", "model sft", "model rl", "edit-r2 version 2", "gates: promote"} <= set(words)
    text = (folder / "model-card.md").read_text()
    assert "version 2" in text
    assert "| session_success |" in text
    assert "non_inferiority" in text


def test_the_tree_and_the_reverse_question(house):
    view = live(house.books, house.root, None)
    text = tree(pedigree(view))
    assert [word for word in ("rl", "sft", "base") if f"└─ {word} " in text] == ["rl", "sft", "base"]
    assert [version for version, _ in who_used(view, "sessions/tiny")] == [1, 2]
    assert who_used(view, "sessions/other") == who_used(view, "another session") == []
    assert [version for version, _ in who_used(view, "session")] == [1, 2], "the id of a session in the dataset"
    assert [version for version, _ in who_used(view, "s0001")] == [1, 2], "the id of a session in the benchmark"
    assert who_used(view, house.commit)[0][1] == "source of rl"
    own = pedigree(view, 2).generations[0].digest
    assert who_used(view, locked(house)) == [(1, "sessions/tiny of rl"), (2, "sessions/tiny of rl")]
    assert who_used(view, own) == [(2, "model rl of rl")]


def test_another_registered_model_in_the_same_ledger_is_another_one(tmp_path, template):
    house = build_house(tmp_path, template)
    books = house.books
    promote(books, *stand(house, family(house, "a"), skilled(0.7)), reason="better")
    view = replace(live(books, house.root, None), registry=Registry(books.registry.client, "sketch"))
    assert who_used(view, DATASET) == []
    with pytest.raises(UserError, match="the ledger knows no version 1"):
        pedigree(view, 1)


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(UserError, match="no exported audit folder"):
        exported(tmp_path)

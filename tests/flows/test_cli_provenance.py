"""The commands of provenance, on an installation with two promoted versions."""

from __future__ import annotations

import json
import os
import sys
from unittest import mock

import pytest
from moto import mock_aws

from flows import cli
from tasks.promotion import promote
from tasks.settings import settings
from tasks.storage import Storage
from tests.tasks.buckets import in_a_bucket
from tests.tasks.houses import build_house, family, sqlite_template, stand
from tests.tasks.scoresets import skilled


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = build_house(tmp_path_factory.mktemp("house"), sqlite_template(tmp_path_factory.mktemp("mlflow")))
    for content, skill, seed in (("a", 0.5, 3), ("b", 0.9, 4)):
        assert promote(house.books, *stand(house, family(house, content), skilled(skill), seed), "better").promoted
    (house.root / "params.yaml").write_text("profiles: {}\n")
    own = {"EDIT_R2_ROOT": str(house.root), "EDIT_R2_ACTOR": "grace"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDIT_R2_", "MLFLOW_"))}
    with mock.patch.dict(os.environ, kept | own, clear=True):
        settings.cache_clear()
        yield house
    settings.cache_clear()


@pytest.fixture
def call(house, monkeypatch, capsys):
    """Run the command line as the entry point does: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edit-r2", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


def test_lineage_audit_and_history_of_the_champion(call, house):
    code, out, _ = call("lineage", "edit-r2@champion")
    assert code == 0 and out.startswith("edit-r2 version 2") and "└─ base" in out
    code, out, _ = call("audit", "edit-r2@champion")
    assert code == 0 and "links hold" in out
    code, out, _ = call("audit", "edit-r2/1", "--json")
    assert code == 0 and json.loads(out)["version"] == 1
    code, out, _ = call("history", "--json")
    assert [entry["action"] for entry in json.loads(out)["entries"]] == ["promote", "promote"]
    code, out, _ = call("lineage", "who-used", "sessions/tiny")
    assert out.splitlines() == ["version 1: sessions/tiny of rl", "version 2: sessions/tiny of rl"]
    code, out, _ = call("lineage", "card")
    assert out.startswith("# edit-r2, version 2")


def test_a_broken_link_has_its_own_exit_code(call, house):
    house.books.registry.point("champion", 1)
    code, out, _ = call("audit")
    assert code == 6 and "broken at alias" in out and out.count("\n") == 1
    code, out, _ = call("doctor")
    assert code == 6 and "names version 1" in out
    code, out, _ = call("doctor", "--repair")
    assert code == 0 and "Mended" in out
    assert call("doctor")[:2] == (0, "all is well\n")
    assert call("audit")[0] == 0


def test_an_exported_folder_is_audited_without_the_installation(call, tmp_path):
    target = tmp_path / "auditor"
    code, _, err = call("audit", "export", str(target))
    assert code == 0, err
    code, out, _ = call("audit", "--folder", str(target), "--json")
    assert code == 0 and json.loads(out)["ok"]
    (target / "ledger" / "ledger.jsonl").write_text("{}\n")
    assert call("audit", "--folder", str(target))[0] == 6


def test_rollback_and_recall_by_hand(call, house):
    code, out, _ = call("rollback", "--reason", "drifts", "--leaving", "2")
    assert code == 0 and "version 1 is champion again" in out
    assert call("rollback", "--reason", "drifts", "--leaving", "2")[0] == 0
    code, _, err = call("rollback", "--reason", "drifts", "--leaving", "7")
    assert code == 5 and "version 1 is champion" in err
    assert call("recall", "2", "--reason", "a session was withdrawn")[0] == 0
    code, out, _ = call("audit", "edit-r2/2")
    assert code == 6 and "withdrawn" in out
    assert "grace" in call("history")[1]


def test_the_ledger_moves_into_the_bucket(call, house, monkeypatch):
    here = call("history")[1]
    code, _, err = call("copy-ledger")
    assert code == 2 and "EDIT_R2_S3_BUCKET" in err
    with mock_aws():
        for name, value in {"EDIT_R2_S3_BUCKET": "lab", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        in_a_bucket(Storage.at("s3://lab"))
        assert call("history")[1] == "no entries\n"
        code, out, err = call("copy-ledger")
        assert code == 0 and f"{here.count(chr(10))} entries" in out, err
        assert call("history")[1] == here
    monkeypatch.undo()
    settings.cache_clear()


def test_an_approval_is_signed_with_a_key_of_ones_own(call, tmp_path, house):
    out = tmp_path / "approval.json"
    words = ("--name", "ada", "--reason", "looked at all strips, good enough", "--out", str(out))
    code, _, err = call("approve", "a" * 64, *words)
    assert code == 2 and "ada has no key" in err and not list(house.books.keys.rglob("ada*"))
    assert call("approve", "a" * 64, *words, "--new-key")[0] == 0
    assert json.loads(out.read_text())["payloadType"].endswith("approval+json")
    assert (house.books.keys / "people" / "ada.pem").exists()
    assert call("approve", "b" * 64, *words)[0] == 0, "it is there now"
    code, _, err = call("approve", "nonsense", *words)
    assert code == 2 and "decision" in err


@pytest.mark.parametrize(
    "words", [("audit", "edit-r2/x"), ("lineage", "other@champion"), ("audit", "--folder", "none")]
)
def test_wrong_names_are_one_line(call, words):
    code, out, err = call(*words)
    assert code in (2, 6) and (out + err).count("\n") == 1


def test_retention_shows_first_and_deletes_on_demand(call, house):
    spare = family(house, "spare")
    words = ("retention", "--profile", "tiny", "--keep-last", "0", "--older-than", "0")
    code, out, _ = call(*words, "--json")
    shown = json.loads(out)
    going = {item["name"] for item in shown["items"] if not item["keep"]}
    assert code == 0 and not shown["deleted"] and spare.model_id in going
    assert all(item["reason"] for item in shown["items"])
    code, out, _ = call(*words, "--delete")
    assert code == 0 and "delete" in out and out.splitlines()[-1].endswith("freed")
    assert json.loads(call(*words, "--json")[1])["bytes"] == 0
    assert call("audit", "edit-r2/1")[0] == 0

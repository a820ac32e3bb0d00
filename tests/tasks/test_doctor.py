"""The doctor: finds what was planted, mends what it may, records what it did, and leaves the healthy alone."""

from __future__ import annotations

import shutil
import time

import pytest
from filelock import FileLock

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import doctor
from tasks.doctor import examine
from tasks.doctor_runs import give_up
from tasks.documents import FolderShelf
from tasks.locks import Busy
from tasks.promotion import history, model_lock, promote, rollback
from tasks.registry import AWAITS_TAG, UNDECIDED, VERDICT_TAG
from tasks.settings import settings
from tests.tasks.houses import build_house, family, sqlite_template, stand, train
from tests.tasks.scoresets import skilled


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return sqlite_template(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def house(tmp_path, template):
    return build_house(tmp_path, template)


@pytest.fixture
def crowned(house):
    for content, skill, seed in (("a", 0.5, 3), ("b", 0.9, 4)):
        promote(house.books, *stand(house, family(house, content), skilled(skill), seed), reason="better")
    return house


def seen(house, repair=False):
    return [(complaint.kind, complaint.mended) for complaint in examine(house.books, house.root, repair)]


def test_a_healthy_installation_has_no_complaints(crowned, house):
    assert seen(crowned) == []
    assert seen(crowned, repair=True) == []
    assert len(history(crowned.books)) == 2


def test_a_moved_alias_is_found_mended_and_recorded(crowned):
    for _ in range(2):  # twice: the second repair is an act of its own
        crowned.books.registry.point("champion", None)
        assert seen(crowned) == [("alias", False)]
        assert crowned.books.registry.alias("champion") is None
        assert seen(crowned, repair=True) == [("alias", True)]
        assert crowned.books.registry.alias("champion") == 2
    assert [signed.entry.action for signed in history(crowned.books)][2:] == ["repair", "repair"]
    assert "named version None" in history(crowned.books)[-1].entry.reason
    assert crowned.books.ledger.champion("edit-r2", "champion").version == 2
    assert seen(crowned) == []


def test_a_promotion_during_a_visit_is_not_taken_for_a_moved_alias(crowned, monkeypatch):
    """The visit has read the chain, then a promotion enters its decision and moves the alias."""
    books, versions = crowned.books, type(crowned.books.registry).versions

    def promoted_just_now(registry):
        monkeypatch.undo()
        rollback(books, "b drifts")
        return versions(registry)

    monkeypatch.setattr(type(books.registry), "versions", promoted_just_now)
    assert seen(crowned, repair=True) == []
    assert [signed.entry.action for signed in history(books)] == ["promote", "promote", "rollback"]


def test_a_torn_ledger_is_mended(crowned):
    file = crowned.books.shelf.file
    file.write_bytes(file.read_bytes() + b'{"payload":"eyJ')
    assert seen(crowned) == [("ledger", False)]
    assert seen(crowned, repair=True) == [("ledger", True)]
    assert seen(crowned) == []
    assert len(history(crowned.books)) == 2


def test_an_altered_ledger_is_told_and_left_alone(crowned):
    file = crowned.books.shelf.file
    altered = file.read_bytes().replace(b"payload", b"pAyload", 1)
    file.write_bytes(altered)
    complaints = examine(crowned.books, crowned.root, repair=True)
    assert [complaint.kind for complaint in complaints] == ["ledger"]
    assert file.read_bytes() == altered


def test_an_unfinished_projection_is_finished(crowned):
    """A promotion that was killed right after its entry: the ledger knows, the registry does not."""
    crowned.books.registry.point("champion", 1)
    crowned.books.registry.anchor(0, "0" * 64)
    assert ("alias", False) in seen(crowned)
    examine(crowned.books, crowned.root, repair=True)
    assert crowned.books.registry.alias("champion") == 2
    assert seen(crowned) == []
    assert [signed.entry.action for signed in history(crowned.books)] == ["promote", "promote"], "no hand moved it"


@pytest.mark.parametrize("whole", [False, True])
def test_a_champion_that_was_deleted_in_the_registry_is_told_and_entered_nowhere(crowned, whole):
    registry = crowned.books.registry
    if whole:
        registry.client.delete_registered_model(registry.name)
    else:
        registry.client.delete_model_version(registry.name, "2")
    (crowned.books.keys / "pipeline.pem").chmod(0o640)
    for repair in (True, True, False):
        found = examine(crowned.books, crowned.root, repair)
        assert [(complaint.kind, complaint.mended) for complaint in found] == [("version", False), ("key", False)]
        assert "edit-r2 rollback --to" in found[0].remedy
    assert len(history(crowned.books)) == 2


def test_a_check_that_fails_leaves_the_others_to_be_made(crowned, monkeypatch):
    def lost(*_):
        raise UserError("the database is gone", "Restore it")

    monkeypatch.setattr(doctor, "_alias", lost)
    (crowned.books.keys / "pipeline.pem").chmod(0o640)
    assert seen(crowned) == [("check", False), ("key", False)]


def test_a_visit_reads_the_chain_once(crowned, monkeypatch):
    reads = []
    lines = FolderShelf.lines
    monkeypatch.setattr(FolderShelf, "lines", lambda shelf: reads.append(shelf) or lines(shelf))
    assert seen(crowned, repair=True) == []
    assert len(reads) == 1


def test_a_version_without_decision_is_marked(house):
    model = train(house, "base", content="x")
    version = house.books.registry.register(model.model_id, model.run_id, {})
    assert seen(house) == [("version", False)]
    assert seen(house, repair=True) == [("version", True)]
    assert house.books.registry.version(version).tags[VERDICT_TAG] == UNDECIDED
    assert seen(house) == []


def test_a_version_whose_promotion_is_under_way_is_left_alone(house):
    model = train(house, "base", content="x")
    house.books.registry.register(model.model_id, model.run_id, {})
    with model_lock(house.books, model.model_id):
        assert seen(house, repair=True) == []
    assert seen(house) == [("version", False)]


def test_runs_of_dead_processes_are_closed_and_live_ones_are_not(house):
    tags = {str(Tag.STAGE): "train_rl", str(Tag.FINGERPRINT): "a" * 64}
    dead = house.client.create_run(house.experiment, tags=tags).info.run_id
    live = house.client.create_run(house.experiment, tags=tags | {str(Tag.FINGERPRINT): "b" * 64}).info.run_id
    elsewhere = house.client.create_run(house.experiment, tags=tags | {str(Tag.HOST): "another"}).info.run_id
    (house.books.state / "runs").mkdir(exist_ok=True)
    with FileLock(house.books.state / "runs" / f"train_rl-{'b' * 12}.lock"):
        assert seen(house) == [("run", False)]
        assert seen(house, repair=True) == [("run", True)]
        assert seen(house) == []
    status = {run: house.client.get_run(run).info.status for run in (dead, live, elsewhere)}
    assert status == {dead: "KILLED", live: "RUNNING", elsewhere: "RUNNING"}
    assert "died" in house.client.get_run(dead).data.tags[Tag.FAILURE]


def test_a_run_whose_machine_does_not_come_back_is_named_and_closed_by_a_persons_word(house):
    tags = {str(Tag.STAGE): "train_rl", str(Tag.FINGERPRINT): "a" * 64, str(Tag.HOST): "another"}
    long_ago = int((time.time() - settings().stage_timeout - 60) * 1000)
    run = house.client.create_run(house.experiment, start_time=long_ago, tags=tags, run_name="rl").info.run_id
    resumed = str(int(time.time()) - 60)
    house.client.create_run(house.experiment, start_time=long_ago, tags=tags | {str(Tag.BEGUN): resumed})
    house.client.create_run(house.experiment, start_time=long_ago, tags=tags | {str(Tag.STAGE): "retrain"})
    (found,) = examine(house.books, house.root, repair=True)
    assert (found.kind, found.mended) == ("run", False) and f"--gone {run}" in found.remedy
    assert house.client.get_run(run).info.status == "RUNNING"
    (house.books.state / "runs").mkdir(exist_ok=True)
    with FileLock(house.books.state / "runs" / f"train_rl-{'a' * 12}.lock"), pytest.raises(Busy):
        give_up(house.books, run)
    give_up(house.books, run)
    assert house.client.get_run(run).info.status == "KILLED" and seen(house) == []
    for other, said in ((run, "none that is under way"), (run[:12], "holds no run")):
        with pytest.raises(UserError, match=said):
            give_up(house.books, other)


def test_a_model_that_was_never_uploaded_is_closed(house):
    run = house.client.create_run(house.experiment)
    house.client.set_terminated(run.info.run_id, "KILLED")
    model = house.client.create_logged_model(house.experiment, name="rl", source_run_id=run.info.run_id)
    assert seen(house, repair=True) == [("model", True)]
    assert house.client.get_logged_model(model.model_id).status == "FAILED"


@pytest.mark.parametrize("content", [b"{}", None])
def test_a_candidate_does_not_wait_on_what_is_no_decision(house, content):
    """Whoever can write to MLflow can write the tag."""
    model = family(house, "waits")
    digest = "0" * 64 if content is None else house.books.shelf.put(content)
    house.client.set_logged_model_tags(model.model_id, {AWAITS_TAG: digest})
    assert seen(house, repair=True) == [("model", False)], "the decision may be newer than what is here"
    assert house.client.get_logged_model(model.model_id).tags[AWAITS_TAG] == digest


def test_a_check_that_breaks_silences_no_other(house, monkeypatch):
    def broken(*_):
        raise ValueError("not what MLflow used to say")
        yield

    monkeypatch.setattr(doctor, "_waiting", broken)
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**80)
    assert seen(house) == [("check", False), ("disk", False)]

    def away(*_):
        raise ConnectionError("no route")
        yield

    monkeypatch.setattr(doctor, "_waiting", away)
    with pytest.raises(ConnectionError):
        seen(house)


def test_a_candidate_waits_no_more_once_another_is_champion(house):
    """Else retention would keep for ever what nobody signs."""
    model = family(house, "waits")
    _, decision = stand(house, model, skilled(0.7))
    house.client.set_logged_model_tags(model.model_id, {AWAITS_TAG: decision.digest})
    assert seen(house, repair=True) == [], "a person may still sign"
    promote(house.books, *stand(house, family(house, "a"), skilled(0.8), 4), reason="better")
    assert seen(house) == [("model", False)]
    assert seen(house, repair=True) == [("model", True)]
    assert not house.client.get_logged_model(model.model_id).tags[AWAITS_TAG]
    assert seen(house) == []


def test_keys_disk_and_documents(crowned, monkeypatch):
    key = crowned.books.keys / "pipeline.pem"
    key.chmod(0o640)
    assert seen(crowned) == [("key", False)]
    key.chmod(0o600)
    entry = history(crowned.books)[0].entry
    path = crowned.books.state / "ledger" / "documents" / entry.decision[:2] / entry.decision
    kept = path.read_bytes()
    path.unlink()
    assert seen(crowned) == [("document", False)]
    path.write_bytes(kept)
    usage = shutil.disk_usage(crowned.root)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=10))
    complaint = examine(crowned.books, crowned.root)[0]
    assert complaint.kind == "disk"
    assert "GiB" in complaint.line


def test_a_private_key_in_the_repository_is_told(house):
    import subprocess

    (house.root / "mine.pem").write_text("secret")
    subprocess.run(["git", "add", "-f", "mine.pem"], cwd=house.root, check=True)
    assert seen(house) == [("key", False)]

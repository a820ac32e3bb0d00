"""Promotion: verified before it is entered, entered before it is shown, repeatable after a crash."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import lineage, projection, promotion
from tasks.approval import Recalled, RolledBack, load_person, sign_approval
from tasks.audit import audit
from tasks.ledger import Conflict
from tasks.models import digest
from tasks.promotion import promote, rollback
from tasks.registry import OVERRIDE_TAG, RECALLED_TAG, VERDICT_TAG
from tasks.signing import load_identity
from tasks.view import live
from tests.tasks.houses import build_house, family, sqlite_template, stand
from tests.tasks.scoresets import identity, skilled


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return sqlite_template(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def house(tmp_path, template):
    return build_house(tmp_path, template)


def crown(house, content, skill, seed):
    model = family(house, content)
    return model, promote(house.books, *stand(house, model, skilled(skill), seed), reason=f"{content} is better")


def test_the_first_good_model_becomes_champion(house):
    model, outcome = crown(house, "a", 0.7, 3)
    books = house.books
    assert outcome.promoted, outcome.decision.markdown()
    assert books.registry.alias("champion") == outcome.version == 1
    entry = books.ledger.champion("edit-r2", "champion")
    assert (entry.action, entry.actor, entry.model_digest) == ("promote", "ada", model.digest)
    statement = lineage.opened(entry.statement, books.shelf, books.trusted)
    assert lineage.model_digest(statement) == model.digest
    assert lineage.byproduct(statement, "gate-decision") == entry.decision
    assert books.registry.version(1).tags[VERDICT_TAG] == "promote"


def test_a_bad_model_is_refused_on_record_and_the_champion_stays(house):
    crown(house, "a", 0.6, 3)
    _, refused = crown(house, "b", 0.3, 4)
    assert not refused.promoted
    assert house.books.registry.alias("champion") == 1
    last = promotion.history(house.books)[-1].entry
    assert (last.action, last.version) == ("refuse", 2)
    assert "floor" in refused.decision.markdown()


def test_repeating_a_promotion_changes_nothing(house):
    model = family(house, "a")
    candidate, decision = stand(house, model, skilled(0.7))
    first = promote(house.books, candidate, decision, "better")
    again = promote(house.books, candidate, decision, "better")
    assert (again.entry, again.version) == (first.entry, first.version)
    assert len(promotion.history(house.books)) == 1
    assert len(house.books.registry.versions()) == 1


def test_a_decision_against_a_former_champion_is_refused(house):
    early = family(house, "early")
    candidate, decision = stand(house, early, skilled(0.7))
    crown(house, "quick", 0.7, 4)
    with pytest.raises(Conflict, match="another champion"):
        promote(house.books, candidate, decision, "late")
    quick = house.books.ledger.champion("edit-r2", "champion")
    assert house.books.registry.alias("champion") == quick.version
    assert quick.model_digest != early.digest


def test_rollback_drill(house):
    """Promote A, promote B, roll back: A again, bit for bit, and the history tells all three."""
    a, first = crown(house, "a", 0.5, 3)
    with house.books.registry.model_folder(a.model_id) as folder:
        before = digest(folder)
    _, second = crown(house, "b", 0.9, 4)
    assert second.promoted, second.decision.markdown()
    assert house.books.registry.alias("champion") == second.version
    entry = rollback(house.books, "b drifts on real pictures", leaving=second.version)
    again = rollback(house.books, "b drifts on real pictures", leaving=second.version)
    assert again == entry, "a repetition after a crash must not roll back twice"
    assert house.books.registry.alias("champion") == first.version
    version = house.books.registry.version(first.version)
    with house.books.registry.model_folder(version.model_id) as folder:
        assert digest(folder) == before == a.digest
    told = [(s.entry.action, s.entry.version, s.entry.actor, s.entry.reason) for s in promotion.history(house.books)]
    assert told == [
        ("promote", 1, "ada", "a is better"),
        ("promote", 2, "ada", "b is better"),
        ("rollback", 1, "ada", "b drifts on real pictures"),
    ]
    with pytest.raises(UserError, match="no champion before"):
        rollback(house.books, "further back")


def test_a_rollback_that_is_asked_for_again_does_not_go_back_one_further(house, monkeypatch):
    """Its entry is there, MLflow was not when the alias was to move: whoever repeats the command means the same."""
    for number, skill in enumerate((0.5, 0.7, 0.9)):
        crown(house, f"m{number}", skill, 3 + number)

    def gone(_books):
        raise ConnectionError("no route")

    monkeypatch.setattr(promotion, "project", gone)
    with pytest.raises(ConnectionError):
        rollback(house.books, "drifts since Monday")
    monkeypatch.undo()
    assert house.books.registry.alias("champion") == 3
    assert rollback(house.books, "drifts since Monday").entry.version == 2
    assert house.books.registry.alias("champion") == 2
    assert rollback(house.books, "drifts since Monday", to=2).entry.version == 2
    assert rollback(house.books, "drifts since Monday", leaving=2).entry.version == 1
    with pytest.raises(UserError, match="no champion before"):
        rollback(house.books, "another reason is another rollback")


def test_a_rollback_to_what_was_recalled_since_is_no_repetition(house):
    for number, skill in enumerate((0.5, 0.7, 0.9)):
        crown(house, f"m{number}", skill, 3 + number)
    rollback(house.books, "tints everything")
    promotion.recall(house.books, 2, "it tints as well")
    assert rollback(house.books, "tints everything").entry.version == 1


def test_a_retried_promotion_does_not_undo_a_rollback(house):
    crown(house, "a", 0.5, 3)
    candidate, decision = stand(house, family(house, "b"), skilled(0.9), 4)
    promote(house.books, candidate, decision, "better")
    rollback(house.books, "worse in practice")
    with pytest.raises(RolledBack, match=r"rollback to version 1 .* left these weights, .*: worse in practice"):
        promote(house.books, candidate, decision, "better")
    assert house.books.registry.alias("champion") == 1


def test_weights_that_a_rollback_left_come_back_only_with_a_persons_word(house):
    """A retraining that changed nothing makes the same weights, and a new decision on them."""
    books = house.books
    crown(house, "a", 0.5, 3)
    between, _ = crown(house, "b", 0.7, 4)
    newest, _ = crown(house, "c", 0.9, 5)
    rollback(books, "c drifts, b too", to=1)
    for model, skill in ((newest, 0.9), (between, 0.7)):
        candidate, decision = stand(house, model, skilled(skill), 6)
        assert decision.promote
        with pytest.raises(RolledBack, match="c drifts, b too"):
            promote(books, candidate, decision, "retrained")
    assert [signed.entry.action for signed in promotion.history(books)] == ["promote"] * 3 + ["rollback"]
    candidate, decision = stand(house, newest, skilled(0.9), 6)
    grace = load_person(books.keys, "grace", create=True)
    word = sign_approval("approve", decision.digest, grace, "c is fine after all", timedelta(days=1))
    outcome = promote(books, candidate, decision, "retrained", word)
    assert outcome.promoted and outcome.entry.entry.approval
    assert promote(books, candidate, decision, "retrained", word).entry == outcome.entry, "after a crash, say"
    assert books.registry.alias("champion") == outcome.version == 3
    assert audit(live(books, house.root, books.state / "dvc-remote")).ok
    assert promotion.left_behind(books, newest.digest) is None
    assert promotion.left_behind(books, between.digest).index == 3
    rollback(books, "c drifts after all")
    with pytest.raises(RolledBack, match=r"entry 5 .* grace signed before that: c drifts after all"):
        promote(books, candidate, decision, "retrained", word)
    assert books.registry.alias("champion") == 1


def test_an_audit_names_a_rollback_that_was_undone_without_a_persons_word(house, monkeypatch):
    """Promotion refuses it; who holds a key and writes by other means is found out."""
    books = house.books
    crown(house, "a", 0.5, 3)
    newest, _ = crown(house, "b", 0.9, 4)
    rollback(books, "b drifts")
    monkeypatch.setattr(promotion, "left_behind", lambda *_: None)
    promote(books, *stand(house, newest, skilled(0.9), 6), "retrained")
    links = audit(live(books, house.root, books.state / "dvc-remote")).links
    (broken,) = [link for link in links if link.holds is False]
    assert broken.name == "rollback" and "entry 3 undid the rollback at entry 2" in broken.detail


def test_rollback_verifies_files_first(house):
    a, _ = crown(house, "a", 0.5, 3)
    crown(house, "b", 0.9, 4)
    with house.books.registry.model_folder(a.model_id) as folder:
        weights = Path(folder) / "model.safetensors"
        weights.write_bytes(weights.read_bytes().replace(b"rl", b"xx", 1))
    with pytest.raises(UserError, match=r"model\.safetensors .* differs"):
        rollback(house.books, "b is bad")
    assert house.books.registry.alias("champion") == 2


@pytest.mark.parametrize("change", ["alter", "add", "remove"])
def test_altered_files_are_not_promoted(house, change):
    model = family(house, "a")
    candidate, decision = stand(house, model, skilled(0.7))
    with house.books.registry.model_folder(model.model_id) as folder:
        if change == "alter":
            (folder / "vae" / "config.json").write_text("{ }")
        elif change == "add":
            (folder / "extra.py").write_text("print()")
        else:
            (folder / "vae" / "config.json").unlink()
    with pytest.raises(UserError, match="differs from its statement"):
        promote(house.books, candidate, decision, "better")
    assert promotion.history(house.books) == []


def test_a_decision_of_another_model_is_not_accepted(house):
    good, bad = family(house, "good"), family(house, "bad")
    _, decision = stand(house, good, skilled(0.8))
    candidate, _ = stand(house, bad, identity)
    with pytest.raises(UserError, match="not about this model"):
        promote(house.books, candidate, decision, "swapped")
    forged = decision.model_copy(update={"model_digest": bad.digest})
    house.books.shelf.put(forged.document())
    with pytest.raises(UserError, match="cannot be made again"):
        promote(house.books, candidate, forged, "forged")


def test_an_override_needs_a_person_a_reason_and_an_end(house):
    books = house.books
    model = family(house, "a")
    candidate, decision = stand(house, model, skilled(0.42))
    assert not decision.promote
    person = load_person(books.keys, "grace", create=True)
    words = "needed for the demonstration on Friday"
    with pytest.raises(UserError, match="sentence"):
        sign_approval("override", decision.digest, person, "ok", timedelta(days=1))
    with pytest.raises(UserError, match="30 days"):
        sign_approval("override", decision.digest, person, words, timedelta(days=90))
    own = sign_approval("override", decision.digest, books.identity, words, timedelta(days=1))
    other = sign_approval("override", "0" * 64, person, words, timedelta(days=1))
    wrong_kind = sign_approval("approve", decision.digest, person, words, timedelta(days=1))
    stranger = sign_approval("override", decision.digest, load_identity(house.root, "eve"), words, timedelta(days=1))
    for envelope in (own, other, wrong_kind, stranger, b"yes"):
        with pytest.raises(UserError):
            promote(books, candidate, decision, "try", word=envelope)
    outcome = promote(
        books, candidate, decision, "try", sign_approval("override", decision.digest, person, words, timedelta(days=1))
    )
    assert outcome.promoted
    assert outcome.entry.entry.action == "override"
    assert "grace" in books.registry.version(outcome.version).tags[OVERRIDE_TAG]
    assert books.shelf.get(outcome.entry.entry.approval)


def test_a_recalled_version_is_marked_and_not_restored(house):
    crown(house, "a", 0.5, 3)
    crown(house, "b", 0.9, 4)
    promotion.recall(house.books, 1, "a session was withdrawn")
    promotion.recall(house.books, 1, "a session was withdrawn")
    assert [s.entry.action for s in promotion.history(house.books)] == ["promote", "promote", "recall"]
    assert house.books.registry.version(1).tags[RECALLED_TAG] == "a session was withdrawn"
    with pytest.raises(UserError, match="recalled"):
        rollback(house.books, "b is bad")


def test_a_recall_goes_by_the_ledger_and_not_by_tags(house):
    model, _ = crown(house, "a", 0.5, 3)
    house.books.registry.tag(1, str(Tag.DIGEST), "f" * 64)
    assert promotion.recall(house.books, 1, "a session was withdrawn").entry.model_digest == model.digest
    undecided = house.books.registry.register(family(house, "b").model_id, model.run_id, {})
    with pytest.raises(UserError, match=f"no decision on version {undecided}"):
        promotion.recall(house.books, undecided, "a session was withdrawn")


def test_weights_that_were_recalled_do_not_become_champion_again_under_a_new_decision(house):
    crown(house, "a", 0.5, 3)
    model, _ = crown(house, "b", 0.9, 4)
    promotion.recall(house.books, 2, "a session was withdrawn")
    rollback(house.books, "b was recalled", to=1)
    with pytest.raises(Recalled, match="recalled as version 2 at entry 2: a session was withdrawn"):
        promote(house.books, *stand(house, model, skilled(0.9), 5), reason="better again")
    assert house.books.registry.alias("champion") == 1


def test_a_registry_that_does_not_answer_is_not_an_empty_one(house, monkeypatch):
    """Retention spares what an alias names, and the head tells of a ledger that was cut short."""
    from mlflow.exceptions import MlflowException

    registry = house.books.registry
    assert registry.aliases() == {} and registry.head() is None, "nothing is registered yet"

    def down(_name):
        raise MlflowException("503 Service Unavailable")

    monkeypatch.setattr(registry.client, "get_registered_model", down)
    for ask in (registry.aliases, registry.head):
        with pytest.raises(MlflowException, match="503"):
            ask()


def test_projection_repairs_what_the_alias_says(house):
    crown(house, "a", 0.5, 3)
    crown(house, "b", 0.9, 4)
    house.books.registry.point("champion", 1)
    assert projection.project(house.books) == 2
    assert house.books.registry.alias("champion") == 2

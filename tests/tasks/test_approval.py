"""A signed approval: where the policy asks for one nothing is promoted without it, and only the right one counts."""

from __future__ import annotations

import base64
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from data.errors import UserError
from tasks.approval import APPROVAL_TYPE, NotApproved, check_approval, load_person, needs_approval, sign_approval
from tasks.audit import audit
from tasks.candidacy import assess
from tasks.canonical import canonical
from tasks.card import card
from tasks.export import export
from tasks.pedigree import pedigree, tree
from tasks.picture import draw
from tasks.policy import load_policy
from tasks.promotion import history, promote, rollback
from tasks.registry import OVERRIDE_TAG
from tasks.signing import load_identity, sign
from tasks.view import live
from tests.tasks.houses import POLICY, build_house, family, sqlite_template, stand, standing
from tests.tasks.scoresets import skilled

WORDS = "looked at every strip of the benchmark"
ASKING = POLICY.model_copy(update={"approval": "required"})
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return build_house(tmp_path_factory.mktemp("house"), sqlite_template(tmp_path_factory.mktemp("mlflow")))


@pytest.fixture(scope="module")
def case(house):
    """A candidate that the gates let pass, under a policy that asks for approval; nothing promotes it by accident."""
    model = family(house, "a")
    candidate, _ = stand(house, model, skilled(0.7))
    return candidate, assess(house.books, ASKING, model, standing(house, model, skilled(0.7)))


@pytest.fixture(scope="module")
def grace(house):
    return load_person(house.books.keys, "grace", create=True)


def refused(house, case, envelope):
    """What is said when this envelope is handed in as the approval; nothing may have been entered."""
    with pytest.raises(UserError) as caught:
        promote(house.books, *case, "better", word=envelope)
    assert history(house.books) == [] and house.books.registry.alias("champion") is None
    return caught.value.problem


def spoken(about, identity, **changes):
    now = datetime.now(UTC)
    said = {"kind": "approve", "decision": about.digest, "signer": identity.name, "reason": WORDS}
    times = {"given": now.isoformat(), "expires": (now + DAY).isoformat()}
    return sign(said | times | changes, APPROVAL_TYPE, identity)


def test_without_an_answer_it_waits(house, case):
    assert case[1].promote and needs_approval(house.books, case[1])
    with pytest.raises(NotApproved, match="waits for a person"):
        promote(house.books, *case, "better")
    assert history(house.books) == []


def test_an_unsigned_answer(house, case, grace):
    bare = json.loads(spoken(case[1], grace)) | {"signatures": []}
    assert "no trusted key" in refused(house, case, canonical(bare))
    assert "cannot be read" in refused(house, case, b"yes, go ahead")


def test_an_altered_answer(house, case, grace):
    envelope = json.loads(spoken(case[1], grace, reason="not yet, please wait"))
    payload = base64.b64decode(envelope["payload"]).replace(b"not yet, please wait", b"yes, promote it now!")
    altered = canonical(envelope | {"payload": base64.b64encode(payload).decode()})
    assert "no trusted key" in refused(house, case, altered)


def test_an_expired_answer(house, case, grace):
    early = datetime.now(UTC) - timedelta(days=3)
    past = {"given": early.isoformat(), "expires": (early + DAY).isoformat()}
    assert "has expired: it ended at" in refused(house, case, spoken(case[1], grace, **past))
    later = datetime.now(UTC) + DAY
    coming = {"given": later.isoformat(), "expires": (later + DAY).isoformat()}
    assert "not valid before" in refused(house, case, spoken(case[1], grace, **coming))
    long = {"expires": (datetime.now(UTC) + timedelta(days=400)).isoformat()}
    assert "longer than 30 days" in refused(house, case, spoken(case[1], grace, **long))


def test_an_answer_about_another_candidate(house, case, grace):
    model = family(house, "other")
    _, other = stand(house, model, skilled(0.8), 6)
    said = refused(house, case, sign_approval("approve", other.digest, grace, WORDS, DAY))
    assert said == f"the approval is for another decision, about model {model.digest[:12]}"
    assert refused(house, case, spoken(case[1], grace, decision="0" * 64)) == "the approval is for another decision"


def test_an_answer_by_a_stranger_the_pipeline_or_in_another_name(house, case, grace):
    eve = load_identity(house.root / "elsewhere", "eve")
    assert "no trusted key" in refused(house, case, spoken(case[1], eve))
    assert "another person's key" in refused(house, case, spoken(case[1], grace, signer="ada"))


def test_no_machine_approves_what_machines_made(house, case, tmp_path):
    """A worker's public key is trusted for scores and statements, and its holder could sign anything with it."""
    keys, worker = house.books.keys, load_identity(tmp_path, "worker")
    shutil.copy(tmp_path / "worker.pub.pem", keys)
    for machine in (house.books.identity, worker):
        assert "among the keys of machines" in refused(house, case, spoken(case[1], machine))
        with pytest.raises(UserError, match=f"key {machine.name} lies among the keys of machines"):
            load_person(keys, machine.name, create=True)
    shutil.copy(tmp_path / "worker.pub.pem", keys / "people" / "wanda.pub.pem")
    assert "among the keys of machines" in refused(house, case, spoken(case[1], worker, signer="wanda"))
    (keys / "people" / "wanda.pub.pem").unlink()


def test_a_persons_key_in_the_old_place_is_told_where_to_go(house, case):
    old = load_identity(house.books.keys, "hugo")
    with pytest.raises(UserError, match=r"If hugo is a person, move hugo\.pem and hugo\.pub\.pem .* keys/people/"):
        check_approval(spoken(case[1], old), "approve", case[1].digest, house.books)
    with pytest.raises(UserError, match="lies among the keys of machines"):
        load_person(house.books.keys, "hugo")
    for name in ("hugo.pem", "hugo.pub.pem"):
        (house.books.keys / name).rename(house.books.keys / "people" / name)
    assert load_person(house.books.keys, "hugo").keyid == old.keyid
    assert check_approval(spoken(case[1], old), "approve", case[1].digest, house.books).signer == "hugo"


def test_an_override_is_no_approval(house, case, grace):
    said = refused(house, case, sign_approval("override", case[1].digest, grace, WORDS, DAY))
    assert "another act than approve" in said


def test_a_word_without_a_reason_or_with_more_than_it_may_say(house, case, grace):
    assert "reason" in refused(house, case, spoken(case[1], grace, reason="ok"))
    assert "scope" in refused(house, case, spoken(case[1], grace, scope="everything"))


def test_time_is_that_of_the_act(house, case, grace):
    envelope = spoken(case[1], grace)
    assert check_approval(envelope, "approve", case[1].digest, house.books).signer == "grace"
    with pytest.raises(UserError, match="expired"):
        check_approval(envelope, "approve", case[1].digest, house.books, datetime.now(UTC) + 2 * DAY)


def test_a_signed_approval_promotes_is_on_record_and_audited(tmp_path, tmp_path_factory):
    house = build_house(tmp_path, sqlite_template(tmp_path_factory.mktemp("mlflow")))
    books, model = house.books, family(house, "a")
    candidate, plain = stand(house, model, skilled(0.7))
    decision = assess(books, ASKING, model, standing(house, model, skilled(0.7)))
    grace = load_person(books.keys, "grace", create=True)
    word = sign_approval("approve", decision.digest, grace, WORDS, DAY)
    outcome = promote(books, candidate, decision, "better", word)
    entry = outcome.entry.entry
    assert (outcome.promoted, entry.action, entry.reason) == (True, "promote", f"better; approved by grace: {WORDS}")
    assert books.shelf.get(entry.approval) == word
    report = audit(live(books, house.root, house.books.state / "dvc-remote"))
    assert report.ok, report.line
    assert [link.holds for link in report.links if link.name == "approval"] == [True]
    assert export(live(books, house.root, house.books.state / "dvc-remote"), tmp_path / "auditor").ok
    assert "people/grace" in (tmp_path / "auditor" / "VERIFY.md").read_text()
    (books.keys / "people" / "grace.pub.pem").rename(books.keys / "grace.pub.pem")
    broken = audit(live(books, house.root, house.books.state / "dvc-remote")).broken
    assert broken.name == "approval" and "among the keys of machines" in broken.detail
    assert plain.digest != decision.digest, "what a policy asks for is part of the decision"


def test_an_entry_without_the_approval_that_its_policy_asks_for_fails_the_audit(
    tmp_path, tmp_path_factory, monkeypatch
):
    from tasks import approval

    house = build_house(tmp_path, sqlite_template(tmp_path_factory.mktemp("mlflow")))
    model = family(house, "a")
    candidate, _ = stand(house, model, skilled(0.7))
    decision = assess(house.books, ASKING, model, standing(house, model, skilled(0.7)))
    with monkeypatch.context() as patch:
        patch.setattr(approval, "needs_approval", lambda *_: False)  # a pipeline that does not ask
        promote(house.books, candidate, decision, "better")
    report = audit(live(house.books, house.root, None))
    assert report.broken.name == "decision" and "asks for a person's approval" in report.broken.detail


def test_policies_without_the_rule_keep_their_digest():
    assert b"approval" not in load_policy("tiny").document()
    assert b'"approval":"required"' in ASKING.document()


def test_an_override_is_shown_wherever_the_version_is_also_after_a_rollback_to_it(tmp_path, tmp_path_factory):
    house = build_house(tmp_path, sqlite_template(tmp_path_factory.mktemp("mlflow")))
    books, model = house.books, family(house, "a")
    candidate, decision = stand(house, model, skilled(0.42))
    word = sign_approval("override", decision.digest, load_person(books.keys, "grace", True), WORDS, DAY)
    assert not decision.promote and promote(books, candidate, decision, "urgent", word).promoted
    assert promote(books, *stand(house, family(house, "b"), skilled(0.9), 4), reason="better").promoted
    view = live(books, house.root, None)
    for entry in ("override", "rollback"):
        found = pedigree(view, 1)
        assert (found.entry.action, found.word.signer) == (entry, "grace")
        until = f"until {found.word.expires:%Y-%m-%d}"
        for shown in (tree(found), card(found)):
            assert "overridden by grace" in shown and until in shown and WORDS in shown
        assert "overridden by grace" in draw(found)
        assert until in books.registry.version(1).tags[OVERRIDE_TAG]
        links = {link.name: link.holds for link in audit(view, 1).links}
        assert links["approval"] and links["decision"]
        if entry == "override":
            rollback(books, "b drifts")
    assert pedigree(view, 2).word is None

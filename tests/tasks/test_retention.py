"""Retention: the plan keeps what chains need whatever it is given, and deletion leaves every live version whole."""

from __future__ import annotations

import json
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks.audit import audit
from tasks.holdings import look, needed
from tasks.promotion import history, model_lock, promote, recall, rollback
from tasks.registry import AWAITS_TAG, RETIRED_TAG
from tasks.retention import Item, Rule, plan, readable
from tasks.retiring import consider, retire
from tasks.view import live
from tests.tasks.houses import build_house, family, sqlite_template, stand
from tests.tasks.scoresets import identity, skilled

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOTHING = Rule(0, timedelta(0))


def model(name, age=90.0, parent=None, profile="tiny", label="rl", state="whole"):
    return Item("model", name, 10, NOW - timedelta(days=age), profile, label, parent, state=state)


def gone(items, needed_by=(), rule=Rule(0, timedelta(days=30)), profile=None):
    choices = plan(items, dict.fromkeys(needed_by, "the champion"), rule, NOW, profile)
    assert all(choice.reason for choice in choices)
    return {choice.item.name for choice in choices if not choice.keep}


def test_what_a_chain_needs_stays_back_to_its_base():
    chain = [model("base"), model("sft", parent="base"), model("rl", parent="sft"), model("other", parent="base")]
    assert gone(chain, ["rl"]) == {"other"}
    assert gone(chain) == {"base", "sft", "rl", "other"}


def test_the_young_the_newest_and_the_open_stay_with_their_parents():
    old = model("old", parent="root")
    assert gone([model("root"), old, model("young", age=29, parent="root")]) == {"old"}
    assert gone([model("root", label="base"), old, model("newer", age=50)], rule=Rule(1, timedelta(days=30))) == {"old"}
    assert gone([model("root"), model("open", parent="root", state="open"), old]) == {"old"}
    assert gone([model("cut off", age=40, state="broken")], rule=Rule(9, timedelta(days=30))) == {"cut off"}


def test_the_newest_are_counted_by_profile_and_stage():
    groups = [(profile, label) for profile in ("tiny", "small") for label in ("sft", "rl")]
    items = [model(f"{p} {s} {n}", 90 - n, profile=p, label=s) for p, s in groups for n in (1, 2)]
    assert gone(items, rule=Rule(1, timedelta(days=30))) == {f"{p} {s} 1" for p, s in groups}
    assert len(gone(items, profile="small")) == 4


def test_a_chain_may_cross_profiles():
    items = [model("base", profile="tiny"), model("rl", parent="base", profile="small")]
    assert gone(items, ["rl"], profile="tiny") == set()


def test_copies_follow_their_model_and_checkpoints_their_run():
    def copy(name, *owners, age=90.0, kind="copy", state="whole"):
        return Item(kind, name, 5, NOW - timedelta(days=age), owners=owners, state=state)

    items = [
        model("kept"),
        model("gone"),
        copy("of both", "gone", "kept"),
        copy("of gone", "gone"),
        copy("of nobody"),
        copy("fresh", age=1),
        copy(".left", state="broken"),
        copy("busy", kind="checkpoint", state="open"),
        copy("given up", kind="checkpoint", state="broken"),
        copy("can go on", kind="checkpoint", state="broken", age=3),
    ]
    assert gone(items, ["kept"]) == {"gone", "of gone", "of nobody", ".left", "given up"}


def test_no_plan_breaks_a_chain():
    """Random forests of models: what goes is never needed, young, or the ancestor of anything that stays."""
    generator = random.Random(5)
    for _ in range(200):
        items: list[Item] = []
        for number in range(generator.randint(1, 25)):
            parent = generator.choice(items).name if items and generator.random() < 0.7 else None
            state = generator.choice(["whole", "whole", "open", "broken"])
            items.append(model(str(number), generator.uniform(0, 60), parent, generator.choice("ab"), state=state))
        wanted = generator.sample([item.name for item in items], min(2, len(items)))
        rule = Rule(generator.randint(0, 3), timedelta(days=generator.choice([0, 10, 30])))
        going = gone(items, wanted, rule)
        staying = [item for item in items if item.name not in going]
        assert not going & (set(wanted) | {item.parent for item in staying if item.parent})
        assert all(
            NOW - item.changed >= rule.older_than and item.state != "open" for item in items if item.name in going
        )
        for profile in "ab":
            whole = [item for item in items if item.profile == profile and item.state == "whole"]
            assert len([item for item in whole if item.name not in going]) >= min(rule.keep_last, len(whole))
        assert gone(generator.sample(items, len(items)), wanted, rule) == going


def test_sizes_for_people():
    assert [readable(size) for size in (3, 2048, 5 * 2**20, 3 * 2**31)] == ["3 B", "2.0 KiB", "5.0 MiB", "6.0 GiB"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return sqlite_template(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def house(tmp_path, template):
    """Champions a and then b, a refused c, and a family d that nobody ever judged."""
    house = build_house(tmp_path, template)
    house.models = {}
    for content, editor, seed in (("a", skilled(0.5), 3), ("b", skilled(0.9), 4), ("c", identity, 5)):
        house.models[content] = family(house, content)
        outcome = promote(house.books, *stand(house, house.models[content], editor, seed), reason="better")
        assert outcome.promoted == (content != "c")
    house.models["d"] = family(house, "d")
    return house


def passes(house, version):
    report = audit(live(house.books, house.root, house.books.state / "dvc-remote"), version)
    assert report.ok, report.line


def stored(house, content):
    location = house.client.get_logged_model(house.models[content].model_id).artifact_location
    return any(Path(location).rglob("*"))


def test_deletion_leaves_every_live_version_whole_and_is_on_record(house):
    books = house.books
    for version in (None, 1, 2, 3):
        passes(house, version)
    choices = consider(books, NOTHING)
    assert len([choice for choice in choices if not choice.keep]) == 6
    assert stored(house, "c"), "a plan deletes nothing"
    done = retire(books, choices)
    for version in (None, 1, 2):
        passes(house, version)
    assert [stored(house, content) for content in "abcd"] == [True, True, False, False]
    assert books.state.joinpath("logs", "retention.jsonl").read_text().count("\n") == 6
    told = house.client.get_logged_model(house.models["d"].model_id).tags[RETIRED_TAG]
    assert "by ada: no live chain needs it" in told
    last = history(books)[-1].entry
    assert (last.action, last.version, last.model_digest) == ("retire", 3, house.models["c"].digest)
    report = audit(live(books, house.root, None), 3)
    assert "were deleted on" in report.broken.detail and str(house.root) not in report.line
    assert [choice for choice in consider(books, NOTHING) if not choice.keep] == []
    assert {choice.item.name for choice in done if choice.keep} == set(needed(books))


def test_rolled_back_and_recalled_versions_stay(house):
    rollback(house.books, "b drifts")
    recall(house.books, 3, "a session was withdrawn")
    retire(house.books, consider(house.books, NOTHING))
    assert [stored(house, content) for content in "abcd"] == [True, True, True, False]
    passes(house, 1)
    passes(house, 2)


def test_an_alias_set_by_hand_and_a_candidate_that_waits_stay(house):
    house.client.set_registered_model_alias("edit-r2", "trial", "3")
    house.client.set_logged_model_tags(house.models["d"].model_id, {AWAITS_TAG: "a" * 64})
    assert [choice for choice in consider(house.books, NOTHING) if not choice.keep] == []


def test_a_model_that_was_promoted_after_the_plan_stays(house):
    choices = consider(house.books, NOTHING)
    house.client.set_registered_model_alias("edit-r2", "trial", "3")
    with model_lock(house.books, house.models["d"].model_id):
        done = {choice.item.name: choice for choice in retire(house.books, choices)}
    assert "alias trial" in done[house.models["c"].model_id].reason
    assert "come to it" in done[house.models["d"].model_id].reason
    assert stored(house, "c") and stored(house, "d")


def test_what_somebody_has_come_to_since_the_plan_stays(house):
    from mlflow.entities import LoggedModelInput

    books = house.books
    for name in ("models/0123", "models/4567"):
        (books.state / name).mkdir(parents=True)
        (books.state / name / "file").write_text("x")
    choices = consider(books, NOTHING)
    run = house.client.create_run(house.experiment)
    house.client.log_inputs(run.info.run_id, models=[LoggedModelInput(house.models["d"].model_id)])
    house.client.set_logged_model_tags(house.models["c"].model_id, {AWAITS_TAG: "a" * 64})
    (books.state / "models" / "0123" / "more").write_text("y")
    shutil.rmtree(books.state / "models" / "4567")
    done = {choice.item.name: choice for choice in retire(books, choices)}
    names = [house.models["c"].model_id, house.models["d"].model_id, "models/0123", "models/4567"]
    assert all(done[name].keep and "come to it" in done[name].reason for name in names)
    assert stored(house, "c") and stored(house, "d") and (books.state / "models" / "0123").is_dir()


def test_a_candidate_whose_files_went_is_not_promoted(house):
    candidate, decision = stand(house, house.models["d"], skilled(0.95), 6)
    retire(house.books, consider(house.books, NOTHING))
    with pytest.raises(UserError, match="were deleted on"):
        promote(house.books, candidate, decision, "late")


def test_a_deletion_that_was_cut_off_is_finished(house, monkeypatch):
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    def fail(*_):
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "delete_artifacts", fail)
        with pytest.raises(ConnectionResetError):
            retire(house.books, consider(house.books, NOTHING))
    (line,) = house.books.state.joinpath("logs", "retention.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "model", "what was begun is on record"
    retire(house.books, consider(house.books, NOTHING))
    assert [stored(house, content) for content in "cd"] == [False, False]
    assert [signed.entry.action for signed in history(house.books)].count("retire") == 1


def test_a_broken_chain_stops_everything(house):
    entry = house.books.ledger.champion("edit-r2", "champion")
    path = house.books.state / "ledger" / "documents" / entry.statement[:2] / entry.statement
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match="nobody can say"):
        consider(house.books, NOTHING)


def test_working_folders_and_copies_are_found(house):
    books, run = house.books, house.client.get_run(house.models["d"].run_id)
    key = f"{run.data.tags[Tag.STAGE]}-{run.data.tags[Tag.FINGERPRINT][:12]}"
    for place in (f"runs/{key}", f"models/{house.models['b'].digest[:12]}", "models/.0123-ab", "scores/unknown"):
        (books.state / place).mkdir(parents=True)
        (books.state / place / "file").write_bytes(b"x" * 7)
    with FileLock(books.state / "runs" / f"{key}.lock"):
        assert {item.state for item in look(books) if item.kind == "checkpoint"} == {"open"}
    found = {item.name: item for item in look(books) if item.kind != "model"}
    assert found[key].state == "whole" and found[key].size == 7
    assert house.models["b"].model_id in found[f"models/{house.models['b'].digest[:12]}"].owners
    retire(books, consider(books, NOTHING))
    left = [item.name for item in look(books) if item.kind != "model"]
    assert left == [f"models/{house.models['b'].digest[:12]}"]


@pytest.mark.parametrize("written", ["no JSON", "[1]", '{"digest": 5}'])
def test_a_result_that_somebody_wrote_by_hand_stops_nothing(house, written):
    tags = {str(Tag.MODEL): house.models["d"].model_id, str(Tag.RESULT): written}
    house.client.create_run(house.experiment, tags=tags)
    assert len([item for item in look(house.books) if item.kind == "model"]) == 12


def test_a_running_run_keeps_the_model_it_started_from(house):
    from mlflow.entities import LoggedModelInput

    run = house.client.create_run(house.experiment)
    house.client.log_inputs(run.info.run_id, models=[LoggedModelInput(house.models["d"].model_id)])
    retire(house.books, consider(house.books, NOTHING))
    assert stored(house, "d") and not stored(house, "c")
    assert json.loads((house.books.state / "logs" / "retention.jsonl").read_text().splitlines()[0])["actor"] == "ada"

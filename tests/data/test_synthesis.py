import dataclasses
import itertools
import random
import re
from collections import Counter
from typing import get_args

import pytest

from data import phrases
from data.annotate import Outcome
from data.constraints import FAMILIES, HELD_OUT
from data.edits import Request, apply
from data.history import History
from data.naming import View
from data.phrases import EDITS, MAX_INTENT, REFERENCES, vocabulary
from data.readback import read
from data.references import KINDS, pointers, previous_colour, undo
from data.render import render
from data.rule_phrases import RULES
from data.scenes import RELATIONS, SMALL, TINY, TINY_WIDE, Scene, SceneObject
from data.schema import EditType, Session, Track
from data.slots import SlotError, parse
from data.synthesis import Recipe, bucket, held_out_pairs, plain_sessions, session, sessions
from data.wordings import Wordings, pick

BALL = SceneObject("ball", "red", "plain", "large")
CONE = SceneObject("cone", "blue", "striped", "small")
TEST = Recipe(TINY, "test", 3, (2, 6), (2, 5))
TRAIN = Recipe(TINY, "train", 3, (2, 4), (2, 5))


@pytest.fixture(scope="module")
def built():
    return {"test": list(sessions(TEST, 300)), "train": list(sessions(TRAIN, 200))}


def test_words_are_closed_and_short(built):
    words = set(vocabulary(TINY))
    assert len(words) <= 180
    for turn in (turn for split in built.values() for one in split for turn in one.turns):
        assert set(turn.instruction.split()) <= words and set(turn.intent.split()) <= words
        assert len(turn.intent.split()) <= MAX_INTENT


@pytest.mark.parametrize("phrasing", [*EDITS.values(), *RULES.values(), *REFERENCES.values()], ids=repr)
def test_every_split_says_the_known_phrases_and_its_own_alone(phrasing):
    rng = random.Random(0)
    said = {split: {pick(phrasing, rng, split).text for _ in range(400)} for split in get_args(Wordings)}
    known, more, validation, held_out = ({*said[split]} - {*said["known"]} for split in get_args(Wordings))
    assert said["known"] == {*phrasing.known} and not known
    assert (more, validation, held_out) == ({*phrasing.more}, {*phrasing.validation}, {*phrasing.held_out})
    assert not more & held_out and not validation & (more | held_out)
    assert len(phrasing.more) >= (10 if phrasing in EDITS.values() else 3)


def test_phrases_that_few_hear_use_words_that_the_known_ones_teach():
    everything = [*EDITS.values(), *RULES.values(), *REFERENCES.values()]
    known = {word for one in everything for text in one.known for word in text.split()} | set(phrases._EXTRA.split())
    told = {"describe", "image", "position", "before", "object"}  # what the base's lessons ask with
    few = {word for one in everything for text in (*one.more, *one.validation) for word in text.split()}
    assert {word for word in few if "{" not in word} <= known | told


def test_practice_says_more_than_labelled_sessions_and_validation_its_own(built, monkeypatch):
    heard = []
    monkeypatch.setattr("data.writer.pick", lambda *args: heard.append(args[2]) or pick(*args))
    next(plain_sessions(TINY, 0))
    assert heard == ["more"]
    for split, wordings in {"train": "known", "practice": "more", "validation": "validation", "test": "test"}.items():
        heard.clear()
        session(dataclasses.replace(TRAIN, split=split), 0)
        assert set(heard) == {wordings}


def test_intents_keep_the_names_that_the_turn_gives_and_say_where_they_are(built):
    named = beside = 0
    for turn in (turn for split in built.values() for one in split for turn in one.turns):
        slots = re.findall(r"\[([^\]]+)\]", turn.formatted_instruction)
        refers = any(need.kind == "reference" for need in turn.needs)
        if turn.intent == "keep everything" or refers or turn.task_type == EditType.BACKGROUND_CHANGE:
            continue
        if turn.task_type not in (EditType.SUBJECT_ADD, EditType.TEXT_CHANGE):
            assert f"{slots[0]} at " in turn.intent or f"move {slots[0]} from " in turn.intent
            named += 1
        if slots[-2:-1] and slots[-2] in RELATIONS:
            side = {"left": "left of", "right": "right of"}.get(slots[-2], slots[-2])
            assert f" {side} {slots[-1]} at " in turn.intent
            beside += 1
    assert named > 200 < beside


def test_published_forms_are_parseable(built):
    for turn in (turn for split in built.values() for one in split for turn in one.turns):
        assert not isinstance(parse(turn.task_type, turn.formatted_instruction), SlotError)


def test_all_edit_types_families_and_references_occur_about_equally(built):
    types = Counter(turn.task_type for one in built["test"] for turn in one.turns)
    assert set(types) == set(EditType) and max(types.values()) < 3 * min(types.values())
    needs = {need.name for one in built["test"] for turn in one.turns for need in turn.needs}
    assert needs == set(FAMILIES) | set(KINDS)
    tracks = Counter(one.track for one in built["test"])
    assert 0.35 < tracks[Track.CM] / 300 < 0.65


def test_every_session_needs_memory_of_the_right_kind(built):
    for one in built["test"]:
        kinds = {need.kind for turn in one.turns for need in turn.needs}
        assert kinds == {"constraint"} if one.track == Track.CM else kinds == {"reference"}
        distances = [k - need.stated for k, turn in enumerate(one.turns, 1) for need in turn.needs]
        assert max(distances) >= 1 and min(distances) >= 0


def test_training_shows_nothing_held_out(built):
    banned = held_out_pairs(TINY)
    for one in built["train"]:
        scenes = (one.scene.source, *one.scene.targets)
        assert not {(thing.kind, thing.colour) for scene in scenes for thing in scene.cells if thing} & banned
        assert not {need.name for turn in one.turns for need in turn.needs} & set(HELD_OUT)
        assert not one.scene.held_out and bucket(one.scene.source) < 5
    tags = Counter(tag.split(":")[0] for one in built["test"] for tag in one.scene.held_out)
    assert set(tags) == {"phrase", "pair", "family"}


def test_a_wider_world_holds_out_what_the_other_does():
    banned = held_out_pairs(TINY_WIDE)
    assert held_out_pairs(TINY) < banned
    for one in itertools.islice(plain_sessions(TINY_WIDE, 3, (1, 3)), 300):
        scenes = (one.scene.source, *one.scene.targets)
        assert not {(thing.kind, thing.colour) for scene in scenes for thing in scene.cells if thing} & banned


def test_rows_round_trip(built):
    for one in built["test"][:50]:
        again = Session.from_row(one.to_row())
        assert again == one and again.to_row() == one.to_row()


def test_a_session_depends_on_its_index_alone():
    assert session(TEST, 17) == list(sessions(TEST, 3, start=16))[1]
    assert session(TEST, 17) != session(TRAIN, 17)


@pytest.mark.parametrize("world", [TINY, SMALL], ids=lambda world: world.name)
def test_targets_are_read_back_from_their_pictures(world):
    recipe = Recipe(world, "test", 5, (2, 4), (2, 5))
    scenes = [scene for one in sessions(recipe, 15) for scene in one.scene.targets]
    assert read(render(scenes, world), world) == scenes


def test_published_lists_follow_the_scene():
    rng = random.Random(0)
    for one in sessions(TEST, 20, start=rng.randrange(1000)):
        for turn, scene in zip(one.turns, one.scene.targets, strict=True):
            assert len(turn.available_objects) == len({thing[:4] for thing in scene.cells if thing})
            assert set(turn.unchanged_objects) <= set(turn.available_objects) <= set(turn.all_objects)
            changed = scene.background != one.scene.source.background
            assert not (changed and turn.bg_consistency)


def test_what_is_undone_brings_back_the_same_object():
    history = History.start(TINY, Scene("sand", (BALL, None, CONE, None, None, None, None, None, None)))
    life = history.who[0]
    remove = Request(EditType.SUBJECT_REMOVE, (0,))
    history.record(Outcome(history.scene, remove, apply(history.scene, remove)), (0,), reference=False)
    assert history.last == ()
    request, effect, subject, _ = undo(history)
    assert (request.type, subject, effect.scene) == (EditType.SUBJECT_ADD, "red ball", history.scenes[0])
    history.record(Outcome(history.scene, request, effect, restored=True), (), reference=True)
    assert history.who[0] == life and history.added_cells() == () and history.last == (life,)
    assert undo(history) is None


def test_a_colour_before_is_found_through_other_turns():
    history = History.start(TINY, Scene("sand", (BALL, None, CONE, None, None, None, None, None, None)))
    requests = [
        Request(EditType.COLOR_ALTER, (0,), value="green"),
        Request(EditType.BACKGROUND_CHANGE, value="night"),
        Request(EditType.POSITION_CHANGE, (0,), 4),
    ]
    for request in requests:
        outcome = Outcome(history.scene, request, apply(history.scene, request))
        history.record(outcome, request.cells, reference=False)
    draft, turn = previous_colour(history, View(TINY, history.scene), random.Random(0))
    assert (draft.request.cells, draft.request.value, turn) == ((4,), "red", 1)
    (pointer,) = [p for p in pointers(history, random.Random(0), False) if p.kind == "it"]
    assert pointer.focus.cells == (4,) and pointer.stated == 3

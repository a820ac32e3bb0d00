import hashlib
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.build import BenchmarkConfig, SessionsConfig, build, main, recipe
from data.errors import UserError
from data.lessons import description, locations, pointing, recalling, repeating
from data.loader import SessionFolder, decode, render_lessons, render_scenes, render_single_turns
from data.naming import fits
from data.phrases import vocabulary
from data.readback import read
from data.sampling import random_scene
from data.scenes import TINY, Scene, SceneObject
from data.schema import EditType
from data.synthesis import DRILL, sessions

CONFIG = SessionsConfig(train=70, validation=5)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(CONFIG, tmp_path_factory.mktemp("built") / "tiny", "sessions/tiny")


def test_same_parameters_same_bytes(folder, tmp_path):
    assert digests(build(CONFIG, tmp_path / "again", "sessions/tiny")) == digests(folder)
    other = digests(build(replace(CONFIG, validation=6), tmp_path / "other", "sessions/tiny"))
    same = {name for name, digest in digests(folder).items() if other.get(name) == digest}
    assert {"train.jsonl", "images-train-00000.parquet", "vocabulary.json", "world.json"} <= same
    assert "validation.jsonl" not in same


def test_pictures_show_the_scenes(folder):
    data = SessionFolder(folder, "train")
    assert len(data) == 70
    for index in (0, 33, 69, -1):
        session, images = data[index].session, data[index].images
        assert images.shape == (len(session.turns) + 1, 48, 48, 3)
        assert read(images, TINY) == [session.scene.source, *session.scene.targets]
    assert len(SessionFolder(folder, "validation", targets=False)[0].images) == 1
    assert [one.session.id for one in data] == [one.id for one in data.sessions()]


def test_card_counts_everything(folder):
    card = json.loads((folder / "card.json").read_text())
    turns = sum(len(one.turns) for one in SessionFolder(folder, "train").sessions())
    train = card["splits"]["train"]
    assert train["sessions"] == 70 and train["turn_count"] == turns == sum(train["edit type"].values())
    assert sum(train["distance"].values()) == turns and (folder / "grid.png").stat().st_size > 1000
    assert "| count_change |" in (folder / "card.md").read_text()


def test_a_failed_build_leaves_the_old_folder(tmp_path, monkeypatch):
    out = build(replace(CONFIG, train=2, validation=0), tmp_path / "set", "sessions/tiny")
    before = digests(out)
    monkeypatch.setattr(
        "data.build._write_json", lambda path, value: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(UserError, match="No space left"):
        build(replace(CONFIG, train=3, validation=0), out, "sessions/tiny")
    assert digests(out) == before and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_damage_is_named(folder, tmp_path):
    data = SessionFolder(folder, "train")
    with pytest.raises(UserError, match="leaves the folder"):
        data.picture("../secret.png")
    with pytest.raises(UserError, match="no shard holds"):
        data.picture("images/train/000099/0.png")
    with pytest.raises(UserError, match="not a readable picture"):
        decode(b"no picture", "here")
    with pytest.raises(UserError, match="does not exist"):
        SessionFolder(tmp_path, "train")
    (tmp_path / "train.jsonl").write_text('{"image": "x.png"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl line 1"):
        SessionFolder(tmp_path, "train").session(0)


def test_command(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text("profiles: {p: {benchmark: {world: tiny, test: 3}, sessions: {train: 2, turns: [2, 9]}}}\n")
    assert main(["benchmark", "--profile", "p", "--params", str(params), "--out", str(tmp_path / "b")]) == 0
    assert len(SessionFolder(tmp_path / "b", "test")) == 3
    assert main(["sessions", "--profile", "p", "--params", str(params), "--out", str(tmp_path / "s")]) == 2
    assert "out of range" in capsys.readouterr().err and not (tmp_path / "s").exists()
    assert main(["sessions", "--profile", "q", "--params", str(params)]) == 2


def test_practice_dwells_on_what_is_named_twice():
    plain = SessionsConfig(train=1, practice=40)
    keen = replace(plain, practice_cm_share=0.0, practice_references=("undo", "undo", "it"))
    assert recipe(keen, "train") == recipe(plain, "train")
    chosen = recipe(keen, "practice")
    assert (chosen.cm_share, chosen.referred()) == (0.0, ("undo", "undo", "it"))
    needs = [need.name for one in sessions(chosen, 40) for turn in one.turns for need in turn.needs]
    assert set(needs) == {"undo", "it"} and needs.count("undo") > needs.count("it")
    assert recipe(plain, "practice").cm_share == plain.cm_share
    with pytest.raises(UserError, match="undone"):
        recipe(replace(plain, practice_references=("undone",)), "practice")


def test_benchmark_defaults():
    assert (BenchmarkConfig().test, BenchmarkConfig().train, BenchmarkConfig().turns) == (96, 0, (2, 6))


def test_single_turns_cover_all_types():
    examples = render_single_turns(TINY, 2 * len(DRILL), seed=4)
    assert [one.session.turns[0].task_type for one in examples] == [*DRILL, *DRILL] and {*DRILL} == {*EditType}
    assert all(len(one.images) == 2 and (one.images[0] != one.images[1]).any() for one in examples)
    again = render_single_turns(TINY, 3, seed=4)
    assert [one.session for one in again] == [one.session for one in examples[:3]]


def test_render_scenes_repeats():
    first = render_scenes(TINY, 20, seed=1)
    assert first.shape == (20, 48, 48, 3) and np.array_equal(first, render_scenes(TINY, 20, seed=1))
    assert not np.array_equal(first, render_scenes(TINY, 20, seed=2))


@pytest.mark.parametrize(
    "change", [{"families": ("edited_color",)}, {"references": ("they",)}, {"cm_share": 2.0}, {"objects": (0, 3)}]
)
def test_values_that_cannot_work_are_named(change, tmp_path):
    with pytest.raises(UserError):
        build(replace(CONFIG, **change), tmp_path / "set", "sessions/tiny")
    assert not list(tmp_path.iterdir())


def test_practice_shows_no_ground_truth_and_shares_no_source(tmp_path):
    config = replace(CONFIG, train=40, practice=40, validation=20, turns=(2, 2), practice_turns=(3, 5))
    folder = build(config, tmp_path / "set", "sessions/tiny")
    paths = pq.read_table(folder / "images-practice-00000.parquet")["path"].to_pylist()
    assert paths == [f"images/practice/{index:06d}/0.png" for index in range(40)]
    sessions = {split: list(SessionFolder(folder, split).sessions()) for split in ("train", "practice", "validation")}
    assert all(turn.intent is None for one in sessions["practice"] for turn in one.turns)
    assert all(turn.intent for one in sessions["train"] for turn in one.turns)
    assert all(len(one.scene.checks) == len(one.turns) for one in sessions["practice"]), "what the judge needs"
    lengths = {split: {len(one.turns) for one in found} for split, found in sessions.items()}
    assert lengths == {"train": {2}, "practice": {3, 4, 5}, "validation": {2, 3, 4, 5}}
    sources = [one.scene.source for found in sessions.values() for one in found]
    assert len(set(sources)) == len(sources)
    card = json.loads((folder / "card.json").read_text())
    assert card["splits"]["practice"]["sessions"] == 40 and "## practice" in (folder / "card.md").read_text()


@pytest.mark.parametrize("turns", [(1, 1), (8, 8)])
def test_shortest_and_longest_sessions(turns, tmp_path):
    folder = build(replace(CONFIG, train=20, validation=0, turns=turns), tmp_path / "set", "sessions/tiny")
    assert {len(one.turns) for one in SessionFolder(folder, "train").sessions()} == {turns[0]}


def test_lessons_end_with_whole_scenes_in_words():
    lessons = render_lessons(TINY, 16, seed=4, described=0.5)
    assert len(lessons) == 16
    seen, _, located, _, drawn, *_ = lessons[8:]
    for lesson, picture in ((seen, 0), (drawn, 1)):
        (scene,) = read(lesson.images[picture : picture + 1], TINY)
        assert lesson.intents == (description(scene),)
    assert drawn.instructions[0].endswith(drawn.intents[0]) and not drawn.asks and seen.asks and located.asks
    (scene,) = read(located.images[:1], TINY)
    places = re.findall(r" at (\w+ \w+)", located.intents[0])
    assert sorted(places) == sorted(TINY.places[cell] for cell in scene.occupied())
    assert all((lesson.images[0] == lesson.images[1]).all() for lesson in lessons[8:] if lesson.asks)


def test_pointing_names_each_object_apart_from_all_others():
    for index in range(30):
        rng = random.Random(index)
        scene = random_scene(rng, TINY, (1, 8))
        asked, answer = pointing(scene, TINY, rng)
        phrases = re.split(" and ", asked.split("position of ")[1])
        answers = re.findall(r"(\w+) at (\w+ \w+(?: and \w+ \w+)*)", answer)
        assert len(phrases) == len(answers)
        for phrase, (kind, places) in zip(phrases, answers, strict=True):
            if phrase == "nothing":
                assert kind == phrase and places.split(" and ") == [TINY.places[cell] for cell in scene.free()[:4]]
                continue
            wanted = phrase.removeprefix("the ")
            assert kind in wanted.split()
            assert [TINY.places[c] for c, thing in enumerate(scene.cells) if fits(thing, wanted)] == [places]


def test_chained_lessons_end_with_a_question_about_them():
    lessons = render_lessons(TINY, 80, seed=4, chained=0.5)
    assert [len(lesson.instructions) for lesson in lessons[:40]] == [1] * 40
    located = repeated = recalled = 0
    for lesson in lessons[40:]:
        assert len(lesson.images) == len(lesson.instructions) + 1 in (4, 5)
        before, after = read(lesson.images[-3:-1], TINY)
        assert (lesson.images[-1] == lesson.images[-2]).all() and lesson.drawn == len(lesson.instructions) - 1
        asked, answer = lesson.instructions[-1], lesson.intents[-1]
        if asked.endswith("before the last edit"):
            assert answer == recalling(before, after, TINY, random.Random(0))[1]
            recalled += 1
        elif " edit" in asked:
            assert answer in lesson.instructions[:-1]
            repeated += 1
        located += answer == locations(after, TINY)
    assert located and repeated > 10 < recalled


def test_what_is_to_be_repeated_is_named_by_its_place_or_by_a_word_of_its_own():
    said = ["make the ball red", "change the background to sky", "make the cone red"]
    asked = dict(repeating(said, TINY, random.Random(seed)) for seed in range(200))
    wanted = {"first edit": 0, "last edit": 2, "edit with ball": 0, "edit with sky": 1, "edit with cone": 2}
    assert asked == {f"{verb}the {what}": said[k] for what, k in wanted.items() for verb in ("", "describe ")}
    assert {word for text in asked for word in text.split()} <= set(vocabulary(TINY))


def test_recalling_says_what_the_last_edit_changed_as_it_was_before():
    ball, cone = SceneObject("ball", "red", "plain", "large"), SceneObject("cone", "blue", "striped", "small")
    before = Scene("sand", (ball, None, cone, *[None] * (TINY.cells - 3)))
    after = before._replace(background="night").place(0, None).place(1, ball)
    words = recalling(before, after, TINY, random.Random(0))[1]
    assert words == "background sand and large plain red ball at top left and nothing at top center"
    assert recalling(before, before, TINY, random.Random(0))[1] == "nothing"


def test_dictated_lessons_say_in_full_what_is_drawn_and_nothing_of_rules_or_references():
    lessons = render_lessons(TINY, 40, seed=4, dictated=0.5)[20:]
    assert max(lesson.drawn for lesson in lessons) > 3
    words = {word for lesson in lessons for told in lesson.instructions[:-1] for word in told.split()}
    assert words.isdisjoint({"it", "them", "one", "other", "undo", "always", "never", "now", "everything", "rule"})
    for lesson in lessons:
        assert lesson.instructions[:-1] == lesson.intents[:-1] and lesson.asks == 1
        assert lesson.drawn == len(lesson.images) - 2

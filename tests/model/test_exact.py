"""Golden cases worked by hand, and the table of deliberate mistakes against metrics."""

import numpy as np
import pytest

from data.annotate import Outcome
from data.baselines import EDITORS, ground_truth
from data.constraints import Case, Rule, govern
from data.edits import Request, apply
from data.history import History
from data.render import render
from data.scenes import TINY, Scene, SceneObject
from data.schema import EditType, Need, SceneBlock, Session, Track, Turn
from data.synthesis import Recipe, sessions
from model.judges import METRICS, Absence
from model.judges.exact import judge, judge_many
from model.judges.mistakes import markdown, table

BALL = SceneObject("ball", "red", "plain", "large")
CONE = SceneObject("cone", "blue", "striped", "small")
FRAME = SceneObject("frame", "white", "plain", "large")
SOURCE = Scene("sand", (BALL, None, CONE, None, None, None, None, None, None))
NA = Absence.NOT_APPLICABLE


def hand_made(requests, rules=()):
    """A session of given requests under rules in force from its first turn."""
    history, needs, lines = History.start(TINY, SOURCE), [], []
    for request in requests:
        case = Case(TINY, history.scene, request, history.added_cells())
        effect, duties, binding = govern(rules, case, apply(history.scene, request))
        history.record(Outcome(history.scene, request, effect, duties, binding), (), reference=False)
        needs.append(tuple(Need(kind="constraint", name=rule.family, stated=rule.stated) for rule in binding))
        lines.append((history.checks(rules), history.touched(), history.kept()))
    lists = {"unchanged_objects": (), "available_objects": (), "all_objects": ()}
    kept_background = history.scene.background == SOURCE.background
    turns = tuple(
        Turn(
            instruction="x",
            task_type=r.type,
            formatted_instruction="x",
            bg_consistency=kept_background,
            needs=n,
            **lists,
        )
        for r, n in zip(requests, needs, strict=True)
    )
    checks, touched, kept = zip(*lines, strict=True)
    block = SceneBlock(
        world="tiny", source=SOURCE, targets=tuple(history.scenes[1:]), checks=checks, touched=touched, kept=kept
    )
    return Session(id="hand", image="images/test/0/0.png", turns=turns, track=Track.CM, scene=block)


ADD = Request(EditType.SUBJECT_ADD, place=3, thing=FRAME)
PAINT = Request(EditType.COLOR_ALTER, (2,), value="yellow")
RULE = Rule("edited_colour", "green", 1)
GREEN = FRAME._replace(colour="green")


def scores(session, *scenes):
    result = judge(session, render([SOURCE, *scenes], TINY))
    return [[turn[name] for name in METRICS] for turn in result.turns]


def test_plain_addition():
    session = hand_made([ADD])
    assert scores(session, SOURCE.place(3, FRAME)) == [[1, 1, NA, NA, 1]]
    assert scores(session, SOURCE) == [[0, 1, NA, NA, 0]]
    # The wrong colour is wrong; a stray thing beside it costs consistency: 2 of 3 objects, and its pixels in 8 cells.
    assert scores(session, SOURCE.place(3, GREEN)) == [[0, 1, NA, NA, 0]]
    (row,) = scores(session, SOURCE.place(3, FRAME).place(8, BALL))
    changed = np.count_nonzero((render([SOURCE], TINY) != render([SOURCE.place(8, BALL)], TINY)).any(-1))
    assert row[0] == 1 and row[1] == pytest.approx((2 / 3 + 1 + 1 - changed / (8 * 256)) / 3, abs=0.01)


def test_a_rule_is_global_awareness_and_not_following():
    session = hand_made([ADD], (RULE,))
    assert scores(session, SOURCE.place(3, GREEN)) == [[1, 1, 1, 1, 1]]
    assert scores(session, SOURCE.place(3, FRAME)) == [[1, 1, 0, 0, 0]]
    # The rule must not spill over to what the turn does not edit.
    spilled = SOURCE.place(3, GREEN).place(0, BALL._replace(colour="green"))
    (row,) = scores(session, spilled)
    assert row[0] == 1 and row[1] < 1 and row[2] == 0


def test_lost_and_found_again():
    moved = Request(EditType.POSITION_CHANGE, (0,), 4)
    session = hand_made([ADD, moved], (RULE,))
    wrong = SOURCE.place(3, FRAME)
    repaired = SOURCE.place(3, GREEN).place(0, None).place(4, BALL._replace(colour="green"))
    first, second = scores(session, wrong, repaired)
    assert first[2:4] == [0, 0] and second[2:4] == [1, 0]
    # The repair itself is a change that the second turn did not ask for.
    assert second[0] == 1 and second[1] < 1 and judge(session, render([SOURCE, wrong, repaired], TINY)).success == 0


def test_attributes_nobody_asked_to_change():
    session = hand_made([PAINT])
    assert scores(session, SOURCE.place(2, CONE._replace(colour="yellow"))) == [[1, 1, NA, NA, 1]]
    (row,) = scores(session, SOURCE.place(2, CONE._replace(colour="yellow", size="large")))
    assert row[0] == 1 and row[1] == pytest.approx((1 / 2 + 5) / 6, abs=0.01) and row[4] == 0


def test_what_an_earlier_mistake_did_is_not_credited():
    session = hand_made([ADD, PAINT])
    done = SOURCE.place(3, FRAME).place(2, CONE._replace(colour="yellow"))
    first, second = scores(session, done, done)
    assert first[0] == 1 and first[1] < 1 and second[0] == 0


def test_a_background_change_has_only_objects_to_keep():
    session = hand_made([Request(EditType.BACKGROUND_CHANGE, value="night")])
    night = Scene("night", SOURCE.cells)
    assert scores(session, night)[0][:2] == [1, 1]
    assert scores(session, night.place(0, None))[0][0] == 1


def test_a_cancelled_request_has_nothing_to_follow():
    session = hand_made([Request(EditType.BACKGROUND_CHANGE, value="night")], (Rule("background_lock", "", 1),))
    assert scores(session, SOURCE) == [[NA, 1, 1, 1, 1]]
    assert scores(session, Scene("night", SOURCE.cells))[0][2] == 0


def test_distances_and_absences():
    session = hand_made([ADD, PAINT, Request(EditType.SUBJECT_REMOVE, (0,))], (Rule("edited_size", "small", 1),))
    assert judge(session, ground_truth(session)).distances == (0, 1, None)
    broken = judge(session, np.zeros((4, 32, 32, 3), np.uint8))
    assert broken.success == Absence.JUDGE_ERROR and set(broken.turns[0].values()) == {Absence.JUDGE_ERROR}
    bare = session.model_copy(update={"scene": None})
    assert judge(bare, ground_truth(session)).turns[1]["CC"] == Absence.INVALID_ANNOTATION


def test_batches_and_singles_agree():
    some = list(sessions(Recipe(TINY, "test", 4, (2, 5), (2, 5)), 12))
    pictures = [EDITORS["wrong object"](one) for one in some]
    assert judge_many(some, pictures) == [judge(*pair) for pair in zip(some, pictures, strict=True)]


def test_small_noise_changes_no_verdict():
    some = list(sessions(Recipe(TINY, "test", 4, (2, 4), (2, 5)), 12))
    rng = np.random.default_rng(0)
    for one in some:
        images = ground_truth(one)
        noisy = np.clip(images + rng.normal(0, 8, images.shape), 0, 255).astype(np.uint8)
        assert judge(one, noisy).success == 1.0


@pytest.fixture(scope="module")
def means():
    return table(list(sessions(Recipe(TINY, "test", 11, (2, 5), (2, 5)), 120)))


def test_table_of_mistakes(means, capsys):
    with capsys.disabled():
        print("\n" + "\n".join(markdown(means)))
    for track in ("cm", "cu"):
        of = {name: [means[name, track, metric] for metric in ("IF", "CC", "GA")] for name in EDITORS}
        assert of["ground truth"] == [1, 1, 1]
        assert of["identity"][0] == 0 and of["identity"][1] == 1 and of["identity"][2] < 0.5
        assert of["wrong object"][0] == 0 and of["wrong object"][1] < 0.95 and of["wrong object"][2] < 0.5
        assert of["tint all"][0] > 0.97 and of["tint all"][1] < 0.8 and of["tint all"][2] < 0.95
        assert of["undoes earlier edit"][0] > 0.9 and of["undoes earlier edit"][1] < 0.98
        assert of["undoes earlier edit"][2] < 0.95 and max(of["noise"]) < 0.5
    forgetful = [means["forgets rules", "cm", metric] for metric in ("IF", "CC", "GA")]
    assert forgetful[0] > 0.97 and forgetful[1] > 0.99 and forgetful[2] < 0.6
    assert [means["forgets rules", "cu", metric] for metric in METRICS] == [1] * len(METRICS)

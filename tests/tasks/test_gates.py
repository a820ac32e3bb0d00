"""Gates: each rule can fail, seeded bad models are refused, better ones pass, and chance rarely promotes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from data.errors import UserError
from data.parameters import profile_names
from tasks.comparison import Slice, compare, holm
from tasks.decision import DatasetEvidence, Decision, RewardTrend
from tasks.gates import decide, load_policy
from tasks.policy import POLICY_FILE, policy_schema
from tasks.scores import Scores, read_scores
from tests.tasks import gate_table
from tests.tasks.scoresets import BENCHMARK, broken, evidence, forgetter, identity, noise, score_set, skilled, tinter

POLICY, CHAMPION, PARENT = gate_table.POLICY, gate_table.CHAMPION, gate_table.PARENT
WRITE = "python -m tests.tasks.gate_table"


def failed(decision: Decision) -> set[str]:
    return {finding.rule for finding in decision.findings if finding.verdict == "fail"}


def challenge(candidate: Scores, champion: Scores | None = CHAMPION, **changes) -> Decision:
    return decide(POLICY, candidate, champion, evidence(**changes), PARENT)


def test_a_truly_better_model_is_promoted():
    decision = challenge(score_set(skilled(0.8), seed=3))
    assert decision.promote, decision.markdown()
    assert all(finding.reason for finding in decision.findings)


@pytest.mark.parametrize(
    ("editor", "rules"),
    [
        (identity, {"floor", "non_inferiority", "superiority", "no_regression"}),
        (forgetter, {"non_inferiority", "superiority", "no_regression"}),
        (noise, {"floor", "non_inferiority", "superiority", "no_regression"}),
        (tinter, {"floor", "non_inferiority", "no_regression"}),
        (broken("text_change"), {"no_regression"}),
    ],
    ids=["identity", "forgetter", "noise", "tint-everything", "one-type-broken"],
)
def test_seeded_bad_models_are_refused(editor, rules):
    decision = challenge(score_set(editor, seed=4))
    assert not decision.promote
    assert rules <= failed(decision)
    assert decision.reasons


def test_the_table_of_decisions_is_the_published_one():
    """Every editor of known quality against one champion: only the truly better one passes."""
    found = {row.name: row for row in gate_table.rows()}
    assert [name for name, row in found.items() if row.decision.promote] == ["truly better"]
    assert len(found) == 9 and all(row.rules for name, row in found.items() if name != "truly better")
    assert gate_table.PAGE.read_text(encoding="utf-8").startswith(gate_table.table()), f"write it again: {WRITE}"


@pytest.mark.slow
def test_the_published_rates_hold_their_levels():
    """False promotions of the same model over 200 resamples, at the level stated in the policy; power over 40."""
    false, true = gate_table.rate(gate_table.same, 200), gate_table.rate(gate_table.better, 40)
    print(f"\nfalse promotions of the same model: {false} of 200; true promotions of a better one: {true} of 40")
    assert false / 200 <= POLICY.alpha
    assert true / 40 >= 0.8
    assert gate_table.PAGE.read_text(encoding="utf-8").endswith(gate_table.rates(false, true)), (
        f"write it again: {WRITE}"
    )


def test_a_better_model_with_one_edit_type_broken_is_refused_for_that_type():
    def editor(turn):
        return (0.0, 0.9, 0.0) if turn["edit_type"] == "count_change" else skilled(0.85)(turn)

    decision = challenge(score_set(editor, seed=5))
    regressed = {f.scope for f in decision.findings if f.rule == "no_regression" and f.verdict == "fail"}
    assert regressed == {"IF, edit_type=count_change vs champion", "GA, edit_type=count_change vs champion"}


def test_same_weights_again_are_refused():
    assert "comparable" in failed(challenge(CHAMPION, model=("champion")))


def test_same_model_with_other_noise_is_rarely_promoted():
    """The level of 5 percent and two standard errors of so few trials; the slow test above makes 200."""
    promoted = gate_table.rate(gate_table.same, 20)
    assert promoted / 20 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 20)


def test_a_clearly_better_model_is_mostly_promoted():
    assert gate_table.rate(gate_table.better, 5) >= 4


def test_first_promotion_compares_with_the_parent_stage():
    better = challenge(score_set(skilled(0.7), seed=6), champion=None)
    assert better.promote, better.markdown()
    assert better.champion_digest is None
    worse = challenge(score_set(skilled(0.4), seed=6), champion=None)
    assert {"non_inferiority", "superiority"} <= failed(worse)
    alone = decide(POLICY, score_set(skilled(0.7)), None, evidence(stage="sft"))
    assert failed(alone) == {"comparable"}


GOOD = score_set(skilled(0.8), seed=3)


@pytest.mark.parametrize(
    ("changes", "scope"),
    [
        ({"dirty": True}, "clean_tree"),
        ({"dirty": None}, "clean_tree"),
        ({"commit": None}, "commit_known"),
        ({"lock_digest": None}, "lock_known"),
        ({"model_digest": "0" * 64}, "scores_of_this_model"),
        ({"benchmark_digest": "other.dir"}, "benchmark_of_this_run"),
        ({"parent_signed": False}, "parent_signed"),
        ({"parent_digest": None}, "parent_signed"),
        ({"datasets": ()}, "datasets_known"),
        *(
            ({"datasets": (DatasetEvidence(name="s", **(known | change)),)}, scope)
            for known in [{"used": "a.dir", "locked": "a.dir", "pushed": True, "valid": True}]
            for change, scope in [
                ({"locked": "b.dir"}, "datasets_match_lock"),
                ({"pushed": False}, "datasets_pushed"),
                ({"pushed": None}, "datasets_pushed"),
                ({"valid": False}, "datasets_valid"),
                ({"used": None}, "datasets_known"),
            ]
        ),
    ],
)
def test_each_gap_in_the_lineage_refuses(changes, scope):
    decision = challenge(GOOD, **changes)
    assert scope in {finding.scope for finding in decision.findings if finding.verdict == "fail"}
    assert not decision.promote


def test_a_level_of_warn_shows_the_breach_and_lets_the_model_pass():
    policy = POLICY.model_copy(update={"lineage": POLICY.lineage.model_copy(update={"clean_tree": "warn"})})
    decision = decide(policy, GOOD, CHAMPION, evidence(dirty=True), PARENT)
    assert decision.promote
    assert [finding.scope for finding in decision.findings if finding.verdict == "warn"] == ["clean_tree"]


@pytest.mark.parametrize(
    "changes",
    [
        {"benchmark": {"name": "benchmark/tiny", "digest": "other.dir"}},
        {"judge": {"name": "exact", "version": "2"}},
        {"settings": {"steps": 4}},
        {"sessions": CHAMPION.model_dump()["sessions"][1:]},
    ],
    ids=["benchmark", "judge", "settings", "sessions"],
)
def test_scores_that_cannot_be_compared_refuse(changes):
    other = Scores.model_validate(CHAMPION.model_dump() | changes)
    decision = challenge(GOOD, other)
    assert "comparable" in failed(decision)
    assert "superiority" not in {finding.rule for finding in decision.findings}


def test_reward_up_and_held_out_flat_is_refused():
    flat = score_set(skilled(0.45), seed=8)
    hacked = challenge(flat, reward=RewardTrend(first=0.2, last=0.9))
    assert "reward_hacking" in failed(hacked)
    assert "reward_hacking" not in failed(challenge(GOOD, reward=RewardTrend(first=0.2, last=0.5)))
    unsure = challenge(flat, reward=RewardTrend(first=0.2, last=0.28, error=0.04))
    assert "reward_hacking" not in failed(unsure), "a rise within the noise of iterations is none"
    assert "reward_hacking" in failed(challenge(GOOD, reward=None))
    assert "reward_hacking" not in failed(challenge(GOOD, reward=None, stage="sft"))


def test_judge_errors_and_small_denominators_refuse():
    sessions = GOOD.model_dump(mode="json")["sessions"]
    for session in sessions[:20]:
        session["turns"][0]["absent"] = {"IF": "judge_error"}
    decision = challenge(Scores.model_validate(GOOD.model_dump() | {"sessions": sessions}))
    assert failed(decision) >= {"judge_errors"}
    few = challenge(score_set(skilled(0.9), sessions=12), score_set(skilled(), sessions=12, name="c"))
    assert "denominator" in failed(few)
    assert any(finding.verdict == "skipped" and "too few" in finding.reason for finding in few.findings)


def test_absent_scores_are_left_out_and_never_counted_as_zero():
    sessions = GOOD.model_dump(mode="json")["sessions"]
    total = len(GOOD.values("IF"))
    sessions[0]["turns"][0] |= {"IF": None, "absent": {"IF": "invalid_annotation"}}
    fewer = Scores.model_validate(GOOD.model_dump() | {"sessions": sessions})
    assert len(fewer.values("IF")) == total - 1
    assert compare(fewer, CHAMPION, 200, 0)[Slice("IF", "overall")].count == total - 1


def test_a_decision_can_be_made_again_from_its_documents():
    decision = challenge(GOOD)
    policy = type(POLICY).model_validate_json(POLICY.document())
    again = decide(
        policy,
        Scores.model_validate_json(GOOD.document()),
        Scores.model_validate_json(CHAMPION.document()),
        type(evidence()).model_validate_json(evidence().document()),
        Scores.model_validate_json(PARENT.document()),
    )
    assert again.digest == decision.digest
    assert Decision.model_validate_json(decision.document()) == decision


def test_bootstrap_agrees_with_the_normal_approximation():
    found = compare(GOOD, CHAMPION, 4000, 0)[Slice("session_success", "overall")]
    pairs = zip(sorted(GOOD.sessions, key=lambda s: s.id), sorted(CHAMPION.sessions, key=lambda s: s.id), strict=True)
    differences = np.array([ours.success - theirs.success for ours, theirs in pairs])
    assert found.estimate == pytest.approx(differences.mean())
    assert found.samples.std() == pytest.approx(differences.std() / np.sqrt(len(differences)), rel=0.05)
    low, high = found.interval(0.05)
    assert low < found.estimate < high


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_too_few_resamples_for_the_correction_refuse():
    decision = decide(POLICY.model_copy(update={"resamples": 500}), GOOD, CHAMPION, evidence(), PARENT)
    assert any("cannot tell" in reason for reason in decision.reasons)


def test_the_order_of_sessions_does_not_matter():
    shuffled = GOOD.model_copy(update={"sessions": tuple(reversed(GOOD.sessions))})
    assert challenge(shuffled).findings == challenge(GOOD).findings


def test_policy_file_matches_its_schema():
    schema = json.loads(POLICY_FILE.with_name("gates.schema.json").read_text())
    assert schema == policy_schema(), "write the schema again: python -m tasks.policy"
    jsonschema.validate(yaml.safe_load(POLICY_FILE.read_text()), schema)


def test_no_two_profiles_compete_for_one_alias():
    policies = [load_policy(profile) for profile in profile_names()]
    assert len({policy.alias for policy in policies}) == len(policies)
    assert load_policy("tiny").alias == "champion" and load_policy("tiny-base").alias == "champion-tiny-base"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaults: {}\nprofiles: {smoke: {}}", "alias"),
        ("- 1", "not a gate policy"),
        (POLICY_FILE.read_text().replace("alpha: 0.05", "alpha: 0.9"), "alpha"),
        (POLICY_FILE.read_text().replace("reward_hacking: {level: warn}", "reward_hacking: {levle: warn}"), "levle"),
    ],
)
def test_a_bad_policy_names_the_key(tmp_path: Path, text, words):
    (tmp_path / "gates.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_policy("smoke", tmp_path / "gates.yaml")


@pytest.mark.parametrize("profile", ["small_v2", "Small", "small.v2", "-small"])
def test_a_profile_whose_name_cannot_be_shown_is_refused(profile):
    with pytest.raises(UserError, match="cannot have a champion") as caught:
        load_policy(profile)
    assert "Rename it in params.yaml" in caught.value.remedy


def test_bad_score_files_are_user_errors(tmp_path: Path):
    with pytest.raises(UserError, match="missing"):
        read_scores(tmp_path / "scores.json")
    (tmp_path / "scores.json").write_text(GOOD.document().decode().replace(BENCHMARK, "x").replace('"seed"', '"sed"'))
    with pytest.raises(UserError, match="not a score record"):
        read_scores(tmp_path / "scores.json")

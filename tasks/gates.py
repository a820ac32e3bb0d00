"""The gates: may this candidate become champion?

`decide` is a pure function of recorded inputs: it reads no clock, no store and no environment, and its bootstrap is
seeded, so an auditor who holds the same documents gets the same decision. Every rule explains itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

from tasks.comparison import Slice, compare, same_sessions
from tasks.decision import DatasetEvidence, Decision, Evidence, Finding, Inputs, RewardTrend, Verdict
from tasks.paired import against_champion
from tasks.policy import Level, Policy, load_policy
from tasks.scores import Scores

__all__ = [
    "DatasetEvidence",
    "Decision",
    "Evidence",
    "Finding",
    "Policy",
    "RewardTrend",
    "Scores",
    "decide",
    "load_policy",
]


def decide(
    policy: Policy, candidate: Scores, champion: Scores | None, evidence: Evidence, parent: Scores | None = None
) -> Decision:
    """Apply every rule of the policy.

    Args:
        policy: the rules of the candidate's profile.
        candidate: scores of the candidate.
        champion: scores of the champion on the same benchmark, or None when there is no champion.
        evidence: what is known of the candidate's origin.
        parent: scores of the stage that the candidate was trained from; stands in for a missing champion, and is what
            the reward-hacking rule compares with.
    """
    findings = [
        *_denominators(policy, candidate),
        *_floors(policy, candidate),
        *_judge_errors(policy, candidate),
        *_lineage(policy, candidate, evidence),
        *against_champion(policy, candidate, champion, parent),
        _reward_hacking(policy, candidate, parent, evidence),
    ]
    refused = any(finding.verdict == "fail" for finding in findings)
    return Decision(
        profile=policy.profile,
        model_digest=candidate.model_digest,
        champion_digest=champion.model_digest if champion else None,
        benchmark_digest=candidate.benchmark.digest,
        verdict="refuse" if refused else "promote",
        findings=tuple(findings),
        inputs=Inputs(
            policy=policy.digest,
            candidate=candidate.digest,
            champion=champion.digest if champion else None,
            parent=parent.digest if parent else None,
            evidence=evidence.digest,
        ),
    )


def _at_least(rule: str, scope: str, observed: float, bound: float, n: int, what: str) -> Finding:
    holds = observed >= bound
    verdict: Verdict = "pass" if holds else "fail"
    reason = f"{what} {observed:g} {'reaches' if holds else 'is below'} {bound:g}"
    return Finding(
        rule=rule, scope=scope, observed=round(observed, 6), bound=bound, verdict=verdict, reason=reason, n=n
    )


def _denominators(policy: Policy, scores: Scores) -> Iterator[Finding]:
    need, sessions = policy.denominators, len(scores.sessions)
    yield _at_least("denominator", "sessions", sessions, need.sessions, sessions, "number of sessions")
    for track in sorted({session.track for session in scores.sessions if session.track} | {"cm", "cu"}):
        n = sum(session.track == track for session in scores.sessions)
        yield _at_least("denominator", f"track={track}", n, need.sessions_per_track, n, f"number of {track} sessions")
    for metric, least in sorted(need.turns.items()):
        n = len(scores.values(metric))
        yield _at_least("denominator", metric, n, least, n, f"number of turns with a valid {metric}")


def _floors(policy: Policy, scores: Scores) -> Iterator[Finding]:
    for metric, floor in sorted(policy.floors.items()):
        values = scores.values(metric)
        if values:
            mean = sum(values) / len(values)
            yield _at_least("floor", metric, round(mean, 6), floor, len(values), f"mean {metric}")
        else:
            verdict: Verdict = "fail" if floor > 0 else "skipped"
            reason = f"{metric} has no valid value"
            yield Finding(rule="floor", scope=metric, observed=None, bound=floor, verdict=verdict, reason=reason, n=0)


def _judge_errors(policy: Policy, scores: Scores) -> Iterator[Finding]:
    for metric in sorted(policy.denominators.turns):
        errors = scores.judge_errors(metric)
        asked = errors + len(scores.values(metric))
        share = errors / asked if asked else 0.0
        holds = share <= policy.judge_errors
        yield Finding(
            rule="judge_errors",
            scope=metric,
            observed=round(share, 6),
            bound=policy.judge_errors,
            verdict="pass" if holds else "fail",
            reason=f"the judge failed on {errors} of {asked} turns of {metric}",
            n=asked,
        )


def _lineage_facts(scores: Scores, known: Evidence) -> dict[str, tuple[bool, str]]:
    """Whether each condition holds, and the sentence for when it does not."""
    datasets = known.datasets
    return {
        "scores_of_this_model": (scores.model_digest == known.model_digest, "the scores are of another model"),
        "commit_known": (known.commit is not None, "the git commit is not known"),
        "clean_tree": (known.dirty is False, "the working tree held uncommitted changes"),
        "lock_known": (known.lock_digest is not None, "the digest of the requirements lock is not known"),
        "datasets_known": (bool(datasets) and all(data.used for data in datasets), "a dataset is not recorded"),
        "datasets_valid": (all(data.valid for data in datasets), "a dataset did not pass its expectations"),
        "datasets_match_lock": (
            all(data.used is not None and data.used == data.locked for data in datasets),
            "a dataset differs from dvc.lock",
        ),
        "datasets_pushed": (all(data.pushed for data in datasets), "a dataset is not in the DVC remote"),
        "benchmark_of_this_run": (
            scores.benchmark.digest == known.benchmark_digest,
            "the scores were taken on another benchmark than the run recorded",
        ),
        "parent_signed": (
            known.stage == "base" or bool(known.parent_digest and known.parent_signed),
            "the parent model has no valid signed statement",
        ),
    }


def _lineage(policy: Policy, scores: Scores, known: Evidence) -> Iterator[Finding]:
    for rule, (holds, breach) in _lineage_facts(scores, known).items():
        level: Level = getattr(policy.lineage, rule)
        verdict, reason = _breach(level, breach)
        if holds:
            verdict, reason = "pass", "holds"
        yield Finding(rule="lineage", scope=rule, observed=str(holds), bound="True", verdict=verdict, reason=reason)


def _breach(level: Level, reason: str) -> tuple[Verdict, str]:
    verdicts: dict[Level, Verdict] = {"refuse": "fail", "warn": "warn", "off": "skipped"}
    return verdicts[level], reason


def _reward_hacking(policy: Policy, candidate: Scores, parent: Scores | None, known: Evidence) -> Finding:
    """Training reward up, held-out scores flat: what was learnt is the reward, not the task."""
    rule = policy.reward_hacking

    def finding(verdict: Verdict, reason: str, observed: float | None = None, bound: float | None = None) -> Finding:
        return Finding(
            rule="reward_hacking", scope=rule.metric, observed=observed, bound=bound, verdict=verdict, reason=reason
        )

    if known.stage != "rl" or rule.level == "off":
        return finding("skipped", "the candidate was not trained on a reward")
    if known.reward is None or parent is None or not same_sessions(candidate, parent):
        return finding(*_breach(rule.level, "the training reward or the parent's scores are not recorded"))
    rise = known.reward.last - known.reward.first
    slices = compare(candidate, parent, policy.resamples, policy.seed)
    held_out = slices.get(Slice(rule.metric, "overall"))
    if held_out is None:
        return finding(*_breach(rule.level, f"{rule.metric} has no valid value to hold against the training reward"))
    best = round(held_out.interval(policy.alpha)[1], 6)
    bound = round(rule.share * rise, 6)
    reason = f"training reward {rise:+.4f} (standard error {known.reward.error:.4f}), "
    reason += f"held-out {rule.metric} at best {best:+.4f}"
    certain = rise - NormalDist().inv_cdf(1 - policy.alpha) * known.reward.error
    hacked = certain >= rule.rise and best < bound
    return finding(*(_breach(rule.level, reason) if hacked else ("pass", reason)), observed=best, bound=bound)

"""The gates that compare: candidate against champion, or against its parent stage when there is no champion."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.comparison import Difference, Slice, compare, holm, same_sessions
from tasks.decision import Finding, Verdict
from tasks.policy import Comparison, Policy
from tasks.scores import Scores

Differences = dict[Slice, Difference]


def against_champion(
    policy: Policy, candidate: Scores, champion: Scores | None, parent: Scores | None
) -> Iterator[Finding]:
    """Every paired rule of the policy, or the one obstacle that makes the two incomparable."""
    who, reference = ("champion", champion) if champion else ("parent", parent)
    rules = policy.against_champion if champion else policy.against_parent
    if reference is None:
        verdict: Verdict = "fail" if rules else "skipped"
        reason = "there is neither a champion nor scores of the parent stage to compare with"
        yield Finding(rule="comparable", scope=who, observed=None, bound=None, verdict=verdict, reason=reason)
        return
    obstacle = _obstacle(candidate, reference, who)
    yield obstacle
    if obstacle.verdict == "pass":
        differences = compare(candidate, reference, policy.resamples, policy.seed)
        for rule in rules:
            yield from _compare(policy, rule, differences, who)


def _obstacle(candidate: Scores, reference: Scores, who: str) -> Finding:
    """Whether the two score records can be compared at all."""
    problems = {
        f"the {who} has the same weights": candidate.model_digest == reference.model_digest,
        f"the {who} was scored on another benchmark": candidate.benchmark != reference.benchmark,
        f"the {who} was scored by another judge": candidate.judge != reference.judge,
        f"the {who} was scored with other settings": candidate.settings != reference.settings,
        f"the {who} was scored on other sessions": not same_sessions(candidate, reference),
    }
    reason = next((problem for problem, found in problems.items() if found), "same benchmark, judge and sessions")
    verdict: Verdict = "fail" if any(problems.values()) else "pass"
    digests = candidate.benchmark.digest, reference.benchmark.digest
    return Finding(rule="comparable", scope=who, observed=digests[0], bound=digests[1], verdict=verdict, reason=reason)


def _compare(policy: Policy, rule: Comparison, differences: Differences, who: str) -> Iterator[Finding]:
    chosen = [found for at, found in differences.items() if at.metric in rule.metrics and at.axis in rule.by]
    large = [found for found in chosen if found.sessions >= policy.denominators.slice_sessions]
    for found in chosen:
        if found not in large:
            yield _finding(rule, found, "skipped", f"{found.sessions} sessions are too few to test", who)
    if rule.rule != "non_inferiority" and len(large) > policy.alpha * policy.resamples:
        reason = f"{policy.resamples} resamples cannot tell {len(large)} corrected tests apart from chance"
        yield Finding(rule=rule.rule, scope=who, observed=None, bound=rule.margin, verdict="fail", reason=reason)
    p_values = [_p_value(rule, found) for found in large]
    adjusted = p_values if rule.rule == "non_inferiority" else holm(p_values) if p_values else []
    shown = [p < policy.alpha for p in adjusted]
    for found, p, hit in zip(large, adjusted, shown, strict=True):
        verdict, reason = _rule_verdict(rule, found, hit, any(shown), who)
        yield _finding(rule, found, verdict, reason, who, p, found.interval(policy.alpha))
    if rule.rule != "no_regression" and not large:
        reason = f"no slice of {', '.join(rule.metrics)} has enough sessions to test"
        yield Finding(rule=rule.rule, scope=who, observed=None, bound=rule.margin, verdict="fail", reason=reason)


def _p_value(rule: Comparison, found: Difference) -> float:
    if rule.rule == "superiority":
        return found.p_above(rule.margin)
    return found.p_above(-rule.margin) if rule.rule == "non_inferiority" else found.p_below(-rule.margin)


def _rule_verdict(rule: Comparison, found: Difference, hit: bool, any_hit: bool, who: str) -> tuple[Verdict, str]:
    """`hit`: the test rejected its null hypothesis on this slice; `any_hit`: on some slice of the family."""
    shown = f"{found.slice}: {found.estimate:+.4f} against the {who} {'is' if hit else 'is not'} shown to"
    if rule.rule == "superiority":
        return "pass" if hit else "skipped" if any_hit else "fail", f"{shown} exceed {rule.margin:g}"
    if rule.rule == "non_inferiority":
        return "pass" if hit else "fail", f"{shown} lose less than {rule.margin:g}"
    return "fail" if hit else "pass", f"{shown} lose more than {rule.margin:g}"


def _finding(
    rule: Comparison,
    found: Difference,
    verdict: Verdict,
    reason: str,
    who: str,
    p: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Finding:
    return Finding(
        rule=rule.rule,
        scope=f"{found.slice} vs {who}",
        observed=round(found.estimate, 6),
        bound=rule.margin if rule.rule == "superiority" else -rule.margin,
        verdict=verdict,
        reason=reason,
        n=found.count,
        p=None if p is None else round(p, 6),
        interval=None if interval is None else (round(interval[0], 6), round(interval[1], 6)),
    )

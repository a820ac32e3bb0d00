"""Every metric that may appear in MLflow: what it means, its unit, and which way is better."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Better(StrEnum):
    """Direction of improvement."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"  # a gauge to watch


@dataclass(frozen=True)
class Metric:
    """One family of metrics; `pattern` matches the whole name."""

    pattern: str
    meaning: str
    unit: str
    better: Better


CATALOGUE: tuple[Metric, ...] = (
    Metric(r"vae/loss", "distance of reconstructed from true pixels (L1 plus squared)", "[-1, 1]", Better.LOWER),
    Metric(r"(base|sft|rl)/loss", "what the optimiser minimises", "-", Better.LOWER),
    Metric(r"(base|sft)/flow_loss", "squared error of the predicted velocity", "latent units squared", Better.LOWER),
    Metric(r"(base|sft)/trace_loss", "cross-entropy of the intent trace", "nats per token", Better.LOWER),
    Metric(r"(base|sft)/trace_accuracy", "share of trace tokens predicted exactly", "0 to 1", Better.HIGHER),
    Metric(r"\w+/gradient_norm", "global norm of the gradient before clipping", "-", Better.NEITHER),
    Metric(r"\w+/learning_rate", "learning rate of the step", "-", Better.NEITHER),
    Metric(r"sft/validation\w*(/.*)?", "score on held-out sessions while training", "0 to 1", Better.HIGHER),
    Metric(r"rl/reward(_turn_\d+)?", "mean reward of sampled turns", "0 to 1", Better.HIGHER),
    Metric(r"rl/(IF|CC|GA|GA_cumulative|success)(_turn_\d+)?", "mean score of sampled turns", "0 to 1", Better.HIGHER),
    Metric(r"rl/filtered_share", "share of turns that an earlier failure silences", "0 to 1", Better.LOWER),
    Metric(r"rl/absent_share", "share of turns for which the judge gave no reward", "0 to 1", Better.LOWER),
    Metric(r"rl/zero_spread_share", "share of turns whose group has nothing to compare", "0 to 1", Better.LOWER),
    Metric(r"rl/resampled_share", "share of turns that start from a sibling's picture", "0 to 1", Better.NEITHER),
    Metric(r"rl/truncated_share", "share of traces that the limit cuts", "0 to 1", Better.LOWER),
    Metric(r"rl/validation_\w+", "score on held-out sessions, sampled greedily", "0 to 1", Better.HIGHER),
    Metric(r"rl/alert", "1: the reward rises while the held-out score falls", "0 or 1", Better.LOWER),
    Metric(r"rl/trace_length", "length of sampled traces", "tokens", Better.NEITHER),
    Metric(r"rl/window_start", "first stochastic step of the iteration", "step", Better.NEITHER),
    Metric(r"rl/(image|text)_loss", "clipped policy loss", "-", Better.LOWER),
    Metric(r"rl/anchor_(flow|trace)_loss", "loss on the ground truth that RL holds on to", "-", Better.LOWER),
    Metric(r"rl/anchor_trace_accuracy", "share of its words that are predicted", "0 to 1", Better.HIGHER),
    Metric(r"rl/kl", "divergence from the reference policy", "squared velocity or latent units", Better.LOWER),
    Metric(r"rl/text_kl", "divergence of the sampling policy from the current one", "nats per token", Better.NEITHER),
    Metric(r"rl/entropy", "entropy of the trace's distribution", "nats per token", Better.NEITHER),
    Metric(r"rl/(image|text)_ratio", "mean ratio of new to old policy", "1 before an update", Better.NEITHER),
    Metric(r"rl/(image|text)_clip_share", "share of ratios outside the clip range", "0 to 1", Better.NEITHER),
    Metric(r"evaluation/(.+/)?n", "turns or sessions with a valid score (the denominator)", "count", Better.NEITHER),
    Metric(r"evaluation/(.+/)?IF", "instruction following of free-running edits", "0 to 1", Better.HIGHER),
    Metric(r"evaluation/(.+/)?CC", "content consistency: what should stay stays", "0 to 1", Better.HIGHER),
    Metric(r"evaluation/(.+/)?GA(_cumulative)?", "global awareness of rules and references", "0 to 1", Better.HIGHER),
    Metric(r"evaluation/(.+/)?session_success", "share of sessions without a failed turn", "0 to 1", Better.HIGHER),
    Metric(r"evaluation/(.+/)?success", "share of turns that succeeded", "0 to 1", Better.HIGHER),
    Metric(r"data/\w+_sessions", "sessions of a split", "count", Better.NEITHER),
    Metric(r"system/seconds", "wall time of the stage", "s", Better.LOWER),
    Metric(r"system/peak_memory_mib", "largest resident memory of the process so far", "MiB", Better.LOWER),
)


def describe(name: str) -> Metric | None:
    """The catalogue's entry for a metric name; the first match wins."""
    return next((entry for entry in CATALOGUE if re.fullmatch(entry.pattern, name)), None)

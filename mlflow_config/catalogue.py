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
    Metric(r"(\w+/)?progress", "share of the stage's work that is done", "0 to 1", Better.NEITHER),
    Metric(r"vae/(loss|reconstruction)", "squared error of reconstructed pixels", "pixels in [-1, 1]", Better.LOWER),
    Metric(r"vae/kl", "divergence of the posterior from a unit Gaussian", "nats per latent", Better.NEITHER),
    Metric(r"train/loss", "weighted sum of the flow-matching and the trace loss", "-", Better.LOWER),
    Metric(r"train/flow", "squared error of the predicted velocity", "latent units squared", Better.LOWER),
    Metric(r"train/trace", "cross-entropy of the intent trace", "nats per token", Better.LOWER),
    Metric(r".*/gradient_norm", "global norm of the gradient before clipping", "-", Better.NEITHER),
    Metric(r".*/learning_rate", "learning rate of the step", "-", Better.NEITHER),
    Metric(r".*/seconds", "wall time of a step", "s", Better.LOWER),
    Metric(r"rl/reward(/\w+)?", "mean reward of sampled turns", "0 to 1", Better.HIGHER),
    Metric(r"rl/(IF|CC|GA)", "mean score of sampled turns", "0 to 1", Better.HIGHER),
    Metric(r"rl/success", "share of sampled turns that succeeded", "0 to 1", Better.HIGHER),
    Metric(r"rl/kept", "share of turns that the trajectory filter lets learn", "0 to 1", Better.NEITHER),
    Metric(r"rl/ratio(/\w+)?", "largest distance of the ratio from 1 before the first update", "-", Better.LOWER),
    Metric(r"rl/clipped(/\w+)?", "share of clipped ratios", "0 to 1", Better.NEITHER),
    Metric(r"rl/kl(/\w+)?", "divergence from the reference policy", "nats or latent units squared", Better.LOWER),
    Metric(r"eval/(IF|CC|GA|GA_cumulative)(/.*)?", "score of free-running edits", "0 to 1", Better.HIGHER),
    Metric(r"eval/success(/.*)?", "share of sessions all of whose turns succeeded", "0 to 1", Better.HIGHER),
    Metric(r"eval/.*n", "turns or sessions with a valid score (the denominator)", "count", Better.NEITHER),
    Metric(r"data/\w+", "count of the built data", "count", Better.NEITHER),
    Metric(r"system/\w+", "resource use of the process", "see name", Better.NEITHER),
)


def describe(name: str) -> Metric | None:
    """The catalogue's entry for a metric name; the first match wins."""
    return next((entry for entry in CATALOGUE if re.fullmatch(entry.pattern, name)), None)

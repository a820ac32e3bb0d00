"""The figures of the results table: curves and differences with their intervals, and strips before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks import experiment_statistics as statistics
from tasks.experiment_measured import Estimates, Measured, Row
from tasks.experiment_statistics import Estimate
from tasks.report import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHERS = (
    *("#7cb5e0", "#1d3557", "#c9a227", "#2a9d8f", "#b5179e", "#6a4c93"),
    *("#7f5539", "#90be6d", "#f4a261", "#606c38", "#e56b9f", "#000000"),
    *("#00b4d8", "#bc6c25", "#ff4d6d", "#8d99ae", "#386641", "#dda15e"),
)
TURN_PANELS = {"IF": "IF", "CC": "CC", "GA": "GA per prefix", "success": "turn success"}
STRIPS = 4  # sessions drawn before and after
SMOOTH = 5  # iterations of the moving mean of a learning curve

Curves = Mapping[str, Mapping[int, Estimate]]
Drawn = tuple[str, str, str]  # title, what to know when reading it, path


def draw(found: Measured, folder: Path) -> list[Drawn]:
    """Draw every figure that has something to show.

    Args:
        folder: gets the files.

    Returns:
        Title, note and path (relative to the folder above) of each.
    """
    made: list[Drawn] = []
    for title, note, name, figure in _figures(found):
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=110)
            made.append((title, note, f"{folder.name}/{name}.png"))
    return made + strips(found, folder)


def _figures(found: Measured) -> list[tuple[str, str, str, Figure | None]]:
    band = "Bars are the 95% intervals."
    counted = f"{band} Below each turn or distance stands the number of scores of a variant, over all seeds."
    labels = "Session success by the ground-truth sessions that SFT, and RL beside its reward, learn from."
    gap = "What earlier mistakes cost: the score of each turn minus the score of the same turn on the true history."
    rewards = (
        "Mean over the seeds of each iteration's mean reward, as a moving mean of "
        f"{SMOOTH} iterations. Variants practise on different turns where they say so, so levels compare only in part."
    )
    return [
        ("Scores by turn", counted, "by-turn", _by_turn(found, lambda row: row.means, TURN_PANELS)),
        ("GA by distance to the constraint", counted, "ga-by-distance", _by_distance(found)),
        ("What labels are worth", f"{labels} {band}", "by-labels", _by_labels(found)),
        ("Contamination gap", f"{gap} {counted}", "contamination-gap", _by_turn(found, lambda row: row.gap, GAPS)),
        ("Learning curves", rewards, "learning-curves", _learning(found)),
        (f"{found.headline} minus the others", band, "differences", _forest(found)),
    ]


GAPS = {"IF": "IF", "CC": "CC", "GA": "GA per prefix"}


def _by_turn(found: Measured, of: Callable[[Row], Estimates], panels: Mapping[str, str]) -> Figure | None:
    curves = {
        metric: {name: statistics.along(of(found.rows[name]), metric, "turn") for name in found.figures}
        for metric in panels
    }
    shown = {metric: of_metric for metric, of_metric in curves.items() if any(of_metric.values())}
    if not shown:
        return None
    figure = _figure(3.2 * len(shown), 3.2)
    all_axes = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (metric, of_metric) in zip(all_axes, shown.items(), strict=True):
        _curves(axes, found, of_metric)
        axes.set(title=panels[metric], xlabel="turn")
    _legend(figure, all_axes[0])
    return figure


def _by_distance(found: Measured) -> Figure | None:
    curves = {name: found.rows[name].by_distance for name in found.figures}
    if not any(curves.values()):
        return None
    figure = _figure(5.5, 3.4)
    axes = figure.add_subplot()
    _curves(axes, found, curves)
    axes.set(xlabel="turns since it was stated", ylabel="GA per prefix")
    _legend(figure, axes)
    return figure


def _curves(axes: Axes, found: Measured, curves: Curves) -> None:
    """One line per variant with its intervals, a little apart so that none hides another."""
    for index, (name, points) in enumerate(curves.items()):
        places = [x + 0.06 * (index - (len(curves) - 1) / 2) for x in points]
        _curve(axes, places, list(points.values()), name, colour(found, name))
    counts = {x: max(of.n for of in (points.get(x) for points in curves.values()) if of) for x in _places(curves)}
    axes.set_xticks(list(counts), [f"{x}\n{n}" for x, n in counts.items()])
    if any(one.mean < 0 for points in curves.values() for one in points.values()):
        axes.axhline(0, color="#808080", linewidth=0.8, zorder=0)


def _by_labels(found: Measured) -> Figure | None:
    figure = _figure(5.5, 3.4)
    axes = figure.add_subplot()
    counts: set[int] = set()
    for index, (name, variants) in enumerate(found.labels.items()):
        rows = [(row.labelled, row) for row in (found.rows[one] for one in variants) if row.labelled]
        points = {count: statistics.by_key(row.means)["session_success"] for count, row in rows}
        places = [count * 1.03 ** (index - (len(found.labels) - 1) / 2) for count in points]  # none hides another
        _curve(axes, places, list(points.values()), name, colour(found, name))
        counts |= set(points)
    if len(counts) < 2:
        return None
    axes.set_xscale("log")
    axes.set_xticks(sorted(counts), [f"{count:,}" for count in sorted(counts)])
    axes.minorticks_off()
    axes.set(xlabel="labelled sessions", ylabel="session success")
    _legend(figure, axes)
    return figure


def _curve(axes: Axes, places: Sequence[float], values: Sequence[Estimate], name: str, its_colour: str) -> None:
    spread = [[one.mean - one.low for one in values], [one.high - one.mean for one in values]]
    axes.errorbar(
        places,
        [one.mean for one in values],
        np.maximum(spread, 0.0),
        label=name,
        color=its_colour,
        marker="o",
        markersize=3.5,
        linewidth=1.5,
        elinewidth=1,
    )
    axes.spines[["top", "right"]].set_visible(False)


def _places(curves: Curves) -> list[int]:
    return sorted({x for points in curves.values() for x in points})


def _learning(found: Measured) -> Figure | None:
    curves = {name: [one.rewards for one in row.trainings if one.rewards] for name, row in found.rows.items()}
    curves = {name: seeds for name, seeds in curves.items() if seeds}
    if not curves:
        return None
    figure = _figure(7.5, 3.8)
    axes = figure.add_subplot()
    for name, seeds in curves.items():
        iterations, means = learning_curve(seeds)
        axes.plot(iterations, means, label=name, color=colour(found, name), linewidth=1.5)
    axes.set(xlabel="iteration", ylabel="mean reward of sampled turns")
    axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, axes, columns=3)
    return figure


def learning_curve(seeds: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Iterations (from 1) and rewards: mean of the seeds, then a moving mean, each at the middle of its window."""
    length = min(len(one) for one in seeds)
    mean = np.mean([one[:length] for one in seeds], axis=0)
    width = min(SMOOTH, length)
    smooth = np.convolve(mean, np.full(width, 1 / width), mode="valid")
    return [float(i) for i in np.arange(len(smooth)) + (width + 1) / 2], [float(value) for value in smooth]


def _forest(found: Measured) -> Figure | None:
    """Differences of the headline variant from every other, per metric."""
    pairs = {b: statistics.by_key(of) for (a, b), of in found.paired.items() if a == found.headline}
    panels = {"session_success": "session success", **GAPS}
    if not pairs:
        return None
    figure = _figure(2.6 * len(panels) + 1.2, 1.3 + 0.32 * len(pairs))
    all_axes = figure.subplots(1, len(panels), sharey=True)
    for axes, (metric, title) in zip(all_axes, panels.items(), strict=True):
        for place, (name, by_key) in enumerate(pairs.items()):
            if (one := by_key.get(metric)) is not None:
                axes.plot([one.low, one.high], [place, place], color=colour(found, name), linewidth=2)
                axes.plot([one.mean], [place], marker="o", color=colour(found, name), markersize=5)
        axes.axvline(0, color="#808080", linewidth=0.8, zorder=0)
        axes.set(title=title)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_yticks(range(len(pairs)), [f"− {name}" for name in pairs])
    all_axes[0].set_ylim(len(pairs) - 0.5, -0.5)
    return figure


def colour(found: Measured, name: str) -> str:
    """One colour per variant in all figures; base, SFT and the headline have those of the report."""
    known = {"base": COLOURS["base"], "sft": COLOURS["sft"], found.headline: COLOURS["rl"]}
    others = [one for one in found.rows if one not in known]
    return known.get(name) or OTHERS[others.index(name) % len(OTHERS)]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: it would look for a display and keep global state

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, axes: Axes, columns: int = 5) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)


def strips(found: Measured, folder: Path) -> list[Drawn]:
    """The same sessions by SFT and by the headline variant, one above the other: the first that both have drawn."""
    rows = [found.rows[name] for name in ("sft", found.headline) if name in found.rows]
    if len(rows) < 2:
        return []
    folders = [row.trainings[0].strips for row in rows]
    names = sorted(set.intersection(*({path.name for path in place.glob("*.png")} for place in folders)))[:STRIPS]
    made = []
    for name in names:
        _above_each_other(
            [place / name for place in folders], [row.variant.name for row in rows], folder / f"strip-{name}"
        )
        note = f"{rows[0].variant.name} above, {rows[1].variant.name} below, seed {rows[0].trainings[0].seed}."
        made.append((f"Session {Path(name).stem}", note, f"{folder.name}/strip-{name}"))
    return made


def _above_each_other(pictures: Sequence[Path], names: Sequence[str], target: Path) -> None:
    from PIL import Image, ImageDraw, ImageFont

    opened = [Image.open(path).convert("RGB") for path in pictures]
    title = 22  # pixels of a name above its strip
    whole = Image.new("RGB", (max(one.width for one in opened), sum(one.height + title for one in opened)), "white")
    pen, font, top = ImageDraw.Draw(whole), ImageFont.load_default(size=14), 0
    for name, one in zip(names, opened, strict=True):
        pen.text((8, top + 4), name, fill="black", font=font)
        whole.paste(one, (0, top + title))
        top += one.height + title
    whole.save(target)

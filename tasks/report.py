"""What a retraining came to: a table for the terminal and one HTML page for everybody else.

The page is a single file without scripts or outside resources, kept with the MLflow run.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tasks.evaluation import Evaluation
from tasks.redaction import without_login
from tasks.settings import settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).resolve().parents[1] / "mlflow_config" / "report.html"
METRICS = ("IF", "CC", "GA")
TRACKS = {"cm": "content memory", "cu": "content understanding"}
COLOURS = {"base": "#9aa5b1", "sft": "#3e7cb1", "rl": "#d1603d"}
STRIPS = 6  # sessions shown on the page

Sheets = Mapping[str, dict[str, Any]]


def sheets(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, Any]]:
    """Score sheets by model name, in the order of training."""
    return {found.name: found.scores() for found in evaluations}


def mean(summary: Mapping[str, Any], *path: str) -> float | None:
    """The mean at a path of a summary, None where there is no valid score."""
    cell: Any = summary
    for name in path:
        cell = cell.get(name, {}) if isinstance(cell, Mapping) else {}
    return cell.get("mean") if isinstance(cell, Mapping) else None


def shown(value: float | None) -> str:
    """A score for people."""
    return "–" if value is None else f"{value:.3f}"


def rows(found: Sheets) -> list[tuple[str, list[float | None]]]:
    """One row per model: IF, CC and GA per track, then overall session success."""
    return [
        (name, [*(mean(sheet["summary"], t, m) for t in TRACKS for m in METRICS), _success(sheet["summary"])])
        for name, sheet in found.items()
    ]


def _success(summary: Mapping[str, Any]) -> float | None:
    return mean(summary, "session_success")


def headings() -> list[str]:
    """Headings of the columns of `rows`."""
    return [f"{track} {metric}" for track in TRACKS for metric in METRICS] + ["session success"]


def table(profile: str, found: Sheets) -> Table:
    """The closing table of the terminal."""
    counts = {len(sheet["sessions"]) for sheet in found.values()}
    sessions = "/".join(str(count) for count in sorted(counts))
    made = Table(title=f"{profile}: {sessions} benchmark sessions", title_justify="left")
    made.add_column("model")
    for heading in headings():
        made.add_column(heading, justify="right")
    for name, values in rows(found):
        made.add_row(name, *(shown(value) for value in values))
    return made


def markdown(profile: str, found: Sheets, decision: str, reasons: Sequence[str]) -> str:
    """The same for Prefect's page of the flow run."""
    lines = [f"## {profile}: {decision}", ""]
    lines += [f"* {reason}" for reason in reasons] + [""] * bool(reasons)
    lines += ["| model | " + " | ".join(headings()) + " |", "|---" * (len(headings()) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(shown(value) for value in values) + " |" for name, values in rows(found)]
    return "\n".join(lines)


def page(profile: str, evaluations: Sequence[Evaluation], decision: str, details: str, facts: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        profile: name of the profile.
        evaluations: of the models, in the order of training.
        decision: one line.
        details: the decision in full, as plain text.
        facts: what made this, name to value.
    """
    from jinja2 import Environment, StrictUndefined

    found = sheets(evaluations)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        profile=profile,
        decision=decision,
        details=details,
        facts=facts,
        headings=headings(),
        rows=[(name, [shown(value) for value in values]) for name, values in rows(found)],
        plots=plots(found),
        strips=strips(evaluations),
    )


def plots(found: Sheets) -> list[tuple[str, str]]:
    """Title and PNG (base64) of every plot; one without data is left out."""
    wanted = (
        ("Instruction following by turn", "by_turn", "IF", "turn"),
        ("Global awareness by distance to the constraint", "by_distance", "GA", "turns since it was stated"),
        ("Instruction following by edit type", "by_type", "IF", ""),
        ("What earlier mistakes cost: IF, free running minus true history", "contamination_gap", "IF", "turn"),
    )
    drawn = []
    for title, group, metric, label in wanted:
        keys = sorted({key for sheet in found.values() for key in sheet["summary"].get(group, {})}, key=_order)
        if keys:
            drawn.append((title, _png(_bars(found, group, metric, keys, label))))
    return drawn


def _order(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isdigit() else (0, key)


def _bars(found: Sheets, group: str, metric: str, keys: Sequence[str], label: str) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: it would look for a display and keep global state

    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axes = figure.add_subplot()
    width, lowest = 0.8 / len(found), 0.0
    for index, (name, sheet) in enumerate(found.items()):
        found_means = [mean(sheet["summary"], group, key, metric) for key in keys]
        heights = [float("nan") if value is None else value for value in found_means]  # an absence is not a zero
        lowest = min([lowest, *(value for value in found_means if value is not None)])
        places = [place + (index - (len(found) - 1) / 2) * width for place in range(len(keys))]
        axes.bar(places, heights, width, label=name, color=COLOURS.get(name))
    axes.set_xticks(range(len(keys)), [key.replace("_", " ") for key in keys])
    if max(map(len, keys)) > 4:
        for text in axes.get_xticklabels():
            text.set(rotation=20, ha="right", rotation_mode="anchor")
    axes.set(ylim=(lowest * 1.1, 1 if lowest == 0 else 0.2), xlabel=label, ylabel=metric)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def strips(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Per session: its strip (base64) by every model that drew one."""
    folders = {found.name: found.path().parent / "strips" for found in evaluations}
    names = sorted({path.stem for folder in folders.values() for path in folder.glob("*.png")})[:STRIPS]
    return [
        (
            session,
            [
                (model, base64.b64encode((folder / f"{session}.png").read_bytes()).decode())
                for model, folder in folders.items()
                if (folder / f"{session}.png").exists()
            ],
        )
        for session in names
    ]


def where_to_look(experiment_id: str, run_id: str) -> str:
    """A URL, or the command that serves one."""
    uri = without_login(settings().tracking_uri)
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"edit-r2 up, then http://127.0.0.1:{settings().mlflow_port}/#/experiments/{experiment_id}/runs/{run_id}"

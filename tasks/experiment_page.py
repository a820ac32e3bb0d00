"""The page of the results table, in Markdown. Whatever it says in words is derived from the numbers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks import experiment_statistics as statistics
from tasks.experiment_measured import Estimates, Measured, Part
from tasks.experiment_statistics import RESAMPLES, TRACKS, Estimate
from tasks.report import TRACKS as TRACK_NAMES

TITLES = {
    "IF": "IF",
    "CC": "CC",
    "GA": "GA per prefix",
    "GA_cumulative": "GA cumulative",
    "success": "turn success",
    "session_success": "session success",
}
Pictures = Sequence[tuple[str, str, str]]  # title, what to know when reading it, path


def headline(found: Measured) -> str:
    """What was compared, in one line."""
    sessions, seeds = len(found.any_scores.sessions), len(found.seeds)
    return f"{found.profile}: {sessions} held-out sessions, {seeds} seed{'s' * (seeds != 1)}"


def cell(one: Estimate | None, signed: bool = False) -> str:
    """`0.812 [0.790, 0.833]`; a dash where there is no score."""
    if one is None:
        return "–"
    sign = "+" if signed else ""
    mean, low, high = (f"{round(value, 3) + 0.0:{sign}.3f}" for value in (one.mean, one.low, one.high))  # no -0.000
    return f"{mean} [{low}, {high}]"


def page(found: Measured, pictures: Pictures) -> str:
    """The whole page."""
    lines = [f"# Results of profile {found.profile}", "", *_about(found), ""]
    lines += ["## Scores", "", *scores(found), *made_of(found), ""]
    for track in TRACKS:
        lines += [f"## {TRACK_NAMES[track].capitalize()} (`{track}`)", "", *scores(found, f"{track}/"), ""]
    if found.paired:
        about = "Within the same sessions and seeds; **bold** where the interval leaves out 0."
        lines += ["## Differences", "", about, "", *_differences(found.paired), ""]
        lines += [*(f"- {line}" for line in reading(found)), ""]
    for part in found.parts:
        lines += [*_part(part), ""]
    lines += ["## What each variant saw", "", *_saw(found), ""]
    lines += ["## Figures", ""] + [line for one in pictures for line in _picture(*one)]
    lines += ["## Runs", "", "Best step: the one whose weights were kept.", "", *_runs(found)]
    return "\n".join(lines) + "\n"


def _about(found: Measured) -> list[str]:
    benchmark, judge = found.any_scores.benchmark, found.any_scores.judge
    return [
        f"{headline(found)}. Benchmark `{benchmark.name}` `{benchmark.digest}`, judge {judge.name} {judge.version}.",
        f"Written at commit `{found.commit}` from {found.source}, by",
        "",
        f"    {found.command}",
        "",
        "Every model edits freely: each turn sees its own earlier pictures.",
        "",
        f"Brackets are 95% bootstrap intervals ({RESAMPLES:,} resamples of whole sessions, seeds pooled in each): how",
        "far other sessions of the kind would move a value, given these seeds, not corrected for many comparisons.",
    ]


def scores(found: Measured, prefix: str = "") -> list[str]:
    """One table: a row per variant, its denominators below."""
    return _scores({name: row.means for name, row in found.rows.items()}, prefix)


def made_of(found: Measured) -> list[str]:
    """What a row's numbers rest on where that differs: how many seeds, and trainings that are another row's too."""
    seeds: dict[int, list[str]] = {}
    runs: dict[tuple[str, ...], list[str]] = {}
    for name, row in found.rows.items():
        if row.variant.seeded:
            seeds.setdefault(len(row.trainings), []).append(name)
            if ids := tuple(one.run_id for one in row.trainings if one.run_id):
                runs.setdefault(ids, []).append(name)
    fewer = [f"{count} of {', '.join(seeds[count])}" for count in sorted(seeds)[:-1]]
    said = [f"- seeds: {max(seeds)} of a variant, but {'; '.join(fewer)}"] if fewer else []
    return said + [f"- the same trainings: {', '.join(names)}" for names in runs.values() if len(names) > 1]


def _scores(means: Mapping[str, Estimates], prefix: str = "") -> list[str]:
    by_name = {name: statistics.by_key(estimates) for name, estimates in means.items()}
    lines = [_line("variant", *TITLES.values()), _line(*["---"] * (len(TITLES) + 1))]
    for name, estimates in by_name.items():
        lines.append(_line(name, *(cell(estimates.get(prefix + metric)) for metric in TITLES)))
    return [*lines, "", *_denominators(by_name, prefix)]


def _part(part: Part) -> list[str]:
    """The scores and differences on the sessions that hold something held out, or on the others."""
    title = (
        "Sessions with something that no training shows" if part.held_out else "Sessions of kinds that training shows"
    )
    held_out = "A phrasing, a pair of kind and colour or a rule family" if part.held_out else "Nothing"
    about = f"{held_out} is held out. Sessions: {part.sessions}."
    lines = [f"## {title}", "", about, "", *_scores(part.means), ""]
    return lines + _differences(part.paired) if part.paired else lines


def _denominators(by_name: Mapping[str, Mapping[str, Estimate]], prefix: str) -> list[str]:
    """Which variants have which numbers of scored turns and sessions, over all seeds."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, estimates in by_name.items():
        counts = tuple(estimates[prefix + m].n if prefix + m in estimates else 0 for m in TITLES)
        groups.setdefault(counts, []).append(name)
    most = max(groups.values(), key=len)
    said = ["Scored turns, and sessions for the last column, of all seeds:", ""]
    for counts, names in groups.items():
        who = "all other variants" if names is most and len(groups) > 1 else ", ".join(names)
        numbers = (f"{title} {count:,}" for title, count in zip(TITLES.values(), counts, strict=True))
        said.append(f"- {'all variants' if len(groups) == 1 else who}: {', '.join(numbers)}")
    return said


def _differences(paired: Mapping[tuple[str, str], Estimates]) -> list[str]:
    lines = [_line("", *TITLES.values()), _line(*["---"] * (len(TITLES) + 1))]
    for (ours, theirs), estimates in paired.items():
        by_key = statistics.by_key(estimates)
        lines.append(_line(f"{ours} − {theirs}", *(_marked(by_key.get(metric)) for metric in TITLES)))
    return lines


def _marked(one: Estimate | None) -> str:
    text = cell(one, signed=True)
    return f"**{text}**" if one is not None and one.sign else text


def reading(found: Measured) -> list[str]:
    """What the paired differences say, one line per pair."""
    return [
        f"{ours} against {theirs}: {'; '.join(_verdicts(estimates))}"
        for (ours, theirs), estimates in found.paired.items()
    ]


def _verdicts(estimates: Estimates) -> list[str]:
    by_key = statistics.by_key(estimates)
    words = {1: "higher in", -1: "lower in", 0: "no difference shown in"}
    said = []
    for sign, word in words.items():
        titles = [title for metric, title in TITLES.items() if metric in by_key and by_key[metric].sign == sign]
        if titles:
            said.append(f"{word} {', '.join(titles)}")
    return said


def _saw(found: Measured) -> list[str]:
    lines = [_line("variant", "what", "starts from", "sees", "updates", "seconds"), _line(*["---"] * 6)]
    for name, row in found.rows.items():
        seconds = "–" if row.seconds is None else f"{row.seconds:,.0f}"
        lines.append(_line(name, row.variant.about, row.variant.parent or "–", row.data, row.steps, seconds))
    tracked = any(one.run_id for row in found.rows.values() for one in row.trainings)
    counted = "since the last start" if tracked else "of all attempts"
    return [
        *lines,
        "",
        "Sees, updates and seconds are those of the variant's own training, after that of the variant it starts from.",
        f"Seconds are wall time, the mean of the seeds, {counted} where a training was interrupted.",
    ]


def _picture(title: str, note: str, path: str) -> list[str]:
    return [f"### {title}", "", *([note, ""] if note else []), f"![{title}]({path})", ""]


def _runs(found: Measured) -> list[str]:
    about = ("variant", "seed", "training", "evaluation", "commit", "seconds", "best step")
    head = (*about, "IF", "CC", "GA", "session success")
    lines = [_line(*head), _line(*["---"] * len(head))]
    for name, row in found.rows.items():
        for one in row.trainings:
            values = [one.scores.means()[metric]["mean"] for metric in ("IF", "CC", "GA", "session_success")]
            shown = ["–" if value is None else f"{value:.3f}" for value in values]
            seconds = "–" if one.seconds is None else f"{one.seconds:,.0f}"
            best = "last" if one.best is None else f"{one.best:,}"
            seed = str(one.seed) if row.variant.seeded else "–"
            runs = (f"`{run}`" if run else "–" for run in (one.run_id, one.evaluation_run))
            lines.append(_line(name, seed, *runs, one.commit or "–", seconds, best, *shown))
    return lines


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

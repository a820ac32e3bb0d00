"""The model card of a version, in Markdown, made from its signed documents and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.pedigree import Pedigree
from tasks.scores import METRICS, Scores

MEANING = {
    "IF": "instruction following, per turn",
    "CC": "content consistency, per turn",
    "GA": "global awareness: constraints of earlier turns, where a turn needs one",
    "GA_cumulative": "global awareness over all turns so far",
    "success": "share of turns that succeeded in everything",
    "session_success": "share of sessions all of whose turns succeeded",
}


def card(found: Pedigree) -> str:
    """The card: what it is, how good it is, where it comes from, how it was decided."""
    parts = [*_head(found), *_quality(found), *_origin(found), *_decision(found)]
    return "\n".join(parts) + "\n"


def _head(found: Pedigree) -> Iterator[str]:
    entry = found.entry
    yield f"# {found.model}, version {entry.version}\n"
    if found.recalled:
        yield f"> **Recalled.** {found.recalled}\n"
    if found.word:
        against = "**Promoted against the gates' decision:** " if found.word.kind == "override" else ""
        yield f"> {against}{found.word.line}\n"
    yield "A unified multimodal transformer that edits one image over many turns. Before each edit it writes an intent"
    yield "trace: the edit as it stands after everything the session has said.\n"
    yield f"- In the registry: `{found.model}`, version {entry.version}, alias `{found.alias}`"
    yield f"- Last entry in the ledger: {entry.action} by {entry.actor} on {entry.time[:10]}: {entry.reason}"
    yield f"- Digest of the model: `{entry.model_digest}`\n"


def _quality(found: Pedigree) -> Iterator[str]:
    scores = found.scores
    yield "## How good it is\n"
    yield f"On `{scores.benchmark.name}` ({scores.benchmark.digest}), {len(scores.sessions)} sessions, judged by"
    yield f"`{scores.judge.name}` version {scores.judge.version}, seed {scores.seed}. Values are means; n counts the"
    yield "turns or sessions that have a value. What cannot be judged is left out, never filled in.\n"
    tracks = sorted({session.track for session in scores.sessions if session.track})
    yield "| metric | all | n | " + " | ".join(f"{track} | n" for track in tracks) + " | meaning |"
    yield "|" + "---|" * (4 + 2 * len(tracks))
    parts = [scores, *(_of_track(scores, track) for track in tracks)]
    for metric in METRICS:
        cells = [part.means()[metric] for part in parts]
        if cells[0]["mean"] is not None:
            shown = " | ".join(f"{_number(cell['mean'])} | {cell['n']}" for cell in cells)
            yield f"| {metric} | {shown} | {MEANING[metric]} |"
    yield ""


def _of_track(scores: Scores, track: str) -> Scores:
    return scores.model_copy(update={"sessions": tuple(s for s in scores.sessions if s.track == track)})


def _number(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _origin(found: Pedigree) -> Iterator[str]:
    yield "## Where it comes from\n"
    yield "| model | digest | code | data | seeds | signed statement |"
    yield "|---|---|---|---|---|---|"
    for model in found.generations:
        source = model.resources["source"]
        dirty = " (uncommitted changes)" if source["annotations"]["dirty"] else ""
        named = [f"{item['name']} {item['digest']['dvcMd5Dir'][:12]}" for item in model.datasets]
        data = ", ".join([*model.imported, *named]) or "–"
        seeds = (
            ", ".join(f"{name}={value}" for name, value in model.build["externalParameters"]["seeds"].items()) or "–"
        )
        commit = source["digest"]["gitCommit"][:12]
        yield f"| {model.name} | {model.digest[:12]} | {commit}{dirty} | {data} | {seeds} | {model.statement[:12]} |"
    yield ""


def _decision(found: Pedigree) -> Iterator[str]:
    yield "## How it was decided\n"
    against = found.decision.champion_digest
    other = f"the champion {against[:12]}" if against else "the stage it was trained from"
    policy, profile = found.decision.inputs.policy[:12], found.decision.profile
    yield f"Compared with {other}, by policy `{policy}` of profile `{profile}`.\n"
    yield found.decision.markdown()
    yield "\nIt is not meant for edits that deceive. Scores on rendered scenes say nothing about photographs."

"""The chain of one version as data: entry, statements from the model to its base, scores, decision; and as a tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from tasks import lineage
from tasks.approval import Approval, read_approval
from tasks.decision import Decision
from tasks.ledger import Entry, champion, latest, read_chain, recalled, spoken
from tasks.scores import Scores
from tasks.stores import mentions
from tasks.view import View


@dataclass(frozen=True)
class Generation:
    """One model of the chain: digest and payload of the statement that was made with it."""

    statement: str
    payload: dict[str, Any]

    @property
    def build(self) -> dict[str, Any]:
        """SLSA's build definition."""
        return dict(self.payload["predicate"]["buildDefinition"])

    @property
    def name(self) -> str:
        """base, sft or rl."""
        return str(self.build["externalParameters"]["model"])

    @property
    def digest(self) -> str:
        """Digest of the model."""
        return lineage.model_digest(self.payload)

    @property
    def internal(self) -> dict[str, Any]:
        """Ids of model and runs, fingerprint, hardware."""
        return dict(self.build["internalParameters"])

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """What the model was made from, by name."""
        return {item["name"]: item for item in self.build["resolvedDependencies"]}

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """The datasets that it was trained on."""
        return lineage.dependencies(self.payload, "dataset")

    @property
    def imported(self) -> list[str]:
        """Ready weights that it is, or began with: name and digest."""
        found = lineage.dependencies(self.payload, "checkpoint")
        return [f"imported {item['name']} {item['digest']['sha256'][:12]}" for item in found]


@dataclass(frozen=True)
class Pedigree:
    """A version with everything before it; `generations` run from the model itself to its base."""

    model: str
    alias: str
    entry: Entry
    release: dict[str, Any]
    generations: tuple[Generation, ...]
    scores: Scores
    decision: Decision
    recalled: str | None
    word: Approval | None = None  # a person's approval, or override, of the decision

    @property
    def is_champion(self) -> bool:
        """Whether the entry made a champion."""
        return self.entry.action in ("promote", "override", "rollback")


def pedigree(view: View, version: int | None = None) -> Pedigree:
    """The chain of a version (None: of the champion), every statement opened and checked on the way.

    Raises:
        UserError: the ledger knows no such version, or a document is not kept here.
        SignatureError: a statement does not hold.
    """
    chain = read_chain(view.shelf.lines(), view.keys)
    if version is None:
        entry = champion(chain, view.registry.name, view.alias)
    else:
        entry = latest(chain, view.registry.name, version)
    if entry is None:
        what = f"version {version}" if version else f"{view.registry.name}@{view.alias}"
        raise UserError(f"the ledger knows no {what}", "See `edit-r2 history`")
    said = spoken(chain, entry)
    release = lineage.opened(str(entry.statement), view.shelf, view.trusted)
    decision = Decision.model_validate_json(view.shelf.get(str(entry.decision)))
    withdrawn = recalled(chain, view.registry.name).get(entry.version)
    return Pedigree(
        model=view.registry.name,
        alias=view.alias,
        entry=entry,
        release=release,
        generations=tuple(_generations(view, str(lineage.byproduct(release, "training-statement")))),
        scores=Scores.model_validate_json(view.shelf.get(decision.inputs.candidate)),
        decision=decision,
        recalled=withdrawn.reason if withdrawn else None,
        word=read_approval(view.shelf.get(str(said.approval)), view) if said else None,
    )


def _generations(view: View, statement: str | None) -> Iterator[Generation]:
    while statement:
        found = Generation(statement, lineage.opened(statement, view.shelf, view.trusted))
        yield found
        parents = lineage.dependencies(found.payload, "model")
        statement = parents[0]["annotations"].get("statement") if parents else None


def tree(found: Pedigree) -> str:
    """The chain drawn with lines, one thing a line, digests cut to 12 digits."""
    entry = found.entry
    lines = [
        f"{found.model} version {entry.version} ({entry.action} by {entry.actor}, {entry.time[:16]}): {entry.reason}",
        f"├─ decision {found.decision.digest[:12]}: {found.decision.verdict}, {len(found.decision.findings)} rules",
        f"├─ scores {found.scores.digest[:12]} on {found.scores.benchmark.name} {found.scores.benchmark.digest[:12]}",
    ]
    if found.word:
        lines.insert(2, f"├─ {found.word.line}")
    if found.recalled:
        lines.insert(1, f"├─ RECALLED: {found.recalled}")
    for depth, model in enumerate(found.generations):
        lines += [f"{'   ' * depth}{line}" for line in _branch(model, depth == len(found.generations) - 1)]
    return "\n".join(lines)


def _branch(model: Generation, last: bool) -> list[str]:
    commit = model.resources["source"]
    dirty = " with uncommitted changes" if commit["annotations"]["dirty"] else ""
    lines = [
        f"└─ {model.name} {model.digest[:12]}, statement {model.statement[:12]}",
        f"   ├─ code {commit['digest']['gitCommit'][:12]}{dirty}",
        f"   ├─ run {model.internal['run_id'][:12]}, model id {model.internal['model_id']}",
    ]
    lines += [f"   ├─ {ready}, what made it is outside this ledger" for ready in model.imported]
    for data in model.datasets:
        lines.append(f"   ├─ data {data['name']} {data['digest'].get('dvcMd5Dir', '')[:12]}")
    if last:
        lines[-1] = lines[-1].replace("├─", "└─")
    return lines


def who_used(view: View, wanted: str) -> list[tuple[int, str]]:
    """Versions whose chain holds something, each with what holds it.

    Args:
        view: what to read.
        wanted: a dataset's name, a session's id, a picture's path, or 12 digits or more of the digest of a dataset, a
            model, a lock or a commit. Sessions and pictures are looked up in DVC's cache and folder remote.
    """
    chain = read_chain(view.shelf.lines(), view.keys)
    mine = {signed.entry.version for signed in chain if signed.entry.model == view.registry.name}
    versions = [version for version in sorted(mine) if latest(chain, view.registry.name, version)]
    found = {version: next(_named(view, pedigree(view, version), wanted), None) for version in versions}
    return [(version, named) for version, named in found.items() if named]


def _named(view: View, found: Pedigree, wanted: str) -> Iterator[str]:
    digest = wanted.removesuffix(".dir")
    for model in found.generations:
        for item in [_resource_of(model), *model.resources.values()]:
            begins = any(known.startswith(digest) for known in item["digest"].values())
            if item["name"] == wanted or (len(digest) >= 12 and begins):
                yield f"{item['name']} of {model.name}"
        for item in model.datasets:
            if view.root and mentions(f"{item['digest']['dvcMd5Dir']}.dir", wanted, view.root, view.remote):
                yield f"{item['name']} of {model.name}"
    benchmark = found.scores.benchmark
    if wanted in (benchmark.name, benchmark.digest) or wanted in {session.id for session in found.scores.sessions}:
        yield f"{benchmark.name} of the scores"


def _resource_of(model: Generation) -> dict[str, Any]:
    """The model itself, in the form of a resource."""
    return {"name": f"model {model.name}", "digest": {"sha256": model.digest}}

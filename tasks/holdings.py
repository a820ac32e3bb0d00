"""What an installation holds (models, working folders, cached copies) and which of it the ledger's chains need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_config.settings import Tag
from tasks import lineage
from tasks.books import Books
from tasks.canonical import is_digest
from tasks.ledger import CROWNING
from tasks.locks import Busy, file_lock
from tasks.models import stored
from tasks.recording import handed_on
from tasks.registry import AWAITS_TAG, RETIRED_TAG, STATEMENT_TAG, Registry, pages
from tasks.retention import Item, State

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

NEEDED_FOR = (*CROWNING, "recall", "repair")


def needed(books: Books) -> dict[str, str]:
    """Model id to who needs its files: the versions that the ledger or an alias names, back to their bases."""
    found: dict[str, str] = {}
    for signed in books.ledger.chain():
        entry = signed.entry
        if entry.action in NEEDED_FOR:
            registry = Registry(books.registry.client, entry.model)
            who = f"{entry.model} version {entry.version} needs it ({entry.action} in the ledger)"
            found |= dict.fromkeys(_line_of(books, registry, entry.version, entry.statement) - found.keys(), who)
    for alias, number in books.registry.aliases().items():
        who = f"{books.registry.name} version {number} needs it (alias {alias})"
        found |= dict.fromkeys(_line_of(books, books.registry, number, None) - found.keys(), who)
    return found


def _line_of(books: Books, registry: Registry, version: int, statement: str | None) -> set[str]:
    """Ids of a version's model and of every model before it."""
    names: set[str] = set()
    if statement is None:
        names.add(model_id := registry.version(version).model_id)
        statement = registry.model_tags(model_id).get(STATEMENT_TAG)
    while statement is not None:
        payload = lineage.opened(statement, books.shelf, books.trusted)
        names.add(payload["predicate"]["buildDefinition"]["internalParameters"]["model_id"])
        parents = [item["annotations"] for item in lineage.dependencies(payload, "model")]
        names |= {parent["model_id"] for parent in parents}
        statement = parents[0].get("statement") if parents else None
    return names


def look(books: Books) -> Iterator[Item]:
    """Everything that takes room: stored models, working folders, cached models and scores."""
    client = books.registry.client
    experiments = books.registry.experiments()
    ids = list(experiments)
    runs: list[Run] = [*pages(lambda token: client.search_runs(ids, page_token=token))] if ids else []
    models: list[LoggedModel] = (
        [*pages(lambda token: client.search_logged_models(ids, page_token=token))] if ids else []
    )
    busy = _read_by(books, (run for run in runs if run.info.status == "RUNNING"))
    profiles = {model.model_id: _profile(model, experiments) for model in models}
    for model in models:
        item = _model(books, model, profiles[model.model_id], busy)
        if item.size or RETIRED_TAG not in model.tags:
            yield item
    yield from _checkpoints(books, runs)
    digests: dict[str, list[str]] = {}
    for model in models:  # the same training done twice gives two models with one digest
        digests.setdefault(model.tags.get(Tag.DIGEST, "")[:12], []).append(model.model_id)
    yield from _copies(books.state / "models", digests, profiles)
    yield from _copies(books.state / "scores", _judged(runs), profiles)


def at_work(books: Books, model_id: str) -> bool:
    """Whether someone is at a model, or waits for it, right now."""
    client, ids = books.registry.client, list(books.registry.experiments())
    running = pages(lambda token: client.search_runs(ids, "attributes.status = 'RUNNING'", page_token=token))
    return _open(client.get_logged_model(model_id), _read_by(books, running))


def unchanged(books: Books, item: Item) -> bool:
    """Whether a folder is still there and nothing in it was written since it was looked at."""
    folder = folder_of(books, item)
    return folder.is_dir() and _changed(folder) == item.changed


def folder_of(books: Books, item: Item) -> Path:
    """Where a working folder or a copy lies."""
    return books.state / ("runs" if item.kind == "checkpoint" else ".") / item.name


def _read_by(books: Books, runs: Iterable[Run]) -> set[str]:
    return {item.model_id for run in runs for item in _inputs(books.registry.run(run.info.run_id))}


def _open(model: LoggedModel, busy: set[str]) -> bool:
    return model.status == "PENDING" or model.model_id in busy or bool(model.tags.get(AWAITS_TAG))


def _inputs(run: Run) -> list[Any]:
    """Models that a run started from; a search of runs does not tell them."""
    return list(run.inputs.model_inputs) if run.inputs else []


def _profile(model: LoggedModel, experiments: Mapping[str, str]) -> str:
    return str(model.tags.get(Tag.PROFILE) or experiments[str(model.experiment_id)].removeprefix("edit-r2/"))


def _model(books: Books, model: LoggedModel, profile: str, busy: set[str]) -> Item:
    whole = model.status == "READY" and RETIRED_TAG not in model.tags
    state: State = "open" if _open(model, busy) else "whole" if whole else "broken"
    return Item(
        kind="model",
        name=model.model_id,
        size=sum(stored(books.registry.client, model.model_id).values()),
        changed=datetime.fromtimestamp(model.creation_timestamp / 1000, UTC),
        profile=profile,
        label=model.name,
        parent=model.tags.get(Tag.PARENT),
        state=state,
    )


def _judged(runs: Iterable[Run]) -> dict[str, list[str]]:
    """Cached score sheets (12 digits) and the models that each is about."""
    found: dict[str, list[str]] = {}
    for run in runs:
        digest = handed_on(run).get("digest")
        if is_digest(digest) and Tag.MODEL in run.data.tags:
            found.setdefault(str(digest)[:12], []).append(run.data.tags[Tag.MODEL])
    return found


def _checkpoints(books: Books, runs: Iterable[Run]) -> Iterator[Item]:
    """Working folders of runs; a folder whose lock is held has someone at it."""
    by_key = {f"{run.data.tags.get(Tag.STAGE)}-{run.data.tags.get(Tag.FINGERPRINT, '')[:12]}": run for run in runs}
    for folder in _folders(books.state / "runs"):
        run = by_key.get(folder.name)
        unfinished = run is not None and run.info.status != "FINISHED"
        state: State = "open" if _held(folder.with_name(f"{folder.name}.lock")) else "broken" if unfinished else "whole"
        profile = run.data.tags.get(Tag.PROFILE) if run else None
        yield Item("checkpoint", folder.name, _size(folder), _changed(folder), profile, state=state)


def _copies(place: Path, owners: Mapping[str, list[str]], profiles: Mapping[str, str]) -> Iterator[Item]:
    for folder in _folders(place):
        mine = tuple(owners.get(folder.name, ()))
        profile = next((profiles[owner] for owner in mine if owner in profiles), None)
        state: State = "broken" if folder.name.startswith(".") else "whole"
        name = f"{place.name}/{folder.name}"
        yield Item("copy", name, _size(folder), _changed(folder), profile, owners=mine, state=state)


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _changed(folder: Path) -> datetime:
    """When anything in a folder was written last."""
    newest = max(path.stat().st_mtime for path in [folder, *_files(folder)])
    return datetime.fromtimestamp(newest, UTC)


def _held(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with file_lock(lock, wait=0):
            return False
    except Busy:
        return True

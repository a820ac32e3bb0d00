"""A folder for an auditor: everything that a version's chain consists of, verifiable with no server and no network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import UnsupportedOperation
from pathlib import Path
from typing import Any

from data.errors import UserError
from model.atomic import replace_folder, write_atomically
from tasks.audit import audit
from tasks.audit_report import AuditReport
from tasks.bom import ml_bom
from tasks.canonical import canonical
from tasks.card import card
from tasks.documents import FolderShelf, Shelf
from tasks.openlineage import run_events
from tasks.pedigree import Pedigree, pedigree, tree
from tasks.picture import draw
from tasks.redaction import leaks, redact
from tasks.registry import Version
from tasks.signing import PEOPLE, WEIGHTS_SIGNATURE, trusted_keys
from tasks.view import SNAPSHOT, RegistryView, View, exported

TEXTS = (".json", ".jsonl", ".md", ".txt", ".svg")
SIGNATURE = re.compile(r'"sig": ?"[\w+/=-]*"')  # of an envelope


@dataclass
class _Noting:
    """A shelf and a registry that remember what was asked of them: that is what an audit needs."""

    shelf: Shelf
    registry: RegistryView
    documents: set[str] = field(default_factory=set)
    versions: dict[int, Version] = field(default_factory=dict)
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.registry.name

    def lines(self) -> list[bytes]:
        return self.shelf.lines()

    def append(self, index: int, line: bytes) -> bool:
        raise UnsupportedOperation("an export only reads")

    def put(self, document: bytes) -> str:
        raise UnsupportedOperation("an export only reads")

    def get(self, digest: str) -> bytes:
        self.documents.add(digest)
        return self.shelf.get(digest)

    def digests(self) -> list[str]:
        return self.shelf.digests()

    def alias(self, alias: str) -> int | None:
        return self.registry.alias(alias)

    def head(self) -> tuple[int, str] | None:
        return self.registry.head()

    def version(self, number: int) -> Version:
        return self.versions.setdefault(number, self.registry.version(number))

    def model_tags(self, model_id: str) -> dict[str, str]:
        return self.models.setdefault(model_id, self.registry.model_tags(model_id))

    def run_record(self, run_id: str) -> dict[str, Any]:
        return self.runs.setdefault(run_id, self.registry.run_record(run_id))

    def model_folder(self, model_id: str) -> AbstractContextManager[Path]:
        return self.registry.model_folder(model_id)


def export(view: View, folder: Path, version: int | None = None, weights: bool = True) -> AuditReport:
    """Write the folder, then audit it as its reader would; the report of that audit.

    Args:
        view: the live installation.
        folder: must not exist; it appears whole or not at all.
        version: a registered version; None is the champion.
        weights: whether to include the model's files.

    Raises:
        UserError: the folder exists, the chain is broken, or a text would give away a secret or a path.
    """
    if folder.exists():
        raise UserError(f"{folder.name} exists", "Name a folder that does not exist")
    noting = _Noting(view.shelf, view.registry)
    report = audit(View(noting, view.keys, noting, view.alias, view.root, view.remote), version)
    if not report.ok:
        raise UserError(report.line, "Repair it first: an export of a broken chain proves nothing")
    found = pedigree(view, version)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(view, noting, found, report, temporary, weights)
        check_leaks(temporary)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return audit(exported(folder), version)


def _write(view: View, noting: _Noting, found: Pedigree, report: AuditReport, folder: Path, weights: bool) -> None:
    shelf = FolderShelf(folder / "ledger")
    write_atomically(shelf.file, b"".join(line + b"\n" for line in view.shelf.lines()))
    for digest in sorted(noting.documents):
        shelf.put(view.shelf.get(digest))
    for key in sorted(view.keys.rglob("*.pub.pem")):  # those of people too: an audit checks what they signed
        write_atomically(folder / "keys" / key.relative_to(view.keys), key.read_bytes())
    model_id = found.generations[0].internal["model_id"]
    if weights:
        with view.registry.model_folder(model_id) as source:
            shutil.copytree(source, folder / "models" / model_id)
    kept = [model_id] if weights else []
    write_atomically(folder / SNAPSHOT, canonical(_snapshot(noting, found.entry.version, view.alias, kept)))
    for name, text in _texts(view, found, report):
        write_atomically(folder / name, text.encode())


def _snapshot(noting: _Noting, version: int, alias: str, weights: list[str]) -> dict[str, Any]:
    """What `tasks.view.Snapshot` reads. Tags are redacted; those that an audit compares are digests."""
    versions = {
        str(item.number): {
            "number": item.number,
            "model_id": item.model_id,
            "run_id": item.run_id,
            "tags": redact(dict(item.tags)),
        }
        for item in noting.versions.values()
    }
    return {
        "model": noting.name,
        "version": version,
        "alias": alias,
        "aliases": {alias: noting.alias(alias)},
        "head": noting.head(),
        "versions": versions,
        "models": {model_id: redact(tags) for model_id, tags in noting.models.items()},
        "runs": noting.runs,
        "weights": weights,
    }


def _texts(view: View, found: Pedigree, report: AuditReport) -> Iterator[tuple[str, str]]:
    yield "VERIFY.md", _guide(view, found)
    yield "audit.json", json.dumps(report.as_json(), indent=1)
    yield "model-card.md", redact(card(found))
    yield "lineage.txt", tree(found) + "\n"
    yield "lineage.svg", draw(found)
    yield "bom.cdx.json", json.dumps(ml_bom(found), indent=1)
    yield "openlineage.jsonl", "\n".join(run_events(found)) + "\n"
    signature = next(
        item["digest"]["sha256"]
        for item in found.release["predicate"]["runDetails"]["byproducts"]
        if item["name"] == "model-signature"
    )
    yield WEIGHTS_SIGNATURE, view.shelf.get(signature).decode()


def _guide(view: View, found: Pedigree) -> str:
    people = {f"{PEOPLE}/{name}": key for name, key in trusted_keys(view.keys / PEOPLE).items()}
    keys = "\n".join(f"- `{name}`: `{key.keyid}`" for name, key in (view.trusted | people).items())
    model_id = found.generations[0].internal["model_id"]
    return f"""# {found.model}, version {found.entry.version}: how to verify this folder

    edit-r2 audit --folder .

checks the ledger, every signature, every digest and the gate decision, with no server and no network. The keys in
`keys/` came with the folder: compare their identifiers with what the owner tells you by another way.

{keys}

Any in-toto tool reads the DSSE envelopes in `ledger/documents/`, any OpenSSF verifier the signature of the weights:

    model_signing verify key models/{model_id} --signature {WEIGHTS_SIGNATURE} --public_key keys/weights.pub.pem

`bom.cdx.json` is CycloneDX 1.7, `openlineage.jsonl` OpenLineage, `model-card.md`, `lineage.txt` and
`lineage.svg` are for reading.
"""


def check_leaks(folder: Path) -> None:
    """Refuse to hand out a text that gives something away. Payloads of envelopes were checked when they were signed.

    Signatures are left out: one in forty has slashes where an absolute path would have them.

    Raises:
        UserError: a text would give away a secret or a path.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in TEXTS and "models" not in path.relative_to(folder).parts:
            leak = next(leaks(SIGNATURE.sub("", path.read_text(encoding="utf-8"))), None)
            if leak:
                raise UserError(f"{path.name} would hold {leak}", "Take it out of names, reasons and parameters")

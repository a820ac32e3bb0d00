"""Audit of the models: registered version, statements, files, data, runs and code, from the champion to its base."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import lineage
from tasks.audit_report import AuditReport, Broken, Link, NotHere, differing, expect
from tasks.canonical import sha256
from tasks.ledger import Entry
from tasks.models import digest_of, manifest
from tasks.registry import STATEMENT_TAG, record_digest
from tasks.signing import WEIGHTS_KEY, WEIGHTS_SIGNATURE, verify_weights
from tasks.stores import check_dataset, locked_paths
from tasks.view import View

DEEPEST = 16  # generations of models


def walk_statements(report: AuditReport, view: View, entry: Entry) -> dict[str, Any] | None:
    """Check the registered version and every statement from it to the base model; the release statement."""
    subject = f"version {entry.version}"
    with report.link("registry", subject, "tags agree with the ledger"):
        _check_version(view, entry, report.champion)
    release = _open(report, view, subject, str(entry.statement))
    if release is None:
        return None
    with report.link("statement", subject, "is about the model that the ledger names"):
        found = lineage.model_digest(release)
        expect(
            found == entry.model_digest, f"it is about model {found[:12]}, the ledger names {entry.model_digest[:12]}"
        )
        named = release["predicate"]["buildDefinition"]["internalParameters"]["model_id"]
        expect(view.registry.version(entry.version).model_id == named, "the registry points to another logged model")
    _check_signature(report, view, release)
    training = lineage.byproduct(release, "training-statement")
    origin = _open(report, view, _name(release), str(training))
    if origin is not None:
        with report.link("statement", subject, "tells the same origin as the statement made in training"):
            same = release["subject"] == origin["subject"]
            same &= release["predicate"]["buildDefinition"] == origin["predicate"]["buildDefinition"]
            expect(same, "its origin differs from the statement that was signed in training")
        _walk_model(report, view, origin, str(training), DEEPEST)
    return release


def _check_version(view: View, entry: Entry, is_champion: bool) -> None:
    version = view.registry.version(entry.version)
    stated = {str(Tag.DIGEST): entry.model_digest}
    # A version may be decided upon more than once; only of the champion is it certain which statement it shows.
    if is_champion:
        stated[STATEMENT_TAG] = str(entry.statement)
    wrong = differing({key: version.tags.get(key, "nothing") for key in stated}, stated)
    expect(wrong is None, f"tag {wrong} differs from the ledger")


def _open(report: AuditReport, view: View, subject: str, name: str) -> dict[str, Any] | None:
    payload: dict[str, Any] | None = None
    with report.link("statement", subject, "signed, in schema, with its digest"):
        payload = lineage.opened(name, view.shelf, view.trusted)
    return payload


def _check_signature(report: AuditReport, view: View, release: dict[str, Any]) -> None:
    """The OpenSSF signature, as any verifier of that layout would check it."""
    name = _name(release)
    with report.link("signature", f"model {name}", "OpenSSF model signature"), TemporaryDirectory() as folder:
        signature = Path(folder) / WEIGHTS_SIGNATURE
        signature.write_bytes(document(view, str(lineage.byproduct(release, "model-signature"))))
        model_id = release["predicate"]["buildDefinition"]["internalParameters"]["model_id"]
        with view.registry.model_folder(model_id) as files:
            verify_weights(files, view.keys / f"{WEIGHTS_KEY}.pub.pem", signature)


def _name(payload: dict[str, Any]) -> str:
    return str(payload["predicate"]["buildDefinition"]["externalParameters"]["model"])


def _walk_model(report: AuditReport, view: View, payload: dict[str, Any], statement: str, depth: int) -> None:
    """One model and, through its parent's statement, all before it."""
    name = _name(payload)
    internal = payload["predicate"]["buildDefinition"]["internalParameters"]
    _files(report, view, payload, name, internal["model_id"])
    with report.link("registry", f"model {name}", "tags agree with the statement"):
        tags = view.registry.model_tags(internal["model_id"])
        stated = {str(Tag.DIGEST): lineage.model_digest(payload), STATEMENT_TAG: statement}
        wrong = differing({key: tags.get(key, "nothing") for key in stated}, stated)
        expect(wrong is None, f"tag {wrong} differs from the statement")
    with report.link("run", f"model {name}", "parameters, metrics and inputs are those of the statement"):
        found = record_digest(view.registry.run_record(internal["run_id"]))
        expect(found == internal.get("run_record"), "parameters, tags, metrics or inputs were changed after training")
    _sources(report, view, payload, name)
    _datasets(report, view, payload, name)
    for ready in lineage.dependencies(payload, "checkpoint"):
        with report.link("import", f"{ready['name']} of {name}"):
            raise NotHere("imported as it is: what made it is outside this ledger")
    for parent in lineage.dependencies(payload, "model")[: 1 if depth else 0]:
        stated = parent["annotations"].get("statement")
        before = _open(report, view, parent["name"], str(stated)) if stated else None
        if before is None:
            if not stated:
                report.links.append(_unsigned(parent["name"]))
            continue
        with report.link("parent", f"model {name}", "is the model that the parent's statement is about"):
            expect(lineage.model_digest(before) == parent["digest"]["sha256"], "the parent's statement is another's")
        _walk_model(report, view, before, stated, depth - 1)


def _unsigned(name: str) -> Link:
    return Link("statement", name, False, "the parent has no signed statement")


def _files(report: AuditReport, view: View, payload: dict[str, Any], name: str, model_id: str) -> None:
    stated = lineage.files(payload)
    with report.link("files", f"model {name}", f"{len(stated)} files have their SHA-256"):
        expect(digest_of(stated) == lineage.model_digest(payload), "the manifest does not have the model's digest")
        with view.registry.model_folder(model_id) as folder:
            wrong = differing(manifest(folder), stated)
        expect(wrong is None, f"{wrong} differs")


def _sources(report: AuditReport, view: View, payload: dict[str, Any], name: str) -> None:
    """Commit and locks: kept as documents, and compared with the repository where there is one."""
    found = {item["name"]: item for item in payload["predicate"]["buildDefinition"]["resolvedDependencies"]}
    for lock in ("requirements.lock", "dvc.lock"):
        if lock in found:
            with report.link("lock", f"{lock} of {name}", "kept with its digest"):
                document(view, found[lock]["digest"]["sha256"])
    source = found["source"]
    commit = str(source["digest"]["gitCommit"])
    if view.root is None or not (view.root / ".git").exists():
        report.unchecked("code", f"model {name}", "no repository here")
        return
    with report.link("code", f"model {name}", commit):
        expect(_git(view.root, "cat-file", "-e", f"{commit}^{{commit}}") is not None, f"no commit {commit} here")
        text = _git(view.root, "show", f"{commit}:requirements.lock")
        if text is not None and "requirements.lock" in found and not source["annotations"]["dirty"]:
            same = sha256(text) == found["requirements.lock"]["digest"]["sha256"]
            expect(same, f"requirements.lock of commit {commit[:12]} has another digest")


def _git(root: Path, *words: str) -> bytes | None:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=False, timeout=20)
    return done.stdout if done.returncode == 0 else None


def document(view: View, name: str) -> bytes:
    """A kept document, held against its name. Raises Broken when it differs."""
    data = view.shelf.get(name)
    expect(sha256(data) == name, "its bytes differ from its digest")
    return data


def _datasets(report: AuditReport, view: View, payload: dict[str, Any], name: str) -> None:
    found = {item["name"]: item for item in payload["predicate"]["buildDefinition"]["resolvedDependencies"]}
    for item in lineage.dependencies(payload, "dataset"):
        digest = f"{item['digest']['dvcMd5Dir']}.dir"
        subject = f"{item['name']} of {name}"
        with report.link("validation", subject, "the expectations passed, their report is kept"):
            expect(item["annotations"].get("valid") is True, "no passed validation is recorded")
            if item["annotations"].get("validation"):
                document(view, item["annotations"]["validation"])
        if "dvc.lock" in found:
            with report.link("lock", f"dvc.lock for {subject}", "names the digest that was used"):
                locked = locked_paths(document(view, found["dvc.lock"]["digest"]["sha256"]))
                expect(locked.get(f"data/{item['name']}") == digest, "it named another digest when the model was made")
        check_data(report, view, item["name"], digest, subject, item["digest"].get("sha256"))


def check_data(report: AuditReport, view: View, name: str, digest: str, subject: str, sha: str | None = None) -> None:
    """A dataset's bytes, wherever they lie; asked once per dataset and digest."""
    if any(link.name == "data" and link.detail.endswith(digest) for link in report.links):
        return
    if view.root is None:
        report.unchecked("data", subject, f"not part of this folder: {digest}")
        return
    try:
        findings = list(check_dataset(name, digest, view.root, view.remote, sha))
    except UserError:  # a remote that does not answer
        with report.link("data", subject):
            raise
        return
    if not findings and view.remote is None:
        report.unchecked("data", subject, f"only the remote holds it: {digest}")
        return
    places = ", ".join(found.place for found in findings)
    with report.link("data", subject, f"recomputed in {places}: {digest}"):
        expect(bool(findings), "no store holds it")
        broken = next((found for found in findings if not found.holds), None)
        if broken:
            raise Broken(broken.detail)

"""Audit of the decision: its documents, the same decision made again, the scores, the benchmark, the override."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tasks import lineage
from tasks.approval import check_approval
from tasks.audit_model import check_data, document
from tasks.audit_report import AuditReport, expect
from tasks.decision import Decision
from tasks.filing import remake
from tasks.ledger import Entry
from tasks.policy import Policy
from tasks.registry import record_digest
from tasks.scores import Scores
from tasks.view import View


def walk_decision(report: AuditReport, view: View, entry: Entry, release: dict[str, Any] | None, signed: Entry) -> None:
    """Check everything that the decision rests on; `signed` is the entry that carries a person's word, if one does."""
    subject = f"version {entry.version}"
    kept: Decision | None = None
    with report.link("decision", subject, "kept with its digest, about this model"):
        kept = Decision.model_validate_json(document(view, str(entry.decision)))
        expect(kept.model_digest == entry.model_digest, "it is about another model")
        if release is not None:
            expect(
                lineage.byproduct(release, "gate-decision") == entry.decision, "the statement names another decision"
            )
        _check_action(view, entry, kept, signed)
    if kept is None:
        return
    for name, digest in kept.inputs.model_dump().items():
        if digest is not None:
            with report.link("decision", f"{subject}, document {name}", "kept with its digest"):
                document(view, digest)
    with report.link("decision", subject, "made again from its documents, it is the same"):
        found, again = remake(view.shelf, str(entry.decision))
        expect(again == found, "made again from its documents, it comes out differently")
    _scores(report, view, kept, release)
    if signed.approval:
        with report.link("approval", subject, "signed by a person, for this decision, in time"):
            used = datetime.fromisoformat(signed.time)
            kind = "approve" if kept.promote else "override"
            check_approval(document(view, signed.approval), kind, str(signed.decision), view, used)


def _check_action(view: View, entry: Entry, kept: Decision, signed: Entry) -> None:
    allowed = {"promote": True, "override": False, "refuse": False}
    if entry.action in allowed:
        expect(kept.promote == allowed[entry.action], f"the ledger says {entry.action}, the decision {kept.verdict}")
    if entry.action == "refuse":
        return
    expect(kept.promote or signed.approval is not None, "a refused model became champion without an override")
    policy = Policy.model_validate_json(document(view, kept.inputs.policy))
    asked = policy.approval == "required"
    expect(not asked or signed.approval is not None, "the policy asks for a person's approval, and there is none")


def _scores(report: AuditReport, view: View, kept: Decision, release: dict[str, Any] | None) -> None:
    subject = f"model {kept.model_digest[:12]}"
    scores: Scores | None = None
    with report.link("scores", subject, "are those of the statement"):
        scores = Scores.model_validate_json(document(view, kept.inputs.candidate))
        expect(scores.model_digest == kept.model_digest, "they are of another model")
        if release is not None:
            told = _told(release)
            expect(told["digest"]["sha256"] == scores.digest, "the statement names other scores")
            expect(told["annotations"]["means"] == scores.means(), "the statement tells other means")
    if release is not None:
        with report.link(
            "run", f"evaluation of model {kept.model_digest[:12]}", "metrics and inputs are those of the statement"
        ):
            evaluations = _told(release)["annotations"]["evaluations"]
            expect(bool(evaluations), "it names no evaluation")
            for run_id, digest in evaluations.items():
                same = record_digest(view.registry.run_record(run_id)) == digest
                expect(same, f"run {run_id[:8]}: parameters, tags, metrics or inputs were changed after it was judged")
    if scores is not None:
        benchmark = scores.benchmark
        check_data(report, view, benchmark.name, benchmark.digest, f"{benchmark.name} of the scores")


def _told(release: dict[str, Any]) -> dict[str, Any]:
    found = release["predicate"]["runDetails"]["byproducts"]
    return dict(next(item for item in found if item["name"] == "scores"))

"""The audit: from an alias back to the data, every digest computed again, every signature checked.

The walk goes on after a broken link where it can, so that a report shows all that is wrong; the first broken link is
what it is judged by. It trusts the public keys it is given and nothing else.
"""

from __future__ import annotations

from tasks.audit_decision import walk_decision
from tasks.audit_model import walk_statements
from tasks.audit_report import AuditReport, Broken, expect
from tasks.ledger import Entry, Signed, champion, latest, read_chain, recalled, reigns, spoken
from tasks.view import View


def audit(view: View, version: int | None = None) -> AuditReport:
    """Check the champion, or another version that the ledger knows, back to its data.

    Args:
        view: what to read: live or exported.
        version: a registered version; None audits the champion, its alias included.
    """
    report = AuditReport(view.registry.name, view.alias, version)
    chain = _ledger(report, view)
    if chain is None:
        return report
    entry = _alias(report, view, chain) if version is None else latest(chain, view.registry.name, version)
    if entry is None:
        with report.link("ledger", view.alias if version is None else f"version {version}"):
            known = sorted({s.entry.alias for s in chain if s.entry.model == report.model})
            raise Broken(f"the ledger knows no such version; it has champions under {', '.join(known) or 'no name'}")
        return report
    now = champion(chain, view.registry.name, view.alias)
    report.version, report.champion = entry.version, now is not None and now.version == entry.version
    _recall(report, view, chain, entry)
    _return(report, chain, entry)
    release = walk_statements(report, view, entry)
    walk_decision(report, view, entry, release, spoken(chain, entry) or entry)
    return report


def _ledger(report: AuditReport, view: View) -> list[Signed] | None:
    """The chain itself, and that nothing was cut off its end."""
    chain: list[Signed] | None = None
    with report.link("ledger", "all entries", "every entry is signed and follows the one before"):
        chain = read_chain(view.shelf.lines(), view.keys)
    if chain is not None:
        with report.link("ledger", "newest entry", "the registry has seen no newer one"):
            _check_head(view, chain)
    return chain


def _check_head(view: View, chain: list[Signed]) -> None:
    head = view.registry.head()
    expect(head is not None or not chain, "the registry does not say which entry it saw last")
    if head is not None:
        index, found = head
        expect(index < len(chain), f"entries after {len(chain) - 1} are missing; the registry has seen entry {index}")
        expect(chain[index].hash == found, f"entry {index} is not the one that the registry has seen")
        expect(index == len(chain) - 1, f"the registry has not seen the entries after {index}")


def _alias(report: AuditReport, view: View, chain: list[Signed]) -> Entry | None:
    """The alias against the ledger; the ledger says who is champion."""
    entry = champion(chain, view.registry.name, view.alias)
    with report.link("alias", view.alias, "names the version that the ledger made champion"):
        named, known = view.registry.alias(view.alias), entry.version if entry else None
        expect(named == known, f"it names version {named}, the ledger says {known}")
    return entry


def _recall(report: AuditReport, view: View, chain: list[Signed], entry: Entry) -> None:
    with report.link("recall", f"version {entry.version}", "was not recalled"):
        found = recalled(chain, view.registry.name).get(entry.version)
        expect(found is None, f"it was recalled: {found.reason if found else ''}")


def _return(report: AuditReport, chain: list[Signed], entry: Entry) -> None:
    """What a rollback had left behind comes back by a person's word alone: promotion holds to that, and so must who
    writes to the ledger by other means."""
    with report.link("rollback", f"version {entry.version}", "no rollback was undone without a person's signature"):
        left = reigns(chain[: entry.index], entry.model, entry.alias)[1].get(entry.model_digest)
        if left is not None and entry.action == "promote" and not entry.approval:
            raise Broken(
                f"entry {entry.index} undid the rollback at entry {left.index}, and no person has signed for it"
            )

"""What every built data set must meet, as a Great Expectations checkpoint over its sessions, pictures and shares.

    report = validate(dataset)          # never raises for bad data
    report.raise_for_failure()          # ValidationFailed, naming the offending rows

A failed critical expectation stops a build; a failed warning is reported and passes. Great Expectations itself counts
both as failures, so the severity is weighed here. The report is JSON for machines and one HTML page that needs no
network (the library's own pages load styles and scripts from the web).
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from data.errors import UserError
from data.synthesis import SPLITS
from tasks.datasets import Dataset
from tasks.facts import Facts, collect

if TYPE_CHECKING:
    import pandas as pd

SHOWN_ROWS: Final = 20
TEMPLATE: Final = Path(__file__).parents[1] / "mlflow_config" / "validation.html"
# The library keeps its current project in a global: two contexts at a time in one process clash.
_LOCK: Final = threading.Lock()


class ValidationFailed(UserError):
    """A critical expectation failed; the message names the first offending rows."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one expectation."""

    table: str
    rule: str
    """In words."""
    expectation: str
    """Great Expectations' name of it."""
    severity: str
    success: bool
    checked: int
    failed: int
    rows: tuple[str, ...]
    """The first offending rows, each with its value or reason."""


@dataclass(frozen=True)
class ValidationReport:
    """All findings about one data set."""

    dataset: str
    digest: str
    reference: str | None
    """The build whose sources must not occur in this one; None where there was none to compare with."""
    findings: tuple[Finding, ...]

    @property
    def success(self) -> bool:
        """Whether every critical expectation holds."""
        return not self.critical_failures

    @property
    def critical_failures(self) -> tuple[Finding, ...]:
        """Failed expectations that stop a build."""
        return tuple(f for f in self.findings if not f.success and f.severity == "critical")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Failed expectations that do not."""
        return tuple(f for f in self.findings if not f.success and f.severity != "critical")

    def as_json(self) -> str:
        """The report for machines."""
        return json.dumps({**asdict(self), "success": self.success}, indent=1, ensure_ascii=False)

    @cached_property
    def html(self) -> str:
        """The report as one page without scripts or outside resources."""
        from jinja2 import Environment, StrictUndefined

        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(report=self)

    def raise_for_failure(self) -> None:
        """Raise ValidationFailed where a critical expectation fails."""
        if not self.critical_failures:
            return
        first = self.critical_failures[0]
        more = f" and {len(self.critical_failures) - 1} more expectations" if len(self.critical_failures) > 1 else ""
        rows = "; ".join(first.rows[:3]) + (f"; and {first.failed - 3} more" if first.failed > 3 else "")
        problem = f"{self.dataset} fails: {first.rule}{more} ({rows or 'the whole table'})"
        raise ValidationFailed(problem, "Correct these rows or their source, and build again")


def validate(dataset: Dataset, reference: Path | None = None) -> ValidationReport:
    """Check a build. A benchmark is compared with the training sessions of its profile where they lie beside it."""
    if reference is None and dataset.name == "benchmark":
        beside = dataset.folder.parents[1] / "sessions" / dataset.profile
        reference = beside if beside.is_dir() else None
    facts = collect(dataset.folder, reference)
    named = f"{reference.parent.name}/{reference.name}" if reference else None
    return ValidationReport(dataset.title, dataset.digest, named, check(facts))


def check(facts: Facts) -> tuple[Finding, ...]:
    """Run the three suites."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    with _LOCK:
        context = gx.get_context(mode="ephemeral", project_config=_configuration())
        context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
        tables = (("sessions", facts.sessions), ("pictures", facts.pictures), ("shares", facts.shares))
        return tuple(finding for name, table in tables for finding in _run(context, name, table))


def _configuration() -> Any:
    """Everything in memory: the default would leave a folder for pages in the system's temporary one per run."""
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    defaults = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    return DataContextConfig(store_backend_defaults=defaults, analytics_enabled=False)


def suites() -> dict[str, list[tuple[str, Any]]]:
    """Per table: rules in words with their expectations."""
    return {"sessions": _session_rules(), "pictures": _picture_rules(), "shares": _share_rules()}


def _session_rules() -> list[tuple[str, Any]]:
    import great_expectations.expectations as gxe

    turns = gxe.ExpectColumnValuesToBeBetween(column="turns", min_value=2, max_value=8, severity=_severity("warning"))
    splits = gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS))
    return [
        ("there are sessions", gxe.ExpectTableRowCountToBeBetween(min_value=1)),
        ("every row is a session with lists as long as its turns", _null("not_readable")),
        ("every turn has parseable slots", _null("bad_slots")),
        ("ids are given", gxe.ExpectColumnValuesToNotBeNull(column="id")),
        ("ids are unique", gxe.ExpectColumnValuesToBeUnique(column="id")),
        ("image paths are relative and stay inside", _null("unsafe_path")),
        ("every session has all its pictures", _null("missing_pictures")),
        ("practice shows no target picture", _null("shown_targets")),
        ("objects to keep are listed, or nothing else is there", _null("nothing_to_keep")),
        ("no source occurs in another split", _null("seen_elsewhere")),
        ("no source looks like one of another split", _null("looks_like", "warning")),
        ("splits are known", splits),
        ("tracks are known", gxe.ExpectColumnValuesToBeInSet(column="track", value_set=["cm", "cu"])),
        ("sessions have 2 to 8 turns", turns),
    ]


def _picture_rules() -> list[tuple[str, Any]]:
    import great_expectations.expectations as gxe

    same_hash = gxe.ExpectColumnPairValuesToBeEqual(column_A="sha256", column_B="recorded_sha256")
    return [
        ("there are pictures", gxe.ExpectTableRowCountToBeBetween(min_value=1)),
        ("paths are unique", gxe.ExpectColumnValuesToBeUnique(column="path")),
        ("every picture decodes", _null("not_decodable")),
        ("all pictures of a session have one size", _null("size_differs")),
        ("every picture has its recorded hash", same_hash),
    ]


def _share_rules() -> list[tuple[str, Any]]:
    import great_expectations.expectations as gxe

    greater = partial(gxe.ExpectColumnPairValuesAToBeGreaterThanB, or_equal=True, severity=_severity("warning"))
    return [
        ("every edit type and track has its share", greater(column_A="share", column_B="low")),
        ("no edit type or track dominates", greater(column_A="high", column_B="share")),
    ]


def _null(column: str, severity: str = "critical") -> Any:
    """The column of a defect holds no reason."""
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeNull(column=column, severity=_severity(severity))


def _severity(name: str) -> Any:
    from great_expectations.expectations.metadata_types import FailureSeverity

    return FailureSeverity(name)


def _run(context: Any, name: str, table: pd.DataFrame) -> list[Finding]:
    """One checkpoint over one table."""
    import great_expectations as gx

    rules = suites()[name]
    if table.empty and name == "shares":
        return []
    batch = context.data_sources.add_pandas(name).add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=[expectation for _, expectation in rules]))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    detail = {"result_format": "COMPLETE", "unexpected_index_column_names": ["where"]}
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[definition], result_format=detail)
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table})
    (results,) = (result.results for result in outcome.run_results.values())
    words = {expectation.id: rule for rule, expectation in rules}
    return [_finding(name, words[result.expectation_config.id], result) for result in results]


def _finding(table: str, rule: str, result: Any) -> Finding:
    raised = [info["exception_message"] for info in _exceptions(result.exception_info)]
    details = result.result
    rows = tuple(_row(entry) for entry in (details.get("unexpected_index_list") or ())[:SHOWN_ROWS])
    if not rows and not result.success and "observed_value" in details:
        rows = (f"observed: {details['observed_value']}",)
    return Finding(
        table=table,
        rule=rule,
        expectation=result.expectation_config.type,
        severity=str(getattr(result.expectation_config.severity, "value", result.expectation_config.severity)),
        success=bool(result.success),
        checked=int(details.get("element_count") or 0),
        failed=int(details.get("unexpected_count") or (0 if result.success else 1)),
        rows=tuple(raised) or rows,
    )


def _exceptions(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The library reports one exception flat, and several in a table by metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    return [entry for entry in entries if entry.get("raised_exception")]


def _row(entry: dict[str, Any]) -> str:
    """`train.jsonl line 12: turn 2: the text slot is empty`."""
    values = [f"{value}" for key, value in entry.items() if key != "where" and value is not None]
    return f"{entry.get('where')}: {', '.join(values)}".rstrip(": ")

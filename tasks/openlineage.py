"""OpenLineage run events of a model version's chain, for catalogues such as Marquez or DataHub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from tasks.pedigree import Generation, Pedigree

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

NAMESPACE = "edit-r2"
PRODUCER = "urn:edit-r2"


def _dataset_facets(version: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)}


def _inputs(model: Generation, parent: Generation | None) -> list[Any]:
    from openlineage.client.event_v2 import InputDataset

    data = {item["name"]: f"{item['digest']['dvcMd5Dir']}.dir" for item in model.datasets}
    if parent:
        data[f"model/{parent.name}"] = parent.digest
    return [InputDataset(NAMESPACE, name, facets=_dataset_facets(version)) for name, version in data.items()]


def _event(model: Generation, parent: Generation | None, when: str, state: str) -> RunEvent:
    from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import parent_run, source_code_location_job

    stage = model.build["externalParameters"]["stage"]
    commit = model.resources["source"]["digest"]["gitCommit"]
    code = source_code_location_job.SourceCodeLocationJobFacet(type="git", url="urn:edit-r2:source", version=commit)
    run_facets: dict[str, Any] = {}
    if model.internal.get("parent_run_id"):
        whole = parent_run.Run(runId=str(UUID(model.internal["parent_run_id"])))
        run_facets["parent"] = parent_run.ParentRunFacet(run=whole, job=parent_run.Job(NAMESPACE, "retrain"))
    made = OutputDataset(NAMESPACE, f"model/{model.name}", facets=_dataset_facets(model.digest))
    return RunEvent(
        eventType=RunState[state],
        eventTime=when,
        run=Run(runId=str(UUID(model.internal["run_id"])), facets=run_facets),
        job=Job(NAMESPACE, stage, facets={"sourceCodeLocation": code}),
        producer=PRODUCER,
        inputs=_inputs(model, parent),
        outputs=[made] if state == "COMPLETE" else [],
    )


def run_events(found: Pedigree) -> list[str]:
    """A START and a COMPLETE event per model, the base first, one JSON object each; ids are those of MLflow's runs."""
    from openlineage.client.serde import Serde

    lines = []
    pairs = list(zip(found.generations, [*found.generations[1:], None], strict=True))
    for model, parent in reversed(pairs):
        times = model.payload["predicate"]["runDetails"]["metadata"]
        for state, key in (("START", "startedOn"), ("COMPLETE", "finishedOn")):
            lines.append(Serde.to_json(_event(model, parent, times[key], state)))
    return lines

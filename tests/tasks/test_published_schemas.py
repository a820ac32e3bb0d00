"""Exported documents against their published schemas, and those schemas against documents that break them."""

from __future__ import annotations

import base64
import copy
import inspect
import json
from pathlib import Path

import attr
import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from openlineage.client.facet_v2 import dataset_version_dataset, parent_run, source_code_location_job
from openlineage.client.generated import base
from referencing import Registry, Resource

from tasks import bom, lineage
from tasks.export import export
from tasks.pedigree import pedigree
from tasks.promotion import promote
from tasks.view import live
from tests.tasks.houses import build_house, family, sqlite_template, stand
from tests.tasks.scoresets import skilled

OPENLINEAGE = json.loads((Path(__file__).parent / "schemas" / "openlineage-2-0-2.json").read_text())
FORMATS = FormatChecker(["uuid", "date-time", "uri"])
GENERATED = [
    item
    for module in (base, dataset_version_dataset, parent_run, source_code_location_job)
    for _, item in inspect.getmembers(module, inspect.isclass)
    if item.__module__ == module.__name__ and hasattr(item, "_get_schema")
]


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    house = build_house(tmp_path_factory.mktemp("house"), sqlite_template(tmp_path_factory.mktemp("mlflow")))
    promote(house.books, *stand(house, family(house), skilled(0.7)), reason="better")
    return live(house.books, house.root, house.books.state / "dvc-remote")


@pytest.fixture(scope="module")
def folder(view, tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "auditor"
    assert export(view, target).ok
    return target


def openlineage_registry():
    known = [(item["$id"], Resource.from_contents(item)) for item in (OPENLINEAGE["core"], *OPENLINEAGE["facets"])]
    return Registry().with_resources(known)


def openlineage_validator():
    return Draft202012Validator(OPENLINEAGE["core"], registry=openlineage_registry(), format_checker=FORMATS)


def shape(resolver, schema):
    """The names of a schema's properties and of its required ones, those of what it refers to included."""
    if "$ref" in schema:
        found = resolver.lookup(schema["$ref"])
        return shape(found.resolver, found.contents)
    names, required = set(schema.get("properties", ())), set(schema.get("required", ()))
    for part in schema.get("allOf", ()):
        more = shape(resolver, part)
        names, required = names | more[0], required | more[1]
    return names, required


@pytest.mark.parametrize("made", GENERATED, ids=lambda made: made.__name__)
def test_the_schema_file_has_the_fields_of_the_classes_that_the_client_generates(made):
    """The client's classes are generated from the published schemas and name the version that they come from."""
    names, required = shape(openlineage_registry().resolver(), {"$ref": made._get_schema()})
    fields = attr.fields(made)
    assert names == {field.name for field in fields}
    filled_in = {"producer", "schemaURL", "_producer", "_schemaURL"}  # the client's defaults; the schema requires them
    assert required == {field.name for field in fields if field.default is attr.NOTHING or field.name in filled_in}


def check_event(event):
    """The event by the schema of events, and each facet by the schema that it names itself."""
    validator = openlineage_validator()
    validator.validate(event)
    holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    facets = [facet for holder in holders for facet in holder.get("facets", {}).values()]
    for facet in facets:
        validator.evolve(schema={"$ref": facet["_schemaURL"]}).validate(facet)
    return len(facets)


def test_the_formats_are_really_checked():
    assert {"uuid", "date-time", "uri"} <= FORMATS.checkers.keys()
    for kind, wrong in (("uuid", "7"), ("date-time", "yesterday"), ("uri", "no address")):
        with pytest.raises(ValidationError):
            Draft202012Validator({"format": kind}, format_checker=FORMATS).validate(wrong)


def events(folder):
    return [json.loads(line) for line in (folder / "openlineage.jsonl").read_text().splitlines()]


def test_openlineage_events_and_their_facets_are_valid(folder):
    found = [check_event(event) for event in events(folder)]
    assert len(found) == 6 and min(found) >= 1
    assert all(event["schemaURL"].startswith(OPENLINEAGE["core"]["$id"]) for event in events(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event["run"].update(runId="7"),
        lambda event: event["run"].pop("runId"),
        lambda event: event.pop("job"),
        lambda event: event.update(eventType="FINISHED"),
        lambda event: event.update(eventTime="yesterday"),
        lambda event: event.pop("producer"),
        lambda event: event["inputs"][0].pop("namespace"),
        lambda event: event["inputs"][0]["facets"]["version"].pop("_producer"),
        lambda event: event["inputs"][0]["facets"]["version"].pop("datasetVersion"),
        lambda event: event["job"]["facets"]["sourceCodeLocation"].pop("url"),
    ],
)
def test_a_broken_event_is_not(folder, change):
    event = copy.deepcopy(events(folder)[-1])
    change(event)
    with pytest.raises(ValidationError):
        check_event(event)


@pytest.mark.parametrize(
    "change",
    [
        lambda parent: parent["run"].update(facets={"own": {}}),
        lambda parent: parent["job"].update(facets={"own": {}}),
        lambda parent: parent["root"]["run"].update(facets={"own": {}}),
        lambda parent: parent["root"]["job"].update(facets={"own": {}}),
        lambda parent: parent["root"].pop("job"),
        lambda parent: parent["job"].pop("name"),
    ],
)
def test_a_broken_parent_is_not(folder, change):
    event = copy.deepcopy(events(folder)[-1])
    of = {key: {name: value for name, value in event[key].items() if name != "facets"} for key in ("run", "job")}
    made = {"_producer": "urn:test", "_schemaURL": parent_run.ParentRunFacet._get_schema(), **of, "root": of}
    event["run"]["facets"] = {"parent": copy.deepcopy(made)}
    check_event(event)
    change(event["run"]["facets"]["parent"])
    with pytest.raises(ValidationError):
        check_event(event)


def test_the_bill_of_materials_is_valid_and_strictly_so(folder, view):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator, text = JsonStrictValidator(SchemaVersion.V1_7), (folder / "bom.cdx.json").read_text()
    assert validator.validate_str(text) is None
    for change in (
        lambda made: made.update(extra=1),
        lambda made: made["components"][0].update(type="neural network"),
        lambda made: made["metadata"]["component"]["modelCard"].update(score=1),
        lambda made: made["metadata"]["component"]["hashes"][0].update(content="short"),
    ):
        broken = json.loads(text)
        change(broken)
        assert validator.validate_str(json.dumps(broken)) is not None


def test_a_broken_bill_of_materials_is_not_handed_out(view, monkeypatch):
    monkeypatch.setattr(bom, "model_card", lambda found: {"mood": "good"})
    with pytest.raises(ValueError, match="breaks its schema"):
        bom.ml_bom(pedigree(view))


def statements(folder):
    found = []
    for path in (folder / "ledger" / "documents").glob("??/*"):
        content = json.loads(path.read_bytes()) if path.read_bytes()[:1] == b"{" else {}
        if content.get("payloadType") == "application/vnd.in-toto+json":
            found.append(json.loads(base64.b64decode(content["payload"])))
    return found


def test_every_exported_statement_is_in_toto_with_slsa_provenance(folder):
    found = statements(folder)
    assert len(found) == 4  # base, sft, rl, and rl as a version
    for payload in found:
        lineage.check_schema(payload)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["predicate"]["buildDefinition"].pop("buildType"),
        lambda made: made["predicate"]["buildDefinition"].pop("externalParameters"),
        lambda made: made["predicate"]["runDetails"]["builder"].pop("id"),
        lambda made: made["predicate"].update(builder="me"),
        lambda made: made["predicate"]["buildDefinition"]["resolvedDependencies"].append({"annotations": {}}),
        lambda made: made["predicate"]["buildDefinition"]["resolvedDependencies"][1]["digest"].update(sha256="AB"),
        lambda made: made["subject"][0]["digest"].update(sha256="12"),
        lambda made: made.update(predicateType="https://slsa.dev/provenance/v0.2"),
        lambda made: made.update(subject=[]),
    ],
)
def test_a_broken_statement_is_not(folder, change):
    payload = copy.deepcopy(statements(folder)[0])
    change(payload)
    with pytest.raises(ValueError, match=r".+"):
        lineage.check_schema(payload)

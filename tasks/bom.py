"""CycloneDX 1.7 bill of materials of a model version, with its model card (an ML-BOM).

The library builds the inventory and holds the result against the published schema; it knows no model cards yet, so that
block is added to its output before the schema is checked.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.pedigree import Generation, Pedigree

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

APPROACH = {"base": "supervised", "sft": "supervised", "rl": "reinforcement-learning"}


def _model(found: Generation, version: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=f"edit-r2-{found.name}",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=version,
        bom_ref=f"model:{found.digest}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=found.digest)],
    )


def _data(item: dict[str, Any]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    sha = item["digest"].get("sha256")
    md5 = item["digest"].get("dvcMd5Dir", "")
    return Component(
        name=item["name"],
        type=ComponentType.DATA,
        version=f"{md5}.dir",
        bom_ref=f"data:{md5}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha)] if sha else [],
    )


def _library(name: str, version: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    url = None if name == "python" else PackageURL("pypi", name=name, version=version)
    kind = ComponentType.PLATFORM if name == "python" else ComponentType.LIBRARY
    return Component(name=name, type=kind, version=version, bom_ref=f"library:{name}", purl=url)


def _benchmark(found: Pedigree) -> dict[str, Any]:
    benchmark = found.scores.benchmark
    return {"name": benchmark.name, "digest": {"dvcMd5Dir": benchmark.digest.removesuffix(".dir")}}


def inventory(found: Pedigree) -> dict[str, Any]:
    """The bill of materials without the model card, as JSON."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot7

    first = found.generations[0]
    root = _model(first, str(found.entry.version))
    data = {item["name"]: _data(item) for model in found.generations for item in model.datasets}
    data[found.scores.benchmark.name] = _data(_benchmark(found))
    parents = {model.digest: _model(model, model.digest[:12]) for model in found.generations[1:]}
    libraries = first.payload["predicate"]["runDetails"]["builder"]["version"]
    bom = Bom(
        components=[*parents.values(), *data.values(), *(_library(*item) for item in sorted(libraries.items()))],
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:edit-r2:statement:{found.entry.statement}"),
    )
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromisoformat(found.entry.time)
    known = {first.digest: root} | parents
    for model, parent in zip(found.generations, [*found.generations[1:], None], strict=True):
        used = [data[item["name"]] for item in model.datasets] + ([known[parent.digest]] if parent else [])
        bom.register_dependency(known[model.digest], used)
    return dict(json.loads(JsonV1Dot7(bom).output_as_string()))


def model_card(found: Pedigree) -> dict[str, Any]:
    """CycloneDX's model card block: approach, data, and every mean with its denominator."""
    first = found.generations[0]
    references = [{"ref": f"data:{item['digest']['dvcMd5Dir']}"} for item in first.datasets]
    means = found.scores.means()
    metrics = [
        {"type": f"{name} (n={cell['n']})", "value": str(cell["mean"]), "slice": found.scores.benchmark.name}
        for name, cell in means.items()
        if cell["mean"] is not None
    ]
    return {
        "modelParameters": {
            "approach": {"type": APPROACH[first.name]},
            "task": "multi-turn image editing",
            "architectureFamily": "unified multimodal transformer",
            "modelArchitecture": "mixture of transformers with flow matching (BAGEL)",
            "datasets": references,
            "inputs": [{"format": "image and instructions"}],
            "outputs": [{"format": "intent trace"}, {"format": "image"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {
            "useCases": ["edit one image over many turns by instructions"],
            "technicalLimitations": [
                f"measured on {found.scores.benchmark.name} only, by judge {found.scores.judge.name}"
            ],
        },
    }


def ml_bom(found: Pedigree) -> dict[str, Any]:
    """The whole document, valid by the published schema.

    Raises:
        ValueError: it is not valid, which is a defect of this module.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = inventory(found)
    document["metadata"]["component"]["modelCard"] = model_card(found)
    fault = JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(document))
    if fault is not None:
        raise ValueError(f"the bill of materials breaks its schema: {fault}")
    return document

"""The lineage statement of a model version: an in-toto Statement with a SLSA provenance predicate, signed.

A statement is made when a stage has made a model (`attest`), and once more, with scores and gate decision added, when
that model stands for promotion (`release`). It names everything by digest and holds no secret and no absolute path.
Formats: in-toto attestation framework v1; SLSA provenance v1. The build level claimed is 1: the signer is the builder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.errors import UserError
from tasks.canonical import canonical, is_digest, sha256
from tasks.decision import Decision
from tasks.documents import Shelf
from tasks.origin import Origin
from tasks.redaction import leaks, redact
from tasks.scores import Scores
from tasks.signing import IN_TOTO, Identity, SignatureError, sign, verify

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:edit-r2:stage:v1"
BUILDER = "urn:edit-r2:builder"
MANIFEST = "SHA256SUMS"  # subject whose digest is the model's: SHA-256 over the sorted lines "<sha256>  <path>\n"


def _resource(name: str, digest: Mapping[str, str], **annotations: Any) -> dict[str, Any]:
    known = {key: value for key, value in annotations.items() if value is not None}
    return {"name": name, "digest": dict(digest)} | ({"annotations": known} if known else {})


def dvc_digest(digest: str) -> dict[str, str]:
    """DVC's hash as an in-toto digest: a folder's `<md5>.dir` is not the md5 of any file, and named accordingly."""
    return {"dvcMd5Dir": digest.removesuffix(".dir")} if digest.endswith(".dir") else {"md5": digest}


def _dependencies(origin: Origin) -> list[dict[str, Any]]:
    """Everything that the model was made from."""
    found = [_resource("source", {"gitCommit": origin.commit or "unknown"}, dirty=origin.dirty)]
    if origin.lock_digest:
        found.append(_resource("requirements.lock", {"sha256": origin.lock_digest}))
    if origin.dvc_lock_digest:
        found.append(_resource("dvc.lock", {"sha256": origin.dvc_lock_digest}))
    for data in origin.datasets:
        digests = dvc_digest(data.digest) | ({"sha256": data.sha256} if data.sha256 else {})
        found.append(_resource(data.name, digests, kind="dataset", valid=data.valid, validation=data.validation))
    if origin.parent:
        parent = origin.parent
        about = {"kind": "model", "model_id": parent.model_id, "statement": parent.statement}
        found.append(_resource(parent.name, {"sha256": parent.digest}, **about))
    return found + _imported(origin.parameters)


def _imported(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Weights that came ready: a base that was taken as it is, or what training began with."""
    model = parameters.get("model", {})
    taken = {model.get("checkpoint"): model.get("digest"), **parameters.get("start", {})}
    return [_resource(name, {"sha256": sha}, kind="checkpoint") for name, sha in taken.items() if name and sha]


def statement(origin: Origin) -> dict[str, Any]:
    """The unsigned statement of a model, redacted."""
    subject = [_resource(MANIFEST, {"sha256": origin.model_digest})]
    subject += [_resource(path, {"sha256": digest}) for path, digest in sorted(origin.files.items())]
    internal = {
        "fingerprint": origin.fingerprint,
        "model_id": origin.model_id,
        "run_id": origin.run_id,
        "parent_run_id": origin.parent_run_id,
        "run_record": origin.run_record,
        "reward": origin.reward,
        # The reference policy of RL is the frozen parent.
        "reference_policy": origin.parent.digest if origin.parent and origin.reward else None,
        "hardware": origin.hardware,
    }
    times = {"startedOn": origin.started, "finishedOn": origin.finished, "invocationId": origin.flow_run_id}
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "model": origin.name,
                "profile": origin.profile,
                "stage": origin.stage,
                "parameters": origin.parameters,
                "seeds": origin.seeds,
            },
            "internalParameters": {key: value for key, value in internal.items() if value is not None},
            "resolvedDependencies": _dependencies(origin),
        },
        "runDetails": {
            "builder": {"id": f"{BUILDER}:{origin.deployment or 'local'}", "version": origin.libraries},
            "metadata": {key: value for key, value in times.items() if value is not None},
        },
    }
    made: dict[str, Any] = redact(
        {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}
    )
    return made


def check_schema(payload: Mapping[str, Any]) -> None:
    """Hold a statement against the published protocol definitions of in-toto and SLSA.

    Those leave every field optional; what the texts of both specifications require is asked for besides.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        message = ParseDict(dict(payload), Message())
        Statement.copy_from_pb(message).validate()
        made = ParseDict(payload["predicate"], Provenance())
    except (ParseError, KeyError) as error:
        raise ValueError(f"not an in-toto statement with SLSA provenance: {error}") from error
    build = made.build_definition
    if not (build.build_type and build.HasField("external_parameters") and made.run_details.builder.id):
        raise ValueError("SLSA requires buildType, externalParameters and the builder's id")
    if message.predicate_type != PREDICATE:
        raise ValueError(f"the predicate is of type {message.predicate_type!r}")
    for named in (*build.resolved_dependencies, *made.run_details.byproducts):
        ResourceDescriptor.copy_from_pb(named).validate()
        _check_digests(named.digest)
    for subject in message.subject:
        _check_digests(subject.digest)


def _check_digests(digests: Mapping[str, str]) -> None:
    """In-toto writes digests in lower-case hexadecimal; SHA-256 has 64 digits."""
    for algorithm, digest in digests.items():
        if algorithm == "sha256" and not is_digest(digest):
            raise ValueError(f"{digest[:12]!r} is no SHA-256 digest")


def seal(payload: dict[str, Any], shelf: Shelf, identity: Identity) -> str:
    """Check a statement, sign it and keep it; the SHA-256 of its envelope.

    Raises:
        UserError: it breaks the schema, or would give away a secret or a path.
    """
    try:
        check_schema(payload)
    except ValueError as error:
        raise UserError(f"the lineage statement is malformed: {error}", "Report this defect") from error
    leak = next(leaks(canonical(payload).decode()), None)
    if leak:
        raise UserError(f"the lineage statement would hold {leak}", "Take it out of the parameters")
    return shelf.put(sign(payload, IN_TOTO, identity))


def attest(origin: Origin, shelf: Shelf, identity: Identity) -> str:
    """Sign and keep the statement of a freshly made model; its digest belongs into the model's tags."""
    return seal(statement(origin), shelf, identity)


def opened(digest: str, shelf: Shelf, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a kept statement, with its digest, signature and schema checked.

    Raises:
        SignatureError: it says which of the three does not hold.
        UserError: nothing is kept under this digest.
    """
    envelope = shelf.get(digest)
    if sha256(envelope) != digest:
        raise SignatureError("its bytes differ from its digest")
    payload, _ = verify(envelope, IN_TOTO, keys)
    try:
        check_schema(payload)
    except ValueError as error:
        raise SignatureError(str(error)) from error
    return dict(payload)


def release(
    training: str,
    shelf: Shelf,
    identity: Identity,
    keys: Mapping[str, Any],
    verdict: Decision,
    evaluations: Mapping[str, str],
    signature: str,
) -> str:
    """Sign and keep the statement of a version that stands for promotion: its provenance, its scores, the decision.

    Args:
        training: digest of the statement that was made with the model.
        shelf: holds it and the scores that `verdict` names.
        identity: who signs.
        keys: trusted public keys.
        verdict: the gate decision, kept on the shelf as well.
        evaluations: run id to record digest of the runs that scored the model, see `tasks.registry.record_digest`.
        signature: SHA-256 of the OpenSSF signature of the weights, kept on the shelf as well.
    """
    payload = opened(training, shelf, keys)
    scores = Scores.model_validate_json(shelf.get(verdict.inputs.candidate))
    facts: dict[str, Any] = {"evaluations": dict(evaluations), "seed": scores.seed}
    facts |= {"benchmark": scores.benchmark.model_dump(), "judge": scores.judge.model_dump()}
    payload["predicate"]["runDetails"]["byproducts"] = [
        _resource("training-statement", {"sha256": training}),
        _resource("model-signature", {"sha256": signature}),
        _resource("scores", {"sha256": scores.digest}, means=scores.means(), **facts),
        _resource("gate-decision", {"sha256": verdict.digest}, verdict=verdict.verdict, reasons=list(verdict.reasons)),
    ]
    return seal(redact(payload), shelf, identity)


def byproduct(payload: Mapping[str, Any], name: str) -> str | None:
    """SHA-256 of a byproduct of a release statement."""
    found = payload["predicate"]["runDetails"].get("byproducts", [])
    return next((item["digest"]["sha256"] for item in found if item["name"] == name), None)


def dependencies(payload: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The datasets (`kind` "dataset"), models ("model") or ready weights ("checkpoint") that a statement names."""
    found = payload["predicate"]["buildDefinition"]["resolvedDependencies"]
    return [item for item in found if item.get("annotations", {}).get("kind") == kind]


def files(payload: Mapping[str, Any]) -> dict[str, str]:
    """Path to SHA-256 of every file of the model."""
    return {item["name"]: item["digest"]["sha256"] for item in payload["subject"] if item["name"] != MANIFEST}


def model_digest(payload: Mapping[str, Any]) -> str:
    """Digest of the model that a statement is about."""
    return str(next(item["digest"]["sha256"] for item in payload["subject"] if item["name"] == MANIFEST))

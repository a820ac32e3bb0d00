"""The promote flow and a person: it sleeps until an answer comes, whoever resumes it, and checks the signature."""

from __future__ import annotations

import dataclasses
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run

from data.errors import UserError
from flows import approving
from flows.promote import promote
from flows.retrain import retrain
from tasks import building, evaluation, models, parameters, promoting, recording, tracking
from tasks.approval import load_person, sign_approval
from tasks.books import open_books
from tasks.evaluation import Evaluation
from tasks.failures import Refused
from tasks.promotion import recall
from tasks.registry import AWAITS_TAG
from tasks.settings import settings
from tests.flows.conftest import stand_ins

ALIAS = "champion-smoke"
WORDS = "looked at every strip of the benchmark"


@pytest.fixture(scope="module")
def retrained(prefect, tmp_path_factory, mlflow_template):
    """One retraining that asks for approval: the folder of its state, and what it came to."""
    root = tmp_path_factory.mktemp("retrained")
    (root / "state").mkdir()
    shutil.copy(mlflow_template, root / "state" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        move_in(patch, root / "state")
        stand_ins(patch, root)
        return root / "state", retrain("smoke").promotion


def move_in(patch, state):
    """Make a folder the installation of this process, one that asks for approval."""
    uri = f"sqlite:///{state / 'mlflow.db'}"
    here = {"EDIT_R2_HOME": str(state), "MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
    for name, value in (here | {"EDIT_R2_APPROVAL_REQUIRED": "true"}).items():
        patch.setenv(name, value)
    for cache in (settings, recording.client, tracking.experiment_id):
        cache.cache_clear()


@pytest.fixture
def asking(retrained, trainers, tmp_path, monkeypatch):
    """A copy of that state to go on from; the files of models and scores are shared, and nobody writes there."""
    state, promotion = retrained
    shutil.copytree(state, tmp_path / "copy", ignore=shutil.ignore_patterns("artifacts"))
    move_in(monkeypatch, tmp_path / "copy")
    return promotion


@pytest.fixture
def lasting(asking, monkeypatch):
    """The same with a Prefect server that outlives the command: the one of the tests."""
    from prefect.settings import PREFECT_API_URL

    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setattr(approving, "POLL_SECONDS", 0.1)
    settings.cache_clear()
    return asking


def signed(promotion, kind="approve", name="grace"):
    grace = load_person(open_books().keys, name, create=True)
    return sign_approval(kind, promotion.decision, grace, WORDS, timedelta(days=1))


def entries():
    return [signed.entry for signed in open_books(alias=ALIAS).ledger.chain()]


def waiting_run():
    """The flow run that waits, as soon as there is one."""
    with get_client(sync_client=True) as client:
        for _ in range(600):
            found = [run for run in client.read_flow_runs() if run.state is not None and run.state.is_paused()]
            if found:
                return found[0]
            time.sleep(0.05)
    raise AssertionError("no run waits")


def test_a_retraining_does_not_wait_and_says_how_to_go_on(asking):
    assert asking.verdict == "waiting" and asking.version is None
    assert entries() == [] and asking.decision in asking.reasons[0]
    with pytest.raises(Refused, match="waits for a person"):
        asking.raise_for_refusal()
    tags = tracking.client().get_logged_model(asking.model_id).tags
    assert tags[AWAITS_TAG] == asking.decision
    made = promote("smoke", asking.model_id, approval=signed(asking).decode())
    assert made.verdict == "promoted" and entries()[0].approval
    assert not tracking.client().get_logged_model(asking.model_id).tags[AWAITS_TAG]


def test_a_model_is_not_judged_as_one_of_another_profile(asking):
    other = dataclasses.replace(parameters.load("smoke"), profile="tiny")
    scores = Evaluation("rl", asking.model_id, "run", "0" * 64, "0" * 64)
    with pytest.raises(UserError, match="is of profile smoke") as found:
        promoting.decide.fn(other, None, scores, None)
    assert "--profile smoke" in found.value.remedy


def test_the_gates_go_by_signed_scores_of_the_signed_parent_alone(asking):
    chosen = parameters.load("smoke")
    benchmark = building.current(chosen, "benchmark")
    family = [models.record(asking.model_id)]
    while family[-1].parent:
        family.append(models.record(family[-1].parent))
    rl, sft, base = (evaluation.evaluate.fn(chosen, benchmark, model) for model in family)
    assert promoting.decide.fn(chosen, benchmark, rl, sft).decision.digest == asking.decision
    for forged in ((unsigned(rl), sft), (rl, unsigned(sft))):
        with pytest.raises(UserError, match="do not hold"):
            promoting.decide.fn(chosen, benchmark, *forged)
    with pytest.raises(UserError, match="another parent"):
        promoting.decide.fn(chosen, benchmark, rl, base)


def unsigned(scores):
    return dataclasses.replace(scores, note="0" * 64)


def test_a_paused_run_goes_on_with_a_signed_answer(lasting):
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(promote, "smoke", lasting.model_id)
        approving.resume(str(waiting_run().id), signed(lasting))
        made = going.result(timeout=60)
    assert made.verdict == "promoted"
    (entry,) = entries()
    assert (entry.action, entry.version) == ("promote", made.version) and "approved by grace" in entry.reason
    assert open_books(alias=ALIAS).registry.alias(ALIAS) == made.version


def test_who_resumes_does_not_count(lasting):
    """Anyone with the server's one password can resume; without a person's signature nothing comes of it."""
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(promote, "smoke", lasting.model_id)
        run = waiting_run()
        resume_flow_run(run.id, run_input={"approval": "approved by the head of the laboratory"})
        with pytest.raises(UserError, match="the approval does not hold"):
            going.result(timeout=60)
    assert entries() == []
    with pytest.raises(UserError, match="does not wait"):
        approving.resume(str(run.id), signed(lasting))


def test_a_run_that_nobody_answers_ends_and_can_be_started_again(lasting, monkeypatch):
    monkeypatch.setenv("EDIT_R2_APPROVAL_TIMEOUT", "1")
    settings.cache_clear()
    with pytest.raises(UserError, match="nobody answered within 1 s"):
        promote("smoke", lasting.model_id)
    assert entries() == []
    made = promote("smoke", lasting.model_id, approval=signed(lasting).decode())
    assert made.verdict == "promoted"


def test_a_deployed_run_is_suspended_and_starts_again_with_the_answer(lasting, trainers):
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(promote)
        deployment = client.create_deployment(flow_id, "promote")
        arguments = {"profile": "smoke", "model": lasting.model_id}
        run = client.create_flow_run_from_deployment(deployment, parameters=arguments)
        trainers.calls.clear()
        with pytest.raises(Pause):  # the process ends, and its worker is free
            run_flow(promote, flow_run=run, parameters=arguments)
        assert client.read_flow_run(run.id).state_name == "Suspended"
        assert entries() == []
        approving.resume(str(run.id), signed(lasting))
        again = client.read_flow_run(run.id)
        assert again.state.is_scheduled()
        state = run_flow(promote, flow_run=again, parameters=arguments, return_type="state")
    assert state.is_completed() and state.result().verdict == "promoted"
    assert trainers.calls == [], "everything before the question was done already"
    assert [entry.action for entry in entries()] == ["promote"]


def test_a_signed_override_passes_through_the_flow(asking, monkeypatch):
    policy = promoting.policy_of("smoke")
    monkeypatch.setattr(promoting, "policy_of", lambda _: policy.model_copy(update={"floors": {"IF": 1.0}}))
    refused = promote("smoke", asking.model_id)
    assert refused.verdict == "refused"
    with pytest.raises(UserError, match="another act than override"):
        promote("smoke", refused.model_id, override=signed(refused).decode())
    made = promote("smoke", refused.model_id, override=signed(refused, "override").decode())
    assert made.verdict == "promoted"
    assert [entry.action for entry in entries()] == ["refuse", "override"]
    assert "overridden by grace" in entries()[1].reason


def test_recalled_weights_wait_for_nobody(asking, monkeypatch):
    policy = promoting.policy_of("smoke")
    with monkeypatch.context() as strict:
        strict.setattr(promoting, "policy_of", lambda _: policy.model_copy(update={"floors": {"IF": 1.0}}))
        version = promote("smoke", asking.model_id).version
    recall(open_books(alias=ALIAS), version, "a session was withdrawn")
    found = promote("smoke", asking.model_id)
    assert found.verdict == "recalled" and "a session was withdrawn" in found.reasons[0]
    assert not tracking.client().get_logged_model(asking.model_id).tags[AWAITS_TAG], "retention need not keep it"

"""The scheduled doctor: what died is closed with its reason, a healthy house is left alone, and it is deployed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL
from prefect.states import Running
from prefect.utilities.templating import apply_values

from flows.doctor import doctor
from mlflow_config.settings import Tag
from tasks import checkup, tracking
from tasks.books import open_books
from tasks.locks import place
from tasks.registry import UNDECIDED, VERDICT_TAG
from tasks.settings import environment, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wreck(home, prefect):
    """A run whose process is gone, and a version that nobody decided upon."""
    tags = {Tag.HOST: place(settings().state), Tag.STAGE: "train_rl", Tag.FINGERPRINT: "d" * 64}
    client, experiment = tracking.client(), tracking.experiment_id("smoke")
    run = client.create_run(experiment, tags={str(key): value for key, value in tags.items()})
    model = client.create_logged_model(experiment, name="rl", source_run_id=run.info.run_id)
    version = open_books().registry.register(model.model_id, run.info.run_id, {})
    return run.info.run_id, model.model_id, version


def test_the_flow_mends_what_died_and_says_why(wreck):
    run_id, model_id, version = wreck
    found = doctor()
    kinds = {complaint.kind: complaint for complaint in found.complaints}
    assert set(kinds) == {"run", "model", "version"} and found.unmended == ()
    assert all(complaint.problem for complaint in found.complaints)
    run = tracking.client().get_run(run_id)
    assert run.info.status == "KILLED" and "died" in run.data.tags[Tag.FAILURE]
    assert tracking.client().get_logged_model(model_id).status == "FAILED"
    assert open_books().registry.version(version).tags[VERDICT_TAG] == UNDECIDED
    assert doctor().complaints == ()


def test_what_it_may_not_mend_fails_the_flow(wreck):
    with pytest.raises(checkup.Unmended, match="its process is gone") as caught:
        doctor(repair=False)
    assert caught.value.exit_code == 6
    assert tracking.client().get_run(wreck[0]).info.status == "RUNNING"


def test_on_a_server_ghosts_crash_and_their_slots_are_free(wreck, monkeypatch):
    """A flow run that Prefect takes for running holds a slot; its process was killed, as MLflow's run shows."""

    @flow(name="doomed")
    def doomed():
        return None

    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    settings.cache_clear()
    with get_client(sync_client=True) as client:
        ghost = client.create_flow_run(doomed, state=Running())
        tracking.client().set_tag(wreck[0], str(Tag.FLOW_RUN), str(ghost.id))
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpu:0", limit=1, active_slots=1))
        found = doctor()
        assert client.read_flow_run(ghost.id).state_name == "Crashed"
        assert client.read_global_concurrency_limit_by_name("gpu:0").active_slots == 0
    assert found.unmended == () and "gpu:0" in found.text()


def test_every_flow_is_deployed_and_the_doctor_on_a_schedule_of_the_settings(monkeypatch):
    """As Prefect reads the file: variables of the environment are put in, and the entrypoints exist."""
    import importlib

    monkeypatch.setenv("EDIT_R2_DOCTOR_CRON", "5 4 * * *")
    settings.cache_clear()
    variables = environment(settings())
    settings.cache_clear()
    found = apply_values(yaml.safe_load((ROOT / "prefect.yaml").read_text()), variables)["deployments"]
    by_name = {item["name"]: item for item in found}
    assert [item["cron"] for item in by_name["doctor"]["schedules"]] == ["5 4 * * *"]
    assert by_name["doctor"]["work_pool"]["name"] == "cpu"
    for name, item in by_name.items():
        module, _, flow = item["entrypoint"].partition(":")
        made = getattr(importlib.import_module(module.removesuffix(".py").replace("/", ".")), flow)
        assert made.name == name
        given = item.get("parameters", {})
        assert set(given) <= set(made.parameters.properties)
        if item.get("schedules"):  # nobody is there to fill in what is missing
            made.validate_parameters(given)

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data.errors import UserError
from tasks.settings import EMBEDDED, SERVICES, Dispatch, Settings, environment, prepare, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """No variable but the home."""
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        for name in [alias] if isinstance(alias, str) else alias.choices:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDIT_R2_HOME", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_everything_lies_under_home_by_default(tmp_path):
    found = settings()
    assert found.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert found.artifacts == str(tmp_path / "artifacts")
    assert found.dvc_remote_url == str(tmp_path / "dvc-remote")
    assert found.prefect_api_url is None
    assert found.dispatch is Dispatch.IN_PROCESS


def test_the_home_is_no_other_variable(monkeypatch):
    monkeypatch.delenv("EDIT_R2_HOME")
    monkeypatch.setenv("HOME", "/elsewhere")
    assert Settings().home == Path(".edit-r2")


def test_a_bucket_takes_data_and_artifacts(monkeypatch):
    monkeypatch.setenv("EDIT_R2_S3_BUCKET", "lab")
    monkeypatch.setenv("EDIT_R2_S3_ENDPOINT", "http://127.0.0.1:8333")
    found = settings()
    assert found.artifacts == "s3://lab/edit-r2/mlflow"
    assert found.dvc_remote_url == "s3://lab/edit-r2/dvc"
    block = environment(found)
    assert block["MLFLOW_S3_ENDPOINT_URL"] == block["AWS_ENDPOINT_URL_S3"] == "http://127.0.0.1:8333"
    assert block["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


def test_the_server_of_a_command_does_not_pass_for_a_lasting_one_in_its_child_processes(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4321/api")
    monkeypatch.setenv(EMBEDDED, "http://127.0.0.1:4321/api")
    assert settings().prefect_api_url is None
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    settings.cache_clear()
    assert settings().prefect_api_url == "http://prefect.example/api"


def test_a_tracking_server_keeps_its_own_artifacts(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert settings().artifacts is None


def test_a_login_in_the_address_of_mlflow_is_taken_out_of_it(monkeypatch):
    """Libraries write addresses into errors, and errors go into logs and tags."""
    given = {"EDIT_R2_HOME": str(settings().home), "MLFLOW_TRACKING_URI": "https://ada:p%40ss@mlflow.example:5000/lab"}
    monkeypatch.setattr("tasks.settings.os.environ", given)
    settings.cache_clear()
    prepare()
    assert given["MLFLOW_TRACKING_URI"] == given["MLFLOW_REGISTRY_URI"] == "https://mlflow.example:5000/lab"
    assert (given["MLFLOW_TRACKING_USERNAME"], given["MLFLOW_TRACKING_PASSWORD"]) == ("ada", "p@ss")


@pytest.mark.parametrize(
    ("user", "password", "logs_in_as"),
    [(None, "x", ("ada", "p")), ("eve", None, ("ada", "p")), ("eve", "x", ("eve", "x"))],
)
def test_a_login_is_taken_whole_from_the_address_or_from_its_variables(monkeypatch, user, password, logs_in_as):
    given = {"EDIT_R2_HOME": str(settings().home), "MLFLOW_TRACKING_URI": "https://ada:p@mlflow.example"}
    variables = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    given |= {name: value for name, value in variables.items() if value}
    monkeypatch.setattr("tasks.settings.os.environ", given)
    settings.cache_clear()
    prepare()
    assert (given["MLFLOW_TRACKING_USERNAME"], given["MLFLOW_TRACKING_PASSWORD"]) == logs_in_as


def test_an_address_that_is_none_is_told_without_what_it_holds(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:pa[ss@mlflow.example")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as found:
        settings()
    assert "pa[ss" not in str(found.value)


def test_telemetry_is_off_unless_asked_for(monkeypatch):
    assert environment(settings())["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment(settings())["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("EDIT_R2_TELEMETRY", "true")
    settings.cache_clear()
    assert "MLFLOW_DISABLE_TELEMETRY" not in environment(settings())


def test_secrets_do_not_print(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    found = settings()
    assert "very-secret" not in repr(found) + found.model_dump_json()
    assert environment(found)["AWS_SECRET_ACCESS_KEY"] == "very-secret"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EDIT_R2_PREFECT_PORT", "99999", "EDIT_R2_PREFECT_PORT"),
        ("EDIT_R2_DISPATCH", "cloud", "EDIT_R2_DISPATCH"),
        ("AWS_ACCESS_KEY_ID", "alone", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_bad_value_is_named(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        settings()


def test_servers_of_up_are_found_and_a_variable_wins(tmp_path, monkeypatch):
    addresses = {"prefect_api_url": "http://127.0.0.1:1/api", "mlflow_tracking_uri": "http://127.0.0.1:2"}
    (tmp_path / SERVICES).write_text(json.dumps({"settings": addresses, "processes": []}))
    assert settings().prefect_api_url == "http://127.0.0.1:1/api"
    assert settings().tracking_uri == "http://127.0.0.1:2"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    settings.cache_clear()
    assert settings().tracking_uri == "http://elsewhere:5000"


def test_prepare_does_not_override_the_user(monkeypatch):
    monkeypatch.setattr(
        "tasks.settings.os.environ", {"EDIT_R2_HOME": str(settings().home), "MLFLOW_LOGGING_LEVEL": "DEBUG"}
    )
    import tasks.settings as module

    prepare()
    assert module.os.environ["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
    assert module.os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_an_unwritable_home_is_a_user_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDIT_R2_HOME", str(tmp_path / "file"))
    settings.cache_clear()
    with pytest.raises(UserError, match="EDIT_R2_HOME"):
        settings().folder("logs")


def test_every_variable_is_documented():
    documented = set(re.findall(r"^# ([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    read = set()
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        read.add(alias if isinstance(alias, str) else alias.choices[0])
    composed = set(re.findall(r"\$\{([A-Z0-9_]+):\?", (ROOT / "compose.yaml").read_text()))
    assert composed and read | composed == documented

"""Everything that may differ between two installations, and the only place that reads the environment.

With no variable set, all state lies in `.edit-r2/` beside params.yaml: MLflow on sqlite, Prefect's in-process server
and a DVC remote in a folder. Addresses of real services are environment variables (or lines of `.env`); those that
`edit-r2 up` started are found by the file that it leaves. No other module asks where it runs. `prepare()` must be
called before mlflow, prefect, torch or transformers are imported: they read their switches at import.
"""

from __future__ import annotations

import json
import os
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from data.errors import UserError

SERVICES = "services.json"  # under `home`: what `edit-r2 up` started
EMBEDDED = "EDIT_R2_EMBEDDED_PREFECT"  # address of a Prefect server that ends with the command; set by that command
CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


class Dispatch(StrEnum):
    """Where the stages of a retraining run."""

    IN_PROCESS = "in-process"  # in the process of the retraining flow itself
    WORK_POOLS = "work-pools"  # as deployments on the pools `cpu` and `gpu`


def _checkout() -> Path:
    """The folder with params.yaml: the working directory, one above it, or the one this file was installed from."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    return Path(__file__).resolve().parents[1]


class Settings(BaseSettings):
    """Typed view of the environment; every field names its variable. Secrets never print."""

    model_config = SettingsConfigDict(env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True, frozen=True)

    root: Path = Field(default_factory=_checkout, validation_alias="EDIT_R2_ROOT")
    home: Path = Field(Path(".edit-r2"), validation_alias="EDIT_R2_HOME")

    mlflow_tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI")
    mlflow_tracking_username: str | None = Field(None, validation_alias="MLFLOW_TRACKING_USERNAME")
    mlflow_tracking_password: SecretStr | None = Field(None, validation_alias="MLFLOW_TRACKING_PASSWORD")
    artifact_root: str | None = Field(None, validation_alias="EDIT_R2_ARTIFACT_ROOT")
    registry_name: str = Field("edit-r2", validation_alias="EDIT_R2_REGISTRY")

    prefect_api_url: str | None = Field(None, validation_alias="PREFECT_API_URL")
    prefect_api_auth_string: SecretStr | None = Field(None, validation_alias="PREFECT_API_AUTH_STRING")
    dispatch: Dispatch = Field(Dispatch.IN_PROCESS, validation_alias="EDIT_R2_DISPATCH")
    cpu_pool: str = Field("cpu", validation_alias="EDIT_R2_CPU_POOL")
    gpu_pool: str = Field("gpu", validation_alias="EDIT_R2_GPU_POOL")
    doctor_cron: str = Field("*/30 * * * *", validation_alias="EDIT_R2_DOCTOR_CRON")
    stage_timeout: float = Field(86_400.0, validation_alias="EDIT_R2_STAGE_TIMEOUT", gt=0)  # seconds

    dvc_remote: str | None = Field(None, validation_alias="EDIT_R2_DVC_REMOTE")
    s3_endpoint: str | None = Field(None, validation_alias=AliasChoices("EDIT_R2_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"))
    s3_bucket: str | None = Field(None, validation_alias="EDIT_R2_S3_BUCKET")
    s3_prefix: str = Field("edit-r2", validation_alias="EDIT_R2_S3_PREFIX")
    s3_region: str = Field("us-east-1", validation_alias=AliasChoices("AWS_DEFAULT_REGION", "AWS_REGION"))
    s3_access_key_id: SecretStr | None = Field(None, validation_alias="AWS_ACCESS_KEY_ID")
    s3_secret_access_key: SecretStr | None = Field(None, validation_alias="AWS_SECRET_ACCESS_KEY")

    signing_key: Path | None = Field(None, validation_alias="EDIT_R2_SIGNING_KEY")
    signing_key_password: SecretStr | None = Field(None, validation_alias="EDIT_R2_SIGNING_KEY_PASSWORD")
    actor: str | None = Field(None, validation_alias="EDIT_R2_ACTOR")
    approval_required: bool = Field(False, validation_alias="EDIT_R2_APPROVAL_REQUIRED")
    approval_timeout: float = Field(604_800.0, validation_alias="EDIT_R2_APPROVAL_TIMEOUT", gt=0)  # seconds

    prefect_port: int = Field(4200, validation_alias="EDIT_R2_PREFECT_PORT", ge=1, le=65535)
    mlflow_port: int = Field(5000, validation_alias="EDIT_R2_MLFLOW_PORT", ge=1, le=65535)
    threads: int | None = Field(None, validation_alias=AliasChoices("EDIT_R2_THREADS", "OMP_NUM_THREADS"), ge=1)
    processes: int = Field(1, validation_alias="EDIT_R2_PROCESSES", ge=1)  # of SFT and RL, one per GPU
    telemetry: bool = Field(False, validation_alias="EDIT_R2_TELEMETRY")
    offline: bool = Field(True, validation_alias="EDIT_R2_OFFLINE")
    debug: bool = Field(False, validation_alias="EDIT_R2_DEBUG")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """S3 keys come in pairs."""
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together")
        return self

    @property
    def state(self) -> Path:
        """`home` as an absolute path."""
        return (self.root / self.home).resolve()

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: a server, or sqlite under `home`."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def artifacts(self) -> str | None:
        """Where new experiments keep their artifacts; None leaves it to the MLflow server."""
        if self.artifact_root:
            return self.artifact_root
        if self.mlflow_tracking_uri and not self.mlflow_tracking_uri.startswith("sqlite"):
            return None
        return f"s3://{self.s3_bucket}/{self.s3_prefix}/mlflow" if self.s3_bucket else str(self.state / "artifacts")

    @property
    def dvc_remote_url(self) -> str:
        """DVC's remote: as set, else the bucket, else a folder under `home`."""
        if self.dvc_remote:
            return self.dvc_remote
        return f"s3://{self.s3_bucket}/{self.s3_prefix}/dvc" if self.s3_bucket else str(self.state / "dvc-remote")

    def folder(self, name: str) -> Path:
        """`home`/`name`, created when missing. Raises UserError where it cannot be."""
        path = self.state / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = "Set EDIT_R2_HOME to a writable folder"
            raise UserError(f"cannot create {path}: {error.strerror}", remedy) from error
        return path


def _running(chosen: Settings) -> dict[str, str]:
    """Addresses of the servers that `edit-r2 up` started, where no variable names others."""
    try:
        addresses: dict[str, str] = json.loads((chosen.state / SERVICES).read_text())["settings"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: url for name, url in addresses.items() if getattr(chosen, name, url) is None}


def _passing(chosen: Settings) -> dict[str, None]:
    """A command's own server is none that anybody could find later, though its child processes are sent to it."""
    passes = chosen.prefect_api_url is not None and chosen.prefect_api_url == os.environ.get(EMBEDDED)
    return {"prefect_api_url": None} if passes else {}


def _split(chosen: Settings) -> dict[str, Any]:
    """The login that MLflow's address may hold, apart from it: libraries write addresses into errors and logs."""
    try:
        parts = urlsplit(chosen.mlflow_tracking_uri or "")
    except ValueError as error:
        raise UserError(f"MLFLOW_TRACKING_URI: {error}", "Write special characters of a password as %XX") from error
    login, _, host = parts.netloc.rpartition("@")
    if not login or not parts.scheme.startswith("http"):
        return {}
    found: dict[str, Any] = {"mlflow_tracking_uri": parts._replace(netloc=host).geturl()}
    if not (chosen.mlflow_tracking_username and chosen.mlflow_tracking_password):  # the variables made for it win
        user, _, password = login.partition(":")
        found["mlflow_tracking_username"] = unquote(user)
        found["mlflow_tracking_password"] = SecretStr(unquote(password))
    return found


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once. Raises UserError that names the variable at fault."""
    try:
        found = Settings(_env_file=_checkout() / ".env")  # type: ignore[call-arg]
        return found.model_copy(update=_running(found) | _passing(found) | _split(found))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "environment"
        raise UserError(f"{where}: {first['msg']}", "See .env.example for every variable and its form") from error


def environment(chosen: Settings) -> dict[str, str]:
    """The variables that the libraries below read; those already set by the user are not among `chosen`'s business."""
    block = {
        "PREFECT_HOME": str(chosen.state / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_CLI_PROMPT": "false",
        "EDIT_R2_CPU_POOL": chosen.cpu_pool,  # prefect.yaml names the pools by these
        "EDIT_R2_GPU_POOL": chosen.gpu_pool,
        "EDIT_R2_DOCTOR_CRON": chosen.doctor_cron,
        CONSOLE_LEVEL: "INFO" if chosen.debug else "CRITICAL",
        "MLFLOW_TRACKING_URI": chosen.tracking_uri,
        "MLFLOW_REGISTRY_URI": chosen.tracking_uri,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_LOGGING_LEVEL": "INFO" if chosen.debug else "ERROR",
        # Since SDK 1.36 checksums are sent by default; several S3-compatible stores refuse them.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_DEFAULT_REGION": chosen.s3_region,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "true",
        "OMP_NUM_THREADS": str(chosen.threads or os.cpu_count() or 1),
        "GIT_TERMINAL_PROMPT": "0",
    }
    if chosen.s3_endpoint:
        block |= {"MLFLOW_S3_ENDPOINT_URL": chosen.s3_endpoint, "AWS_ENDPOINT_URL_S3": chosen.s3_endpoint}
    if chosen.prefect_api_url:
        block["PREFECT_API_URL"] = chosen.prefect_api_url
    if not chosen.telemetry:
        block |= {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DVC_NO_ANALYTICS": "1",
            "GX_ANALYTICS_ENABLED": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
    if chosen.offline:
        block["HF_HUB_OFFLINE"] = "1"
    return block | _secrets(chosen)


def _secrets(chosen: Settings) -> dict[str, str]:
    """Credentials that came from `.env`, so that libraries and child processes see them too."""
    named = {
        "MLFLOW_TRACKING_PASSWORD": chosen.mlflow_tracking_password,
        "PREFECT_API_AUTH_STRING": chosen.prefect_api_auth_string,
        "AWS_ACCESS_KEY_ID": chosen.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": chosen.s3_secret_access_key,
    }
    found = {name: secret.get_secret_value() for name, secret in named.items() if secret is not None}
    if chosen.mlflow_tracking_username:
        found["MLFLOW_TRACKING_USERNAME"] = chosen.mlflow_tracking_username
    return found


def prepare(debug: bool = False) -> Settings:
    """Export the environment block (a variable that is already set wins) and create `home`.

    Args:
        debug: as EDIT_R2_DEBUG.

    Raises:
        UserError: a variable is invalid, or `home` cannot be written.
    """
    if debug:
        os.environ["EDIT_R2_DEBUG"] = "true"
        settings.cache_clear()
    chosen = settings()
    chosen.folder("prefect")
    block = environment(chosen)
    for name, value in block.items():
        os.environ.setdefault(name, value)
    apart = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")  # as set, or see `_split`
    os.environ.update({name: block[name] for name in apart if name in block})
    return chosen

"""Names that MLflow shows: experiments, runs, tags, models. One place, because tags are queried by name."""

from __future__ import annotations

from enum import StrEnum

MODEL_TYPE = "edit-r2"
RETRAIN = "retrain"  # name and stage of a parent run
EXPERIMENT = "experiment"  # name and stage of a results table's run, the parent of what it made


class Tag(StrEnum):
    """Tags of runs, logged models and model versions."""

    STAGE = "edit_r2.stage"
    FINGERPRINT = "edit_r2.fingerprint"
    PROFILE = "edit_r2.profile"
    DIGEST = "edit_r2.digest"  # of a model folder: sha256 over its manifest
    PARENT = "edit_r2.parent"  # model_id of the model that training started from
    MODEL = "edit_r2.model"  # model_id of the model that a run made or judged
    MODEL_NAME = "edit_r2.model_name"  # base, sft or rl
    DATASET = "edit_r2.dataset"  # DVC hash of the dataset that a run built
    VALIDATION = "edit_r2.validation"  # passed or failed: the expectations of a data set
    DECISION = "edit_r2.decision"  # JSON: what became of the candidate of a retraining
    RESULT = "edit_r2.result"  # JSON: what the stage hands on
    FAILURE = "edit_r2.failure"  # one line
    ALERT = "edit_r2.alert"  # first step at which the reward rose while the held-out score fell
    FLOW_RUN = "prefect.flow_run_id"
    FLOW_URL = "prefect.flow_run_url"
    HOST = "edit_r2.host"  # machine and state folder where its locks lie
    BEGUN = "edit_r2.begun"  # seconds since 1970, of the newest attempt: MLflow keeps the start of the first
    COMMIT = "git.commit"
    DIRTY = "git.dirty"
    PARENT_RUN = "mlflow.parentRunId"


class Stage(StrEnum):
    """Stages of a retraining, in order; also the names of their runs."""

    BUILD_DATASET = "build_dataset"
    BUILD_BENCHMARK = "build_benchmark"
    PRETRAIN_BASE = "pretrain_base"
    TRAIN_SFT = "train_sft"
    TRAIN_RL = "train_rl"
    EVALUATE = "evaluate"
    PROMOTE = "promote"


def experiment(profile: str) -> str:
    """The experiment that holds every run of a profile."""
    return f"edit-r2/{profile}"


def stage_tag(stage: str) -> str:
    """The tag of a parent run that points to the run of one of its stages, reused or not."""
    return f"edit_r2.run.{stage}"

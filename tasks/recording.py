"""Writing of one run in MLflow: parameters, metrics in batches, data sets, models and files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks.canonical import canonical, plain
from tasks.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

LONGEST = 8000  # characters of a tag
FLUSH_SECONDS = 2.0  # a metric costs 16 to 32 ms alone and well under 1 ms in a batch
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow answers for an id that it does not hold
BATCH = 500  # metrics of one request; MLflow takes up to 1,000


@dataclass(frozen=True)
class Spec:
    """What a run is before it exists. `label` tells runs of one stage apart (evaluations of base, sft and rl)."""

    stage: str
    profile: str
    fingerprint: str
    parent_run: str | None = None
    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run as MLflow shows it."""
        return f"{self.stage} {self.label}" if self.label else self.stage

    @property
    def key(self) -> str:
        """Name of the working folder and of the lock."""
        return f"{self.stage}-{self.fingerprint[:12]}"


@lru_cache(maxsize=1)
def client() -> MlflowClient:
    """The one client of this process."""
    from mlflow import MlflowClient

    return MlflowClient(settings().tracking_uri)


def result(run: Run) -> dict[str, Any]:
    """What a finished stage handed on; empty when it did not finish, or what stands there is no JSON object."""
    return handed_on(run) if run.info.status == "FINISHED" else {}


def handed_on(run: Run) -> dict[str, Any]:
    """What a run says that it handed on, finished or not: anybody may have written that."""
    try:
        found = json.loads(run.data.tags.get(Tag.RESULT, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class ActiveRun:
    """A run that is being written, or (`reused`) one whose `result` is taken over."""

    def __init__(self, spec: Spec, run: Run, reused: bool, reopened: bool = False) -> None:
        self.spec, self.reused, self._reopened = spec, reused, reopened
        self.run_id, self.experiment_id = str(run.info.run_id), str(run.info.experiment_id)
        self.result: dict[str, Any] = result(run) if reused else {}
        self.folder = settings().folder("runs") / spec.key
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()
        self._known: dict[str, int] = {}

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, 100 a request; values are cut at MLflow's 6,000 characters."""
        from mlflow.entities import Param

        items = [Param(name, str(value)[:6000]) for name, value in values.items()]
        for start in range(0, len(items), 100):
            client().log_batch(self.run_id, params=items[start : start + 100])

    def report(self, step: int, metrics: Mapping[str, float], **about: Any) -> None:
        """Queue metrics of one step; sent in batches. Steps that an interrupted run already sent are left out.

        Args:
            step: number of the step.
            metrics: name to value.
            about: `model_id`, `dataset_name` and `dataset_digest`, to tie a score to a model and a benchmark.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        fresh = {name: value for name, value in metrics.items() if step > self._last_step(name)}
        self._waiting += [Metric(name, float(value), now, step, **about) for name, value in fresh.items()]
        if len(self._waiting) >= BATCH or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _last_step(self, name: str) -> int:
        if not self._reopened:
            return -1
        if name not in self._known:
            history = client().get_metric_history(self.run_id, name)
            self._known[name] = max((metric.step for metric in history), default=-1)
        return self._known[name]

    def flush(self) -> None:
        """Send what is queued."""
        while self._waiting:
            client().log_batch(self.run_id, metrics=self._waiting[:BATCH])
            del self._waiting[:BATCH]
        self._flushed = time.monotonic()

    def dataset(
        self, name: str, digest: str, source: Mapping[str, Any], context: str, profile: Mapping[str, Any]
    ) -> None:
        """Log a data set as input.

        Args:
            name: as lineage names it, such as `sessions/tiny`.
            digest: DVC's hash; a folder's `<md5>.dir` is exactly the 36 characters that MLflow allows.
            source: where the bytes are: DVC's remote, path and stage.
            context: what it was used for: training, evaluation.
            profile: sizes and further digests.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if len(digest) > 36:
            raise UserError(f"digest {digest} of {name} has more than 36 characters", "Pass DVC's md5 of the folder")
        texts = [canonical(about, plain).decode() for about in (source, profile)]
        made = Dataset(name, digest, "dvc", texts[0], profile=texts[1])
        log_dataset(client(), self.run_id, DatasetInput(made, [InputTag("mlflow.data.context", context)]))

    def model_input(self, model_id: str) -> None:
        """The model that this run starts from or judges."""
        from mlflow.entities import LoggedModelInput

        client().log_inputs(self.run_id, models=[LoggedModelInput(model_id)])

    def model_output(self, model_id: str) -> None:
        """The model that this run made; MLflow refuses to be told twice."""
        from mlflow.entities import LoggedModelOutput

        told = client().get_run(self.run_id).outputs
        if model_id not in [output.model_id for output in (told.model_outputs if told else [])]:
            client().log_outputs(self.run_id, [LoggedModelOutput(model_id, step=0)])
        self.tag({Tag.MODEL: model_id})

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags; values are cut at MLflow's 8,000 characters."""
        from mlflow.entities import RunTag

        client().log_batch(self.run_id, tags=[RunTag(str(key), str(value)[:LONGEST]) for key, value in tags.items()])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file or, with everything below it, a folder."""
        if path.is_dir():
            client().log_artifacts(self.run_id, str(path), folder)
        else:
            client().log_artifact(self.run_id, str(path), folder)

    def text(self, content: str, name: str) -> None:
        """Store a text under a file name."""
        client().log_text(self.run_id, content, name)

    def finish(self, handed_on: Mapping[str, Any]) -> None:
        """Say what the stage hands on: with it, and only with it, the run counts as finished.

        Raises:
            UserError: MLflow would keep only a part of it, which nobody could read again.
        """
        text = canonical(dict(handed_on), plain).decode()
        if len(text) > LONGEST:
            problem = f"the result of {self.spec.name} has {len(text)} characters, and MLflow keeps {LONGEST} of a tag"
            raise UserError(problem, "Store it as an artifact and hand on its digest")
        self.result = dict(handed_on)
        self.tag({Tag.RESULT: text})


@contextmanager
def known_to_mlflow(problem: str, remedy: str) -> Iterator[None]:
    """Around a question for one thing: MLflow's answer that it holds no such thing becomes a UserError.

    Whatever else it raises says nothing about the thing, and is raised as it is: it may be worth another try.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
        raise UserError(problem, remedy) from error


def log_dataset(store: MlflowClient, run_id: str, used: DatasetInput) -> None:
    """Log a data set as input. MLflow looks for it before it enters it, so of two runs that enter a new one at once one
    is refused; that one finds it the second time."""
    from mlflow.exceptions import MlflowException

    try:
        store.log_inputs(run_id, datasets=[used])
    except MlflowException as error:
        if "unique constraint" not in str(error).lower():
            raise
        store.log_inputs(run_id, datasets=[used])

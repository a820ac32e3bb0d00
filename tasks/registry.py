"""MLflow's registry as a projection of the ledger: versions, their tags, and the alias of the champion.

Anyone with access can move an alias or delete a run, and MLflow keeps no history of either. So nothing is decided from
what stands here; it is compared with the ledger, and set again where it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from mlflow_config.settings import Stage, Tag
from tasks.canonical import canonical, sha256
from tasks.failures import transient
from tasks.recording import known_to_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

STATEMENT_TAG = "edit_r2.statement"  # SHA-256 of the signed statement, on logged models and on versions
VERDICT_TAG = "edit_r2.verdict"
UNDECIDED = "undecided"  # the verdict on a version whose promotion never came to its entry in the ledger
RECALLED_TAG = "edit_r2.recalled"
OVERRIDE_TAG = "edit_r2.override"
RETIRED_TAG = "edit_r2.retired"  # when, by whom and why the files of a logged model were deleted
AWAITS_TAG = "edit_r2.awaits"  # the decision on a logged model that waits for a person's approval
HEAD_TAG = "edit_r2.ledger_head"  # "<index>:<hash>" of the newest ledger entry that this registry has seen
RUN_TAGS = (Tag.STAGE, Tag.FINGERPRINT, Tag.PROFILE, Tag.COMMIT, Tag.DIRTY, Tag.FLOW_RUN)


@dataclass(frozen=True)
class Version:
    """A registered version, and the logged model that it points to."""

    number: int
    model_id: str
    run_id: str
    tags: Mapping[str, str]


def _used(run: Run) -> list[str]:
    """Digests of the datasets that a run read."""
    return [item.dataset.digest for item in run.inputs.dataset_inputs] if run.inputs else []


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Everything that a search of MLflow finds, page by page; `search` takes the token of a page."""
    page = search(None)
    yield from page
    while page.token:
        page = search(page.token)
        yield from page


def _version(found: ModelVersion) -> Version:
    source = str(found.source)
    return Version(int(found.version), source.removeprefix("models:/"), str(found.run_id), dict(found.tags))


@dataclass(frozen=True)
class Registry:
    """One registered model."""

    client: MlflowClient
    name: str

    def versions(self) -> list[Version]:
        """Every version, the oldest first."""

        def search(token: str | None) -> Any:
            return self.client.search_model_versions(f"name='{self.name}'", max_results=1000, page_token=token)

        return sorted((_version(item) for item in pages(search)), key=lambda item: item.number)

    def experiments(self) -> dict[str, str]:
        """Id to name of the experiments that this project made."""
        found = self.client.search_experiments(filter_string="name LIKE 'edit-r2/%'")
        return {str(item.experiment_id): str(item.name) for item in found}

    def version(self, number: int) -> Version:
        """One version. Raises UserError when it does not exist."""
        with known_to_mlflow(f"{self.name} has no version {number}", "See `edit-r2 history`"):
            return _version(self.client.get_model_version(self.name, str(number)))

    def register(self, model_id: str, run_id: str, tags: Mapping[str, str]) -> int:
        """The version of a logged model, created at need; its tags are set either way."""
        self._ensure()
        known = next((item.number for item in self.versions() if item.model_id == model_id), None)
        if known is None:
            import mlflow

            mlflow.set_tracking_uri(self.client.tracking_uri)  # the registry's store resolves models:/ by the global
            # A server takes a source `models:/...` only together with the model id that it belongs to.
            source = f"models:/{model_id}"
            made = self.client.create_model_version(self.name, source, run_id, tags=dict(tags), model_id=model_id)
            return int(made.version)
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, str(known), key, value)
        return known

    def _ensure(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_registered_model(self.name)
        except MlflowException:
            try:
                self.client.create_registered_model(self.name)
            except MlflowException:  # another process was quicker; if not, this says why
                self.client.get_registered_model(self.name)

    def tag(self, number: int, key: str, value: str) -> None:
        """Set a tag of a version."""
        self.client.set_model_version_tag(self.name, str(number), key, value)

    def alias(self, alias: str) -> int | None:
        """The version that an alias names, or None."""
        return self.aliases().get(alias)

    def aliases(self) -> dict[str, int]:
        """Every alias with the version that it names."""
        found = self._registered()
        return {name: int(number) for name, number in found.aliases.items()} if found else {}

    def _registered(self) -> RegisteredModel | None:
        """The registered model, None before its first version; what MLflow raises for another reason is raised."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def point(self, alias: str, number: int | None) -> None:
        """Let an alias name a version, or nothing."""
        if number is None:
            self.client.delete_registered_model_alias(self.name, alias)
        else:
            self.client.set_registered_model_alias(self.name, alias, str(number))

    def head(self) -> tuple[int, str] | None:
        """Index and hash of the newest ledger entry that was ever projected here."""
        registered = self._registered()
        index, _, found = (registered.tags.get(HEAD_TAG, "") if registered else "").partition(":")
        return (int(index), found) if index.isdigit() else None

    def anchor(self, index: int, entry_hash: str) -> None:
        """Remember the newest ledger entry, so that a ledger cut short is noticed."""
        self._ensure()
        self.client.set_registered_model_tag(self.name, HEAD_TAG, f"{index}:{entry_hash}")

    def model_tags(self, model_id: str) -> dict[str, str]:
        """Tags of a logged model. Raises UserError when it is gone."""
        return dict(self._logged(model_id).tags)

    def _logged(self, model_id: str) -> LoggedModel:
        with known_to_mlflow(f"MLflow holds no model {model_id}", "Restore the tracking store"):
            return self.client.get_logged_model(model_id)

    @contextmanager
    def model_folder(self, model_id: str) -> Iterator[Path]:
        """The stored files of a logged model: in place where the store is this disk, else a copy for a while.

        Raises:
            UserError: MLflow holds no such model, or its files are gone.
        """
        found = self._logged(model_id)
        if RETIRED_TAG in found.tags:
            problem = f"the files of model {model_id} were deleted on {found.tags[RETIRED_TAG]}"
            raise UserError(problem, "Train it again")
        location = str(found.artifact_location).removeprefix("file://")
        if Path(location).is_absolute():
            if not Path(location).is_dir():
                raise UserError(f"the files of model {model_id} are gone", "Restore the artifact store")
            yield Path(location)
            return
        with TemporaryDirectory() as folder:
            yield self._download(model_id, folder)

    def _download(self, model_id: str, folder: str) -> Path:
        import mlflow
        from mlflow.exceptions import MlflowException

        mlflow.set_tracking_uri(self.client.tracking_uri)
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model_id}", dst_path=folder))
        except MlflowException as error:
            if transient(error):
                raise
            raise UserError(f"the files of model {model_id} cannot be read", "Restore the artifact store") from error

    def run(self, run_id: str) -> Run:
        """A run. Raises UserError when it is gone."""
        with known_to_mlflow(f"MLflow holds no run {run_id}", "Restore the tracking store"):
            return self.client.get_run(run_id)

    def evaluations(self, model_id: str, benchmark_digest: str) -> list[str]:
        """Finished runs that scored a logged model on one state of a benchmark, sorted by id."""
        experiment = self.client.get_logged_model(model_id).experiment_id
        wanted = f"tags.`{Tag.STAGE}` = '{Stage.EVALUATE}' and tags.`{Tag.MODEL}` = '{model_id}'"
        runs = self.client.search_runs([experiment], f"{wanted} and attributes.status = 'FINISHED'")
        return sorted(run.info.run_id for run in runs if benchmark_digest in _used(run))

    def run_record(self, run_id: str) -> dict[str, Any]:
        """What MLflow holds of a run that may never change again: metrics as numbers, texts by their SHA-256.

        Texts may hold folders of the machine that made them; their digests show a change just as well.
        """
        run = self.run(run_id)
        names = sorted(name for name in run.data.metrics if not name.startswith("system/"))
        histories = {name: self.client.get_metric_history(run_id, name) for name in names}
        datasets = run.inputs.dataset_inputs if run.inputs else []
        models = run.inputs.model_inputs if run.inputs else []
        return {
            "params": {name: sha256(value.encode()) for name, value in sorted(run.data.params.items())},
            "tags": {str(tag): sha256(run.data.tags[tag].encode()) for tag in RUN_TAGS if tag in run.data.tags},
            "metrics": {name: sorted([m.step, repr(m.value), m.timestamp] for m in histories[name]) for name in names},
            "latest": {name: repr(run.data.metrics[name]) for name in names},
            "datasets": sorted(
                [item.dataset.name, item.dataset.digest, sha256(item.dataset.source.encode())] for item in datasets
            ),
            "models": sorted(item.model_id for item in models),
        }


def record_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 over a run record: parameters, identity tags, every metric point but the system's, and its inputs."""
    return sha256(canonical(record))

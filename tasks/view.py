"""What an audit reads: a live installation, or a folder that was exported from one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data.errors import UserError
from tasks.audit_report import NotHere
from tasks.documents import FolderShelf, Shelf
from tasks.registry import Version
from tasks.signing import trusted_keys
from tasks.storage import Storage
from tasks.stores import Remote

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

    from tasks.books import Books
    from tasks.settings import Settings

SNAPSHOT = "registry.json"


class RegistryView(Protocol):
    """What an audit asks of the registry; `tasks.registry.Registry` answers live."""

    @property
    def name(self) -> str:
        """The registered model."""

    def alias(self, alias: str) -> int | None:
        """The version that an alias names."""

    def head(self) -> tuple[int, str] | None:
        """The newest ledger entry that the registry has seen."""

    def version(self, number: int) -> Version:
        """One version."""

    def model_tags(self, model_id: str) -> dict[str, str]:
        """Tags of a logged model."""

    def run_record(self, run_id: str) -> dict[str, Any]:
        """What is recorded of a run."""

    def model_folder(self, model_id: str) -> AbstractContextManager[Path]:
        """Files of a logged model."""


@dataclass(frozen=True)
class View:
    """Everything that an audit reads. `root` is the checkout and `remote` DVC's remote; None: not to be read here."""

    shelf: Shelf
    keys: Path
    registry: RegistryView
    alias: str
    root: Path | None = None
    remote: Remote = None

    @property
    def trusted(self) -> dict[str, SSlibKey]:
        """Public keys whose signatures count."""
        return trusted_keys(self.keys)


def live(books: Books, root: Path, remote: Remote) -> View:
    """The installation itself."""
    return View(books.shelf, books.keys, books.registry, books.alias, root, remote)


def live_from(chosen: Settings, books: Books) -> View:
    """The installation that the settings describe."""
    url = chosen.dvc_remote_url
    if url.startswith("s3://"):
        return live(books, chosen.root, Storage.at(url, chosen.s3_endpoint, region=chosen.s3_region))
    return live(books, chosen.root, Path(url) if Path(url).is_absolute() else None)


@dataclass(frozen=True)
class Snapshot:
    """The registry's answers at the time of an export, read from `registry.json`."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The registered model."""
        return str(self.content["model"])

    def alias(self, alias: str) -> int | None:
        """The version that an alias named."""
        number = self.content["aliases"].get(alias)
        return None if number is None else int(number)

    def head(self) -> tuple[int, str] | None:
        """The newest ledger entry that the registry had seen."""
        found = self.content["head"]
        return (int(found[0]), str(found[1])) if found else None

    def _item(self, kind: str, key: str) -> Any:
        try:
            return self.content[kind][key]
        except KeyError as error:
            raise UserError(f"the folder holds no {kind[:-1]} {key}", "Export it again") from error

    def version(self, number: int) -> Version:
        """One version."""
        return Version(**self._item("versions", str(number)))

    def model_tags(self, model_id: str) -> dict[str, str]:
        """Tags of a logged model."""
        return dict(self._item("models", model_id))

    def run_record(self, run_id: str) -> dict[str, Any]:
        """What was recorded of a run."""
        return dict(self._item("runs", run_id))

    @contextmanager
    def model_folder(self, model_id: str) -> Iterator[Path]:
        """Files of a logged model. Raises NotHere when they were left out of the export."""
        if model_id not in self.content["weights"]:
            raise NotHere("the weights are not part of this folder")
        yield self.folder / "models" / model_id


def exported(folder: Path, keys: Path | None = None) -> View:
    """A folder that `tasks.export` wrote.

    Args:
        folder: the exported folder.
        keys: trusted public keys, those of people in its folder `people`, from a source that the auditor trusts; by
            default those in the folder itself.

    Raises:
        UserError: it is no exported folder.
    """
    try:
        content = json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))
        return View(
            FolderShelf(folder / "ledger"), keys or folder / "keys", Snapshot(folder, content), content["alias"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder.name} is no exported audit folder", "Write one: `edit-r2 audit export`") from error


def exported_version(folder: Path) -> int | None:
    """The version whose chain was exported to a folder; None where it does not say: then its alias does."""
    number = json.loads((folder / SNAPSHOT).read_text(encoding="utf-8")).get("version")
    return None if number is None else int(number)

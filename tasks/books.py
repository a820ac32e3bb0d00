"""Everything that provenance keeps, opened together: ledger, documents, keys, registry and who acts."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.documents import BucketShelf, FolderShelf, Shelf
from tasks.ledger import Ledger
from tasks.registry import Registry
from tasks.signing import Identity, load_identity, trusted_keys

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

    from tasks.settings import Settings


@dataclass(frozen=True)
class Books:
    """The books of one installation. `alias` names the champion; `actor` is who acts, in their own words."""

    ledger: Ledger
    shelf: Shelf
    keys: Path
    identity: Identity
    registry: Registry
    alias: str
    actor: str
    state: Path

    @property
    def trusted(self) -> dict[str, SSlibKey]:
        """Public keys whose signatures count."""
        return trusted_keys(self.keys)


def shelf_of(chosen: Settings) -> Shelf:
    """The bucket when one is configured, else a folder under `home`."""
    if not chosen.s3_bucket:
        return FolderShelf(chosen.folder("ledger"))
    from tasks.storage import Storage

    url = f"s3://{chosen.s3_bucket}/{chosen.s3_prefix}/ledger"
    return BucketShelf(Storage.at(url, chosen.s3_endpoint, region=chosen.s3_region))


def open_books(chosen: Settings | None = None, alias: str = "champion", actor: str | None = None) -> Books:
    """Open the books that the settings describe; keys are created on first use.

    Raises:
        UserError: a key or a store that cannot be used.
    """
    from mlflow import MlflowClient

    from tasks.settings import settings

    chosen = chosen or settings()
    keys, shelf = chosen.folder("keys"), shelf_of(chosen)
    password = chosen.signing_key_password.get_secret_value() if chosen.signing_key_password else None
    identity = load_identity(keys, key_file=chosen.signing_key, password=password)
    return Books(
        ledger=Ledger(shelf, keys, identity),
        shelf=shelf,
        keys=keys,
        identity=identity,
        registry=Registry(MlflowClient(chosen.tracking_uri), chosen.registry_name),
        alias=alias,
        actor=actor or chosen.actor or getpass.getuser(),
        state=chosen.state,
    )

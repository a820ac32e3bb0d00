"""One spelling per value, and its digest: what signatures, ledger, decisions and fingerprints rest on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any


def canonical(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """JSON with sorted keys and no spaces, in UTF-8. NaN and infinity raise ValueError.

    Args:
        value: JSON values.
        default: makes JSON values of anything else, such as `plain`; without it, anything else raises TypeError.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=default
    )
    return text.encode()


def plain(item: Any) -> Any:
    """A dataclass as a mapping, anything else (paths and the like) as its text."""
    return dataclasses.asdict(item) if dataclasses.is_dataclass(item) and not isinstance(item, type) else str(item)


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_digest(value: object) -> bool:
    """Whether a value is a SHA-256 in hexadecimal: nothing else that comes from outside may name a file."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None

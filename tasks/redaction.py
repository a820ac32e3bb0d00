"""Nothing that leaves this machine tells its secrets or where its folders lie.

Statements, ledger entries and exported documents are passed through `redact`, and refused by `leaks` as a second check.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SECRET_NAME = re.compile(r"(?i)(password|passwd|secret|token|api_?key|access_?key|auth_string|credential|private_key)")
USER_INFO = re.compile(r"(?<=://)[^/?#\s]+@")  # up to the last @ of the host's part: a password may hold one
ABSOLUTE = re.compile(
    r"(?<![\w.:/@-])(?:(?:file://|sqlite:///))?(?:/[\w.@+-]+){2,}/?"  # POSIX, also as an address
    r"|(?<!\w)[A-Za-z]:\\[^\s\"']+"  # Windows
    r"|(?<!\w)~/[\w./-]+"
)
MASK = "***"
SHORTEST = 6  # characters; shorter secret values would mask ordinary words


def without_login(address: str) -> str:
    """An address as it may be shown: without the user and password that it may hold."""
    return USER_INFO.sub("", address)


def secret_values(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Values of environment variables whose names speak of secrets, the longest first."""
    found = os.environ if environment is None else environment
    values = {value for name, value in found.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    return tuple(sorted(values, key=len, reverse=True))


def _text(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = without_login(text)
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    return ABSOLUTE.sub(lambda match: re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], text)


def redact(value: Any, secrets: tuple[str, ...] | None = None) -> Any:
    """A JSON value with secrets masked, credentials cut from addresses, and absolute paths cut to their last name."""
    known = secret_values() if secrets is None else secrets
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, Mapping):
        return {
            _text(str(key), known): MASK
            if SECRET_NAME.search(str(key)) and isinstance(item, str)
            else redact(item, known)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, known) for item in value]
    return value


def leaks(text: str, secrets: tuple[str, ...] | None = None) -> Iterator[str]:
    """What a text gives away: one line for each kind of thing found, without the thing itself."""
    known = secret_values() if secrets is None else secrets
    if any(secret in text for secret in known):
        yield "the value of a secret environment variable"
    if USER_INFO.search(text):
        yield "credentials in an address"
    if "PRIVATE KEY-----" in text:
        yield "a private key"
    if ABSOLUTE.search(text):
        yield "an absolute path"

"""Reading of params.yaml: profiles that extend one another, sections checked against their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from data.errors import UserError

T = TypeVar("T")


def read_profile(name: str, path: Path = Path("params.yaml")) -> dict[str, Any]:
    """The sections of one profile, what it `extends` merged in below its own values."""
    profiles = _profiles(path)
    return _resolve(name, profiles, path, ())


def profile_names(path: Path = Path("params.yaml")) -> list[str]:
    """Names of all profiles in the file."""
    return list(_profiles(path))


def section(profile: dict[str, Any], name: str, cls: type[T], source: str = "params.yaml") -> T:
    """One section as an instance of `cls` (a dataclass or pydantic model); unknown or invalid keys are refused.

    `source` names the file in errors.
    """
    adapter: TypeAdapter[T] = TypeAdapter(_strict(cls))
    try:
        return adapter.validate_python(profile.get(name) or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([name, *(str(part) for part in first["loc"])])
        raise UserError(f"{source}: {key}: {first['msg']}", f"Correct or remove this key in {source}") from error


def _strict(cls: type[T]) -> type[T]:
    if hasattr(cls, "__pydantic_config__") or hasattr(cls, "model_config"):
        return cls
    return with_config(ConfigDict(extra="forbid"))(cls)


def _profiles(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "Run from the folder of the repository, or name the file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise UserError(f"{path}{line} is not readable YAML", "Correct the file") from error
    if not isinstance(data, dict) or not isinstance(data.get("profiles"), dict):
        raise UserError(f"{path} has no table `profiles`", "Put every profile under the key `profiles`")
    return data["profiles"]


def _resolve(name: str, profiles: dict[str, Any], path: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    if name not in profiles:
        raise UserError(f"{path} has no profile {name!r}", f"Choose one of: {', '.join(profiles)}")
    if name in seen:
        raise UserError(f"{path}: profile {name!r} extends itself", "Remove the circle of `extends`")
    own = dict(profiles[name] or {})
    parent = own.pop("extends", None)
    return own if parent is None else merge(_resolve(parent, profiles, path, (*seen, name)), own)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged

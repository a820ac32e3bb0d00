"""Data sets as DVC stages: built where something changed, identified by DVC's hash, pushed to the remote.

DVC always runs as `dvc --wait-for-lock` in a process of its own: it has no call for a stage, and without the flag a
stage that finishes while another process holds the lock loses its entry in dvc.lock. What the command says goes to a
log; a failure becomes one line. Nothing here writes to the committed `.dvc/config`: a remote that differs from the
folder named there is kept in `.dvc/config.local`, and credentials stay in the environment.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from data.errors import UserError
from tasks.locks import file_lock
from tasks.settings import Settings, settings
from tasks.stores import folder_digest

Name = Literal["sessions", "benchmark"]
COMMITTED_REMOTE: Final = "folder"
CONFIGURED_REMOTE: Final = "configured"


@dataclass(frozen=True)
class Dataset:
    """One build, as it lies in the checkout and in dvc.lock."""

    name: str
    """`sessions` or `benchmark`: the DVC stage."""
    profile: str
    """The profile whose section it was built from (the requested one, or the one it inherits the section of)."""
    folder: Path
    digest: str
    """DVC's `<md5>.dir`, exactly the 36 characters that MLflow allows a data set digest."""
    sha256_manifest: str
    """SHA-256 over the sorted lines `<sha256>  <path>` of all files: md5 is no proof against intent."""
    rows: int
    """Sessions in all splits."""
    splits: dict[str, int]
    """Sessions per split."""

    @property
    def title(self) -> str:
        """`sessions/tiny`: how MLflow, scores and lineage name it."""
        return f"{self.name}/{self.profile}"

    def as_json(self) -> dict[str, Any]:
        """For machines; the folder as posix text."""
        return {**asdict(self), "folder": self.folder.as_posix(), "title": self.title}


def build(profile: str, name: Name, push: bool = True, chosen: Settings | None = None) -> Dataset:
    """Build a data set where code or parameters changed, push it, and return it.

    Raises:
        UserError: unknown profile, a stage that fails (its own last line is quoted), or a remote that does not answer.
    """
    chosen = chosen or settings()
    owner = owner_of(profile, name, chosen.root)
    stage = f"{name}@{owner}"
    # DVC refuses a stage that another process runs ("is busy"); waiting for it is what both of them want.
    with file_lock(chosen.folder("locks") / "dvc-repro.lock", chosen.stage_timeout):
        _run(["repro", stage], f"build {name}/{owner}", chosen)
    dataset = locked(owner, name, chosen)
    if push:
        push_dataset(dataset, chosen)
    return dataset


def locked(profile: str, name: Name, chosen: Settings | None = None) -> Dataset:
    """The data set that dvc.lock names and that lies in the checkout, its bytes compared with the lock.

    Raises:
        UserError: the lock or the checkout does not have it, or the checkout has another build, as after `git pull`.
    """
    chosen = chosen or settings()
    owner = owner_of(profile, name, chosen.root)
    stage = f"{name}@{owner}"
    entry = _read_yaml(chosen.root / "dvc.lock", default={}).get("stages", {}).get(stage)
    if entry is None:
        raise UserError(f"dvc.lock has no entry for {stage}", f"Run `dvc repro {stage}`")
    out = entry["outs"][0]
    folder = chosen.root / out["path"]
    if not folder.is_dir():
        raise UserError(f"{out['path']} is not in this checkout", f"Run `dvc pull {stage}` or `dvc repro {stage}`")
    if folder_digest(folder) != out["md5"]:
        raise UserError(f"{out['path']} is not the build that dvc.lock names", f"Run `dvc repro {stage}`")
    splits = {path.stem: _lines(path) for path in sorted(folder.glob("*.jsonl"))}
    return Dataset(name, owner, folder, out["md5"], manifest_digest(folder), sum(splits.values()), splits)


def is_pushed(profile: str, name: Name, chosen: Settings | None = None) -> bool:
    """Whether the remote holds every file that dvc.lock names; otherwise a lineage would point to nothing."""
    chosen = chosen or settings()
    stage = f"{name}@{owner_of(profile, name, chosen.root)}"
    command = ["status", "--cloud", "--json", "--remote", remote_name(chosen), stage]
    return not json.loads(_run(command, f"look for {stage} in the remote", chosen))


def push_dataset(dataset: Dataset, chosen: Settings | None = None) -> None:
    """Copy the data set's files to the remote; those that are there are not sent again."""
    chosen = chosen or settings()
    command = ["push", "--remote", remote_name(chosen), f"{dataset.name}@{dataset.profile}"]
    _run(command, f"push {dataset.title} to {chosen.dvc_remote_url}", chosen)


def owner_of(profile: str, name: Name, root: Path) -> str:
    """The profile itself, or the nearest it extends that has this section: equal parameters are one data set.

    Raises:
        UserError: unknown profile, or no stage builds the data of this one.
    """
    profiles = _read_yaml(root / "params.yaml").get("profiles", {})
    built = _read_yaml(root / "dvc.yaml")["stages"][name]["matrix"]["profile"]
    current: str | None = profile
    for _ in profiles:
        if current is None or current not in profiles:
            break
        if name in profiles[current]:
            if current in built:
                return current
            raise UserError(f"dvc.yaml has no stage {name}@{current}", "Add the profile to its matrix")
        current = profiles[current].get("extends")
    raise UserError(f"params.yaml has no profile {profile!r} with {name}", f"Choose one of: {', '.join(profiles)}")


def remote_name(chosen: Settings) -> str:
    """The committed folder remote, or the one of the settings, entered in `.dvc/config.local` on first use."""
    url = chosen.dvc_remote_url
    if Path(url) == (chosen.root / ".edit-r2" / "dvc-remote").resolve():
        return COMMITTED_REMOTE
    wanted = {"url": url}
    if url.startswith("s3://") and chosen.s3_endpoint:
        wanted["endpointurl"] = chosen.s3_endpoint
    if _local_remote(chosen.root) != wanted:
        _run(["remote", "add", "--local", "--force", CONFIGURED_REMOTE, url], "name the remote", chosen)
        for key in wanted.keys() - {"url"}:
            _run(["remote", "modify", "--local", CONFIGURED_REMOTE, key, wanted[key]], "set up the remote", chosen)
    return CONFIGURED_REMOTE


def manifest_digest(folder: Path) -> str:
    """SHA-256 over the sorted lines `<sha256>  <relative path>` of a folder's files."""
    lines = []
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(
                    f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}"
                )
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _run(arguments: list[str], purpose: str, chosen: Settings) -> str:
    """Run DVC in the checkout, append what it says to the log, and return its standard output."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    # The stages' own `python` must be this one, also where no environment was activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, cwd=chosen.root, env=environment, capture_output=True, text=True, check=False)
    log = chosen.folder("logs") / "dvc.log"
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ dvc {' '.join(arguments)}\n{done.stdout}{done.stderr}exit {done.returncode}\n")
    except OSError as error:
        raise UserError(f"cannot write {log}: {error.strerror}", "Free some space, or set EDIT_R2_HOME") from error
    if done.returncode:
        raise UserError(f"cannot {purpose}: {_cause(done.stderr)}", f"See {log}")
    return done.stdout


def _cause(said: str) -> str:
    """The line that explains a failure: the stage's own last one where it ran, else DVC's error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    own = [line for line in lines if not line.startswith(("ERROR: ", "WARNING: ", "> "))]
    if errors and "failed to reproduce" in errors[-1] and "failed to run" in errors[-1] and own:
        return own[-1].rstrip(".")
    last = (errors or lines or ["it said nothing"])[-1]
    return last.removeprefix("ERROR: ").removeprefix("unexpected error - ").rstrip(".")


def _local_remote(root: Path) -> dict[str, str]:
    """The remote of the settings as `.dvc/config.local` has it, or nothing."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / ".dvc" / "config.local", encoding="utf-8")
    title = f"'remote \"{CONFIGURED_REMOTE}\"'"
    return dict(parser[title]) if parser.has_section(title) else {}


def _read_yaml(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if default is not None:
            return default
        raise UserError(f"{path} does not exist", "Run from the folder of the repository") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML", "Restore it: git checkout -- " + path.name) from error
    return content if isinstance(content, dict) else {}


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())

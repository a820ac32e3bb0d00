"""Data plane: `python -m benchmarks.data [--profile tiny] [--sessions 1000] [--memory 100000]`.

Prints sessions built per second on one core (written, rendered, encoded and stored), pictures checked per second, lines
imported per second, and the peak memory of a build of many sessions against that of a small one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from data.build import CONFIGS, SessionsConfig, build
from data.mice import read_mice
from data.parameters import read_profile, section
from tasks.facts import collect

SMALL = 1000
MEMORY = """
import resource, sys
from collections.abc import Callable
from pathlib import Path
from benchmarks.data import config
from data.build import build
build(config(sys.argv[1], int(sys.argv[2])), Path(sys.argv[3]) / "out", "benchmark")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def config(profile: str, sessions: int) -> SessionsConfig:
    """The profile's parameters with another number of training sessions and no other split."""
    found = section(read_profile(profile), "sessions", CONFIGS["sessions"])
    return dataclasses.replace(found, train=sessions, practice=0, validation=0, test=0)


def speeds(profile: str, sessions: int) -> dict[str, float]:
    """Rates per second of processor time, one thread."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        # The first build pays for imports and sprites that every process pays once.
        build(config(profile, 8), folder, "benchmark")
        built = _seconds(lambda: build(config(profile, sessions), folder, "benchmark"))
        pictures = len(collect(folder).pictures)
        checked = _seconds(lambda: collect(folder))
        imported = _seconds(lambda: read_mice(folder / "train.jsonl"))
    return {
        "sessions_built_per_second": round(sessions / built),
        "pictures_checked_per_second": round(pictures / checked),
        "sessions_imported_per_second": round(sessions / imported),
    }


def peak_memory(profile: str, sessions: int) -> int:
    """Peak resident memory in MiB of a process that builds so many sessions."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-c", MEMORY, profile, str(sessions), temporary]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _seconds(work: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--sessions", type=int, default=SMALL)
    parser.add_argument("--memory", type=int, default=0, help="sessions of the large build; 0 leaves it out")
    options = parser.parse_args()
    found: dict[str, float] = speeds(options.profile, options.sessions)
    if options.memory:
        found |= {f"peak_mib_{count}": peak_memory(options.profile, count) for count in (SMALL, options.memory)}
    found["peak_mib_here"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"profile": options.profile, "sessions": options.sessions, **found}, indent=1))


if __name__ == "__main__":
    main()

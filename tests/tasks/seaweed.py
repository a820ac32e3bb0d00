"""A real S3 server for tests: SeaweedFS on loopback, every port chosen free, data in a folder of the test."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEY, SECRET = "edit-r2-test", "edit-r2-test-secret"
SERVICES = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port", "webdav.port", "s3.port.iceberg")


def weed() -> str | None:
    """The server's binary beside this Python, or None."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Start a server with one identity and no bucket; yield its address; stop it and wait for its end."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(SERVICES, _free_ports(len(SERVICES)), strict=True))
    # A loopback address for binding alone leaves the advertised one to the machine's name, so both are given.
    command = [weed(), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.config={folder / 's3.json'}", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    address = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait(address, server, folder / "weed.log")
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()
        server.wait()


def _free_ports(count: int) -> list[int]:
    """Free ports whose neighbour 10000 above is free too: the server puts its gRPC ports there."""
    found: list[int] = []
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        port = 20000 + first.getsockname()[1] % 20000
    while len(found) < count:
        port += 1
        if all(_is_free(p) for p in (port, port + 10000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait(address: str, server: subprocess.Popen, log: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=1)
            return
        except urllib.error.HTTPError:  # refuses the anonymous request: it answers
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text(errors='replace')[-3000:]}")

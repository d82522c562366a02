"""A feature server in a process of its own, as `feast serve` starts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features import configuration as configurations
from features.configuration import Configuration

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(configuration: Configuration, log: Path) -> Iterator[str]:
    """Serve the shipped feature repository over `configuration`; yields the address once it listens."""
    file = configuration.file.parent / configurations.FILE_NAME
    file.write_text('state = "state"\n', encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(ROOT / "features"), "serve", "-h", "127.0.0.1"]
    environment = {**os.environ, "ATTRACTOR_CONFIG": str(file), "FEAST_USAGE": "False", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as stream:
        server = subprocess.Popen([*command, "-p", str(port)], env=environment, stdout=stream, stderr=stream)
        try:
            _wait(port, server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)


def _wait(port: int, server: subprocess.Popen[bytes], log: Path, *, patience: float = 90.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8"))

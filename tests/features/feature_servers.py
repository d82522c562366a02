"""Feast's own commands over the shipped feature repository, each in a process of its own."""

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
FEATURES = ROOT / "features"


def feast(configuration: Configuration, *words: str, directory: Path = FEATURES) -> str:
    """What `feast …` prints, run to its end in `directory`; fails if it fails."""
    command = [sys.executable, "-m", "feast.cli.cli", *words]
    done = subprocess.run(
        command, cwd=directory, env=_environment(configuration.file), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(configuration: Configuration, log: Path, command: str = "serve") -> Iterator[str]:
    """Run `feast serve` or `feast ui` over `configuration`; yields the address once it listens."""
    file = configuration.file.parent / configurations.FILE_NAME
    file.write_text('state = "state"\n', encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = [sys.executable, "-m", "feast.cli.cli", "-c", str(FEATURES), command, "-h", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as stream:
        server = subprocess.Popen(words, env=_environment(file), stdout=stream, stderr=stream)
        try:
            _wait(port, server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)


def _environment(file: Path) -> dict[str, str]:
    return {**os.environ, "ATTRACTOR_CONFIG": str(file), "FEAST_USAGE": "False", "PYTHONPATH": str(ROOT)}


def _wait(port: int, server: subprocess.Popen[bytes], log: Path, *, patience: float = 90.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8"))

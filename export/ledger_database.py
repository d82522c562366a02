"""Where the ledger is kept, and its schema: SQLite beside the state, or any database by a URL from the environment.

```toml
[ledger]
url_variable = "ATTRACTOR_LEDGER_URL"   # the environment variable that holds it; the URL itself is a secret
```
"""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text

from export.ledger_models import VERSION_TABLE
from features.configuration import Configuration
from features.database_url import url_in
from features.errors import ConfigurationError
from features.locks import exclusive

BUSY_SECONDS = 60
"""How long a writer of SQLite waits for another one."""

_MIGRATION_LOCK = 7236
"""Of PostgreSQL's advisory locks; any number that nothing else of the database uses."""

Clock = Callable[[Connection], dt.datetime]


@dataclass(frozen=True)
class LedgerConfig:
    """Where the ledger is, and how long an owner may be silent."""

    url_variable: str | None = None  # left out: SQLite, `ledger.db` in the state directory
    scope: str | None = None  # whose rows, where state directories share a database; left out: the directory's name
    lease_seconds: float = 120.0  # an owner that was not heard of for so long has lost its claim

    def __post_init__(self) -> None:
        if self.lease_seconds <= 0:
            raise ValueError(f"expected lease_seconds > 0, got {self.lease_seconds}")


def ledger_url(configuration: Configuration, *, environment: Mapping[str, str] = os.environ) -> URL:
    """The ledger's database. Raises ConfigurationError if the variable is not set or holds no URL."""
    variable = configuration.section("ledger", LedgerConfig).url_variable
    if variable is None:
        return URL.create("sqlite", database=str(configuration.ledger))
    return url_in(variable, f"{configuration.file}: [ledger]", environment=environment)


def connect(url: URL) -> Engine:
    """An engine whose connections end with their transaction, so that forks and threads share none."""
    if url.get_backend_name() != "sqlite":
        return create_engine(url, poolclass=NullPool)
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _no_implicit_transactions(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads before it writes would else fail when another one wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def database_clock(connection: Connection) -> dt.datetime:
    """The database's time: one clock for all workers, whatever those of their hosts say."""
    sqlite = connection.dialect.name == "sqlite"
    query = "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')" if sqlite else "SELECT clock_timestamp()"
    told = connection.execute(text(query)).scalar_one()
    at = dt.datetime.fromisoformat(told).replace(tzinfo=dt.UTC) if isinstance(told, str) else told
    return at.astimezone(dt.UTC)


def upgrade(engine: Engine) -> str:
    """Bring the schema to the newest revision, one process at a time; the revision.

    Raises ConfigurationError if the database is at a revision that this version does not know.
    """
    scripts = Config()
    scripts.set_main_option("script_location", "export:migrations")
    known = ScriptDirectory.from_config(scripts)
    head = known.get_current_head()
    assert head is not None
    with _sole_migration(engine) as connection:
        found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
        if found is not None and found not in {script.revision for script in known.walk_revisions()}:
            raise ConfigurationError(
                f"the ledger {engine.url} is at revision {found}, newer than {head} of this version: upgrade Attractor"
            )
        scripts.attributes["connection"] = connection
        if found != head:
            command.upgrade(scripts, "head")
    return head


@contextmanager
def _sole_migration(engine: Engine) -> Iterator[Connection]:
    """A transaction in which no other process migrates: DDL is transactional in both databases."""
    if engine.dialect.name != "sqlite":
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            yield connection
        return
    with exclusive(Path(f"{engine.url.database}.lock")):
        with closing(engine.raw_connection()) as connection_alone:
            # Kept in the file. No transaction may be open, and SQLite does not wait when two ask for it at once.
            connection_alone.cursor().execute("PRAGMA journal_mode = WAL")
        with engine.begin() as connection:
            yield connection

"""A warehouse behind the interface of a source: the four tables of `contracts.RAW`, read through SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

import sqlalchemy as sa
from sqlalchemy import URL, Connection

from features.contracts import EVENTS, RAW
from features.errors import ConfigurationError, ContractViolation, SourceLost
from features.files import sha256_of_json
from features.sources.source import BATCH_ROWS, Rows
from features.sources.sql_connection import transaction, translated
from features.sources.sql_mapping import TableMapping
from features.sources.sql_query import Statement, TableQuery, table_query
from features.sources.sql_values import as_batch
from features.windows import Window

LIST_ROWS = 1024
"""Rows fetched at once where they carry lists: a picture of 2,048 numbers takes 64 KB as Python holds it."""

State = tuple[Any, ...]


class SqlSource:
    """The database at `url`, with the mapping of each table; `isolation` as in `sql_connection.transaction`."""

    closed = None

    def __init__(self, url: URL, tables: Mapping[str, TableMapping], *, isolation: str = "") -> None:
        self._url, self._isolation = url, isolation
        self._tables = {name: tables.get(name, TableMapping()) for name in RAW}

    @property
    def identity(self) -> str:
        """The database and its tables; not the host, which may fail over to another."""
        places = {name: mapping.place(RAW[name]) for name, mapping in self._tables.items()}
        database = PurePath(self._url.database or "").name
        return sha256_of_json({"database": [self._url.get_backend_name(), database], "tables": places})

    def fingerprint(self) -> str:
        """A warehouse does not tell whether it changed: only what is asked of it is in this."""
        return sha256_of_json([self.identity, {name: asdict(mapping) for name, mapping in self._tables.items()}])

    @contextmanager
    def reading(self) -> Iterator[SqlReader]:
        """Read all tables in one state of the database, or learn that it changed meanwhile.

        Raises ConfigurationError where the mapping does not fit the database, SourceLost where it cannot be
        reached, is lost, or, without a snapshot of its own, held other rows at the end than when they were read.
        """
        with transaction(self._url, isolation=self._isolation) as (connection, whole), ExitStack() as cursors:
            reader = SqlReader(connection, self._url, self._queries(connection), cursors, compares=not whole)
            try:
                yield reader
            except ContractViolation as violation:  # a row may refer to one that came after its table was read
                reader.check_unchanged(violation)
                raise
            reader.check_unchanged()

    def _queries(self, connection: Connection) -> dict[str, TableQuery]:
        queries, unfit = {}, []
        for name, mapping in self._tables.items():
            try:
                with translated(f"table {mapping.place(RAW[name])}", self._url):
                    inspector = sa.inspect(connection)
                    queries[name] = table_query(inspector, RAW[name], mapping, section=f"source.tables.{name}")
            except ConfigurationError as error:  # all that is wrong at once: each attempt may take minutes
                unfit.append(str(error))
        if unfit:
            raise ConfigurationError("\n".join(unfit))
        return queries


@dataclass
class SqlReader:
    """One transaction's tables. Only valid inside `SqlSource.reading`."""

    connection: Connection
    url: URL
    queries: Mapping[str, TableQuery]
    cursors: ExitStack
    compares: bool
    states: list[tuple[TableQuery, Statement, State]] = field(default_factory=list)

    def rows(self, table: str) -> Iterator[Rows]:
        query = self.queries[table]
        return self._stream(query, query.statement)

    def events(self, window: Window) -> Iterator[Rows]:
        query = self.queries[EVENTS.name]
        return self._stream(query, query.within(window, sqlite=self.connection.dialect.name == "sqlite"))

    def check_unchanged(self, cause: ContractViolation | None = None) -> None:
        """Raise SourceLost if a table read holds another number of rows, or another last time, than before."""
        for query, statement, before in self.states:
            after = self._state(query, statement)
            if after != before:
                raise SourceLost(
                    f"table {query.place} changed while it was read: (rows, last time) were {before}, now {after}; "
                    "nothing was landed, and trying again may do"
                ) from cause

    def _stream(self, query: TableQuery, statement: Statement) -> Iterator[Rows]:
        """Batches by a cursor of the server; a table without rows gives one empty batch, for its columns."""
        if self.compares:
            self.states.append((query, statement, self._state(query, statement)))
        options = {"stream_results": True, "yield_per": LIST_ROWS if query.carries_lists else BATCH_ROWS}
        with translated(f"table {query.place}", self.url):
            result = self.cursors.enter_context(self.connection.execute(statement, execution_options=options))
        partitions = result.partitions()
        first_row = 0
        while True:
            with translated(f"table {query.place}, after {first_row} rows", self.url):
                rows = next(partitions, [])
            if rows or first_row == 0:
                yield Rows(as_batch(query, rows, first_row), first_row)
            if not rows:
                return
            first_row += len(rows)

    def _state(self, query: TableQuery, statement: Statement) -> State:
        asked = statement.subquery()
        times = [sa.func.max(asked.c[name]) for name in ("event_at", "created_at") if name in query.columns]
        with translated(f"table {query.place}", self.url):
            return tuple(self.connection.execute(sa.select(sa.func.count(), *times).select_from(asked)).one())

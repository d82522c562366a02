"""From raw tables to feature tables and labels: DuckDB runs the queries of `features/sql`, one a view.

Everything is computed as of one instant: rows dated then or later, and users and items created then or
later, do not exist. Equal inputs give equal rows in an equal order, whatever the number of threads.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from features.files import temporary_sibling
from features.windows import Window

if TYPE_CHECKING:
    from features.landing import RawTables

SQL = Path(__file__).parent / "sql"
READ_ROWS = 8192


@dataclass(frozen=True)
class FeatureConfig:
    """What the feature tables hold and what building them may cost."""

    history_length: int = 50  # events of a user, the last ones
    tags_from_queries: bool = False  # where queries are tags given to items, as on Last.fm
    tags_per_item: int = 5  # the most used ones
    similarity_threshold: float = 0.1  # η of DICER eq. 1
    similar_top_k: int = 50  # users, or items, that a list of similar ones holds
    similarity_max_degree: int = 2000  # what more users (items) share tells nothing: it counts in |R| alone
    memory_limit: str = "4GB"  # beyond it DuckDB spills to a directory beside its output
    threads: int = 2  # of DuckDB

    def __post_init__(self) -> None:
        for name in ("history_length", "similar_top_k", "similarity_max_degree", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.tags_per_item < 0 or not 0 < self.similarity_threshold <= 1:
            raise ValueError("expected tags_per_item >= 0 and 0 < similarity_threshold <= 1")


@dataclass(frozen=True)
class Known:
    """A database of what was known before one instant. Only valid inside `known_before`."""

    database: duckdb.DuckDBPyConnection
    as_of: dt.datetime
    config: FeatureConfig

    def view(self, name: str) -> pa.RecordBatchReader:
        """The rows of feature view `name`, sorted by key."""
        return self._stream(name, {"as_of": self.as_of, **_limits(self.config)})

    def labels(self, window: Window) -> pa.RecordBatchReader:
        """The first action of each user on each item in `window`: user_id, item_id, query, event_at."""
        return self._stream("labels", {"start": window.start, "end": window.end})

    def prepare_similarity(self) -> dict[str, int]:
        """Compute the similar users and items that `social_graph` and `item_audience` list; DICER eq. 1.

        What more than `similarity_max_degree` users (items) share counts in |R| but not in the intersection,
        and each list is cut to its `similar_top_k` best; returns how many items and users were left out.
        """
        run_statements(self.database, "similar", _limits(self.config))
        names = ("items", "users")
        found = _last(self.database, "hubs", _limits(self.config)).fetchone()
        assert found is not None
        return dict(zip(names, found, strict=True))

    def _stream(self, name: str, values: Mapping[str, Any]) -> pa.RecordBatchReader:
        return _last(self.database, name, values).to_arrow_reader(READ_ROWS)


@contextmanager
def known_before(raw: RawTables, as_of: dt.datetime, config: FeatureConfig, *, scratch: Path) -> Iterator[Known]:
    """Open a database that knows of `raw` what happened strictly before `as_of`, spilling below `scratch`."""
    files = {
        "users": str(raw.users),
        "items": str(raw.items),
        "social_edges": str(raw.social_edges),
        "events": [str(path) for path in raw.events],
    }
    with scratch_database(config, scratch) as database:
        run_statements(database, "known", {"as_of": as_of, **files})
        yield Known(database, as_of, config)


@contextmanager
def scratch_database(config: FeatureConfig, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory, in UTC, that spills to a directory below `scratch`, which is removed after."""
    scratch.mkdir(parents=True, exist_ok=True)
    spill = temporary_sibling(scratch / "duckdb")
    settings: dict[str, Any] = {
        "memory_limit": config.memory_limit,
        "threads": config.threads,
        "temp_directory": str(spill),
        "autoinstall_known_extensions": False,
    }
    try:
        with duckdb.connect(config=settings) as database:
            database.execute("SET TimeZone = 'UTC'")
            yield database
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def run_statements(database: duckdb.DuckDBPyConnection, name: str, values: Mapping[str, Any]) -> None:
    """Run every statement of `sql/<name>.sql` with those of the `values` that it names."""
    for statement in duckdb.extract_statements((SQL / f"{name}.sql").read_text(encoding="utf-8")):
        database.execute(statement, {key: values[key] for key in statement.named_parameters})


def _limits(config: FeatureConfig) -> dict[str, Any]:
    return {
        "history_length": config.history_length,
        "tags_from_queries": config.tags_from_queries,
        "tags_per_item": config.tags_per_item,
        "threshold": config.similarity_threshold,
        "top_k": config.similar_top_k,
        "max_degree": config.similarity_max_degree,
    }


def _last(database: duckdb.DuckDBPyConnection, name: str, values: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    (statement,) = duckdb.extract_statements((SQL / f"{name}.sql").read_text(encoding="utf-8"))
    return database.execute(statement, {key: values[key] for key in statement.named_parameters})

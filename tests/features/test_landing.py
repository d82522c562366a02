"""Landing: whole or not at all, once per interval, bad rows refused by name or set aside with their reason."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.configuration import Configuration, load
from features.contracts import RAW, TIMESTAMP
from features.errors import ArtifactCorrupt, ConfigurationError, ContractViolation, MissingInput
from features.files import sha256_of_file
from features.landing import is_landed, land, landed, raw_tables

ROOT = Path(__file__).resolve().parents[2]
DATE = dt.date(2026, 1, 10)
BROKEN_TEXT = pa.array([b"red \xff dress", b"hat"]).view(pa.string())
BAD: list[tuple[str, str, Any, int, str]] = [
    ("users", "user_id", None, 1, "a value, not null"),
    ("users", "user_id", "x" * 129, 1, "at most 128 characters"),
    ("users", "user_id", "ada", 1, "a key that no earlier row has"),
    ("items", "title", "x" * 1001, 0, "at most 1000 characters"),
    ("items", "attributes", ["red", None], 0, "no null within the list"),
    ("items", "picture", [1.0], 1, "length 2, as the first of the table has"),
    ("items", "picture", [1.0, float("nan")], 1, "finite numbers"),
    ("items", "picture", [1.0, None], 1, "no null within the list"),
    ("items", "picture", [], 0, "at least one number, or null for no vector"),
    ("items", "picture", [], 1, "at least one number, or null for no vector"),
    ("events", "user_id", "nobody", 2, "one of users.user_id"),
    ("events", "item_id", "nothing", 0, "one of items.item_id"),
    ("events", "item_id", None, 0, "a value, not null"),
    ("events", "event_at", None, 1, "a value, not null"),
    ("events", "event_at", dt.datetime(1999, 12, 31, tzinfo=dt.UTC), 1, "at least 2000-01-01 00:00:00+00:00"),
    ("events", "event_at", dt.datetime(1956, 6, 1, tzinfo=dt.UTC), 1, "at least 2000-01-01 00:00:00+00:00"),
    ("events", "query", "x" * 501, 0, "at most 500 characters"),
    ("social_edges", "friend_id", "nobody", 0, "one of users.user_id"),
    ("social_edges", "friend_id", "ada", 0, "another value than user_id"),
]


def at(day: int, hour: int = 12) -> dt.datetime:
    return dt.datetime(2026, 1, day, hour, tzinfo=dt.UTC)


def market() -> dict[str, list[dict[str, Any]]]:
    return {
        "users": [{"user_id": name, "created_at": None} for name in ("ada", "bob", "eve")],
        "items": [
            {
                "item_id": "i1",
                "title": "Linen dress, red",
                "category": "dress",
                "attributes": ["red"],
                "picture": [0, 1],
            },
            {"item_id": "i2", "title": None, "category": "hat", "attributes": None, "picture": [1, 0]},
        ],
        "events": [
            {"user_id": "ada", "item_id": "i1", "event_at": at(8), "query": "red dress"},
            {"user_id": "bob", "item_id": "i2", "event_at": at(9), "query": None},
            {"user_id": "ada", "item_id": "i2", "event_at": at(10, 0), "query": None},
            {"user_id": "eve", "item_id": "i1", "event_at": at(11), "query": None},
        ],
        "social_edges": [{"user_id": "ada", "friend_id": "bob", "created_at": at(1)}],
    }


def write(tables: dict[str, list[dict[str, Any]]], directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name, rows in tables.items():
        columns = [pa.field(c.name, c.type) for c in RAW[name].columns]
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(columns)), directory / f"{name}.parquet")


def configured(tmp_path: Path, **source: Any) -> Configuration:
    section = {"kind": "parquet", "path": "data", **source}
    return Configuration(tmp_path / "attractor.toml", tmp_path / "state", {"source": section})


def landed_files(configuration: Configuration) -> list[str]:
    return sorted(str(p.relative_to(configuration.raw)) for p in configuration.raw.rglob("*.parquet"))


def test_rows_land_as_they_are_and_events_stop_before_the_date(tmp_path: Path) -> None:
    write(market(), tmp_path / "data")
    landing = land(configured(tmp_path), DATE)
    assert landing.rows == {"users": 3, "items": 2, "events": 2, "social_edges": 1}
    assert landing.new_events == 2
    assert landing.quarantined == {}
    assert (landing.first_event, landing.last_event) == (at(8), at(9))
    tables = raw_tables(configured(tmp_path), DATE)
    assert pq.read_table(tables.events[0]).to_pylist() == market()["events"][:2]
    for path in (tables.users, tables.items, tables.social_edges, *tables.events):
        assert pq.read_schema(path).equals(RAW[path.stem].schema)


def test_what_is_landed_is_not_read_again(tmp_path: Path) -> None:
    write(market(), tmp_path / "data")
    configuration = configured(tmp_path)
    first = land(configuration, DATE)
    stamps = {path: path.stat().st_mtime_ns for path in configuration.raw.rglob("*.parquet")}
    (tmp_path / "data" / "events.parquet").write_bytes(b"unreadable now")
    assert land(configuration, DATE) == first == landed(configuration, DATE)
    assert {path: path.stat().st_mtime_ns for path in configuration.raw.rglob("*.parquet")} == stamps


def test_a_later_night_lands_only_the_gap_and_an_earlier_one_no_events(tmp_path: Path) -> None:
    write(market(), tmp_path / "data")
    configuration = configured(tmp_path)
    land(configuration, DATE)
    later = land(configuration, dt.date(2026, 1, 12))
    assert (later.rows["events"], later.new_events) == (4, 2)
    earlier = land(configuration, dt.date(2026, 1, 9))
    assert (earlier.rows["events"], earlier.new_events) == (1, 0)
    names = [path.parent.name for path in raw_tables(configuration, dt.date(2026, 1, 12)).events]
    assert names == ["1970-01-01_2026-01-10", "2026-01-10_2026-01-12"]
    assert [path.parent.name for path in raw_tables(configuration, dt.date(2026, 1, 9)).events] == names[:1]
    assert pq.read_table(raw_tables(configuration, dt.date(2026, 1, 12)).events[1])["user_id"].to_pylist() == [
        "ada",
        "eve",
    ]


@pytest.mark.parametrize(("table", "column", "value", "row", "rule"), BAD)
def test_a_bad_row_is_named_and_nothing_lands(
    tmp_path: Path, table: str, column: str, value: Any, row: int, rule: str
) -> None:
    tables = market()
    tables[table][row][column] = value
    write(tables, tmp_path / "data")
    configuration = configured(tmp_path)
    with pytest.raises(ContractViolation) as refused:
        land(configuration, dt.date(2026, 1, 12))
    violation = refused.value
    assert (violation.table, violation.column, violation.row, violation.rule) == (table, column, row, rule)
    assert landed_files(configuration) == []
    assert not is_landed(configuration, dt.date(2026, 1, 12))


@pytest.mark.parametrize(("table", "column", "value", "row", "rule"), BAD)
def test_a_bad_row_is_set_aside_with_its_reason(
    tmp_path: Path, table: str, column: str, value: Any, row: int, rule: str
) -> None:
    tables = market()
    tables[table][row][column] = value
    write(tables, tmp_path / "data")
    landing = land(configured(tmp_path, on_violation="quarantine"), dt.date(2026, 1, 12))
    assert landing.quarantined[table] == {f"{column}: {rule}": 1}
    file = next(path for path in landing.quarantine_files if path.stem == table)
    (rejected,) = pq.read_table(file).to_pylist()
    assert (rejected["row"], rejected["column"], rejected["rule"]) == (row, column, rule)
    assert rejected["value"] == rejected[column]
    assert set(rejected) == {"row", "column", "rule", "value"} | {c.name for c in RAW[table].columns}
    assert landing.rows[table] == len(tables[table]) - 1


def test_a_row_that_breaks_two_rules_counts_once_for_the_first_column(tmp_path: Path) -> None:
    tables = market()
    tables["events"][1] |= {"event_at": dt.datetime(2001, 1, 1, tzinfo=dt.UTC), "item_id": "nothing"}
    write(tables, tmp_path / "data")
    landing = land(configured(tmp_path, on_violation="quarantine"), DATE)
    assert landing.quarantined == {"events": {"item_id: one of items.item_id": 1}}


def test_what_refers_to_a_rejected_row_is_rejected_too(tmp_path: Path) -> None:
    tables = market()
    tables["items"][1]["picture"] = [1.0, 2.0, 3.0]
    write(tables, tmp_path / "data")
    landing = land(configured(tmp_path, on_violation="quarantine"), DATE)
    assert landing.quarantined["events"] == {"item_id: one of items.item_id": 1}


def test_repeated_keys_keep_the_first_row_and_number_the_others_as_the_source_does(tmp_path: Path) -> None:
    tables = market()
    names = ["ada", None, "bob", "ada", "eve", "bob", "ada"]
    tables["users"] = [{"user_id": name} for name in names]
    write(tables, tmp_path / "data")
    landing = land(configured(tmp_path, on_violation="quarantine"), DATE)
    assert pq.read_table(raw_tables(configured(tmp_path), DATE).users)["user_id"].to_pylist() == ["ada", "bob", "eve"]
    rejected = pq.read_table(landing.quarantine_files[0]).to_pylist()
    assert [(r["row"], r["value"]) for r in rejected] == [(1, None), (3, "ada"), (5, "bob"), (6, "ada")]


def test_a_repeated_edge_is_named_by_its_whole_key(tmp_path: Path) -> None:
    tables = market()
    tables["social_edges"] += [{"user_id": "bob", "friend_id": "ada"}, {"user_id": "ada", "friend_id": "bob"}]
    write(tables, tmp_path / "data")
    with pytest.raises(ContractViolation, match=r"column 'user_id, friend_id', row 2: .*'ada, bob'"):
        land(configured(tmp_path), DATE)


def replaced(tmp_path: Path, table: str, column: str, values: pa.Array | None) -> None:
    """Give one column of a table other values, drop it, or add it."""
    path = tmp_path / "data" / f"{table}.parquet"
    rows = pq.read_table(path)
    rows = rows.drop_columns([column]) if column in rows.column_names else rows
    pq.write_table(rows if values is None else rows.append_column(column, values), path)


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("users", "created_at", pa.array([dt.datetime(2026, 1, 1)] * 3), "a timestamp with a time zone"),  # noqa: DTZ001
        ("events", "event_at", pa.array([dt.datetime(2026, 1, 1)] * 4), "a timestamp with a time zone"),  # noqa: DTZ001
        ("events", "event_at", pa.array(["2026-01-01"] * 4), "type timestamp"),
        ("users", "user_id", pa.array([1.0, 2.0, 3.0]), "type string"),
        ("items", "title", pa.array([1, 2]), "type string"),
        ("items", "picture", pa.array([[1, 2], [1, 2]]), "type list<"),
        ("items", "category", pa.array([["a"], ["b"]]), "type string"),
        ("events", "event_at", pa.array([-(2**63)] * 4, TIMESTAMP), "instants of the years 1 to 9999"),
        ("users", "created_at", pa.array([2**62] * 3, pa.timestamp("ms", "UTC")), "values of type timestamp"),
        ("items", "title", BROKEN_TEXT, "values of type string"),
        ("events", "item_id", None, "a column of type string"),
        ("users", "age", pa.array([1, 2, 3]), "one of the columns user_id, created_at, got 'an unknown column'"),
    ],
)
def test_a_table_of_another_form_is_refused_in_either_mode(
    tmp_path: Path, table: str, column: str, values: pa.Array | None, message: str
) -> None:
    write(market(), tmp_path / "data")
    replaced(tmp_path, table, column, values)
    for mode in ("refuse", "quarantine"):
        configuration = configured(tmp_path, on_violation=mode)
        with pytest.raises(ContractViolation, match=f"table '{table}', column '{column}'.*{message}"):
            land(configuration, DATE)
        assert landed_files(configuration) == []


def test_integer_ids_other_zones_and_absent_nullable_columns_are_taken(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    vienna = pa.timestamp("ms", tz="Europe/Vienna")
    pq.write_table(pa.table({"user_id": [1, 2]}), directory / "users.parquet")
    pq.write_table(pa.table({"item_id": pa.array([7], pa.uint32())}), directory / "items.parquet")
    events = {"user_id": [1], "item_id": [7], "event_at": pa.array([at(9)], TIMESTAMP).cast(vienna)}
    pq.write_table(pa.table(events), directory / "events.parquet")
    pq.write_table(pa.table({"user_id": [2], "friend_id": [1]}), directory / "social_edges.parquet")
    land(configured(tmp_path), DATE)
    tables = raw_tables(configured(tmp_path), DATE)
    (event,) = pq.read_table(tables.events[0]).to_pylist()
    assert event == {"user_id": "1", "item_id": "7", "event_at": at(9), "query": None}
    (item,) = pq.read_table(tables.items).to_pylist()
    assert item == {c.name: "7" if c.name == "item_id" else None for c in RAW["items"].columns}


def test_leftovers_of_a_killed_landing_are_ignored_and_removed(tmp_path: Path) -> None:
    write(market(), tmp_path / "data")
    configuration = configured(tmp_path)
    for left in (configuration.raw / ".tmp-2026-01-10-0a", configuration.raw / "events" / ".tmp-1970-01-01_x-0b"):
        left.mkdir(parents=True)
        (left / "users.parquet").write_bytes(b"half")
    assert not is_landed(configuration, DATE)
    with pytest.raises(MissingInput, match="attractor land --date 2026-01-10"):
        raw_tables(configuration, DATE)
    assert land(configuration, DATE).rows["events"] == 2
    assert not list(configuration.raw.rglob(".tmp-*"))


def test_a_landing_killed_between_events_and_snapshot_goes_on(tmp_path: Path) -> None:
    write(market(), tmp_path / "data")
    configuration = configured(tmp_path)
    whole = land(configuration, DATE)
    snapshot = configuration.raw / DATE.isoformat()
    snapshot.rename(configuration.raw / ".tmp-2026-01-10-0a")
    assert not is_landed(configuration, DATE)
    assert land(configuration, DATE) == whole


def test_a_gap_between_intervals_is_an_error(tmp_path: Path) -> None:
    write(market(), tmp_path / "data")
    configuration = configured(tmp_path)
    land(configuration, DATE)
    events = configuration.raw / "events"
    (events / "1970-01-01_2026-01-10").rename(events / "2026-01-01_2026-01-10")
    with pytest.raises(ArtifactCorrupt, match="expected an interval from 1970-01-01"):
        is_landed(configuration, DATE)


def test_a_state_keeps_to_one_source(tmp_path: Path) -> None:
    write(market(), tmp_path / "data")
    land(configured(tmp_path), DATE)
    other = Configuration(tmp_path / "attractor.toml", tmp_path / "state", {"source": {"kind": "synthetic"}})
    with pytest.raises(ConfigurationError, match="holds the raw tables of another source"):
        land(other, DATE)


def test_two_landings_of_the_same_source_are_the_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for name in ("one", "two"):
        section = {"kind": "synthetic", "users": 200, "items": 100, "days": 9}
        configuration = Configuration(tmp_path / "attractor.toml", tmp_path / name, {"source": section})
        land(configuration, DATE)
        hashes.append([sha256_of_file(configuration.raw / file) for file in landed_files(configuration)])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 4


def test_a_process_killed_while_landing_leaves_nothing_that_counts(tmp_path: Path) -> None:
    file = tmp_path / "attractor.toml"
    file.write_text('state = "state"\n[source]\nkind = "synthetic"\nusers = 9000\nitems = 300\n', encoding="utf-8")
    configuration, date = load(file), dt.date(2026, 2, 1)
    script = """
import datetime as dt, pathlib, sys
from features.configuration import load
from features.landing import land
land(load(pathlib.Path(sys.argv[1])), dt.date(2026, 2, 1))
"""
    with subprocess.Popen([sys.executable, "-c", script, str(file)], cwd=ROOT) as process:
        while process.poll() is None and not list(configuration.raw.glob("events/.tmp-*/events.parquet")):
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(configuration.raw.glob(".tmp-*/users.parquet"))
    assert not is_landed(configuration, date)
    assert land(configuration, date).rows["users"] == 9000
    assert not list(configuration.raw.rglob(".tmp-*"))

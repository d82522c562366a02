"""Late rows: a day is read again until it is final, replaced whole if it changed, and what was built of it is stale."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.build import build, stale_builds
from features.configuration import Configuration
from features.files import sha256_of_file
from features.landed_intervals import Interval, to_read
from features.landing import is_landed, land, raw_tables
from features.windows import DAY, EPOCH
from tests.warehouses import VARIABLE, configured, sorted_rows

TABLES = {
    "events": {"columns": {"event_at": {"column": "at", "unit": "s"}}},
    "users": {"columns": {"created_at": ""}},
    "items": {"columns": {"created_at": ""}},
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Connection]:
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/shop.db")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in (
            "CREATE TABLE users (user_id TEXT)",
            "INSERT INTO users VALUES ('ada'), ('bob')",
            "CREATE TABLE items (item_id TEXT)",
            "INSERT INTO items VALUES ('hat'), ('bag')",
            "CREATE TABLE social_edges (user_id TEXT, friend_id TEXT)",
            "CREATE TABLE events (user_id TEXT, item_id TEXT, at INTEGER)",
        ):
            connection.exec_driver_sql(statement)
        for day in range(1, 15):
            add(connection, day, "ada", "hat")
            add(connection, day, "bob", "hat")
        yield connection


def add(shop: sa.Connection, day: int, user: str, item: str) -> None:
    at = dt.datetime(2026, 1, day, 12, tzinfo=dt.UTC).timestamp()
    shop.exec_driver_sql("INSERT INTO events VALUES (?, ?, ?)", (user, item, int(at)))


def night(day: int) -> dt.date:
    return dt.date(2026, 1, day)


def names(configuration: Configuration, day: int) -> list[str]:
    return [path.parent.name for path in raw_tables(configuration, night(day)).events]


def test_days_that_are_not_final_are_read_again_and_only_what_changed_is_replaced(
    shop: sa.Connection, tmp_path: Path
) -> None:
    configuration = configured(tmp_path, TABLES, lateness="2d")
    assert land(configuration, night(10)).rows["events"] == 18
    assert names(configuration, 10) == [
        "1970-01-01_2026-01-08_2026-01-10",
        "2026-01-08_2026-01-09_2026-01-10",
        "2026-01-09_2026-01-10",
    ]
    before = [sha256_of_file(path) for path in raw_tables(configuration, night(10)).events]
    add(shop, 8, "ada", "bag")
    add(shop, 8, "ada", "bag")
    add(shop, 3, "ada", "bag")  # later than declared
    shop.exec_driver_sql("CREATE TABLE turned AS SELECT * FROM events ORDER BY user_id DESC, at DESC")
    shop.exec_driver_sql("DROP TABLE events")
    shop.exec_driver_sql("ALTER TABLE turned RENAME TO events")  # the same rows in another order
    landing = land(configuration, night(11))
    assert landing.late == {"2026-01-08_2026-01-09": {"added": 2, "gone": 0}}
    assert (landing.rows["events"], landing.new_events) == (22, 2)
    after = [sha256_of_file(path) for path in raw_tables(configuration, night(11)).events]
    assert [old == new for old, new in zip(before, after, strict=False)] == [True, False, True]
    assert names(configuration, 11)[1:] == [
        "2026-01-08_2026-01-09_2026-01-11",
        "2026-01-09_2026-01-10_2026-01-11",
        "2026-01-10_2026-01-11",
    ]


def test_rows_that_are_gone_go_and_a_final_day_is_left_alone(shop: sa.Connection, tmp_path: Path) -> None:
    configuration = configured(tmp_path, TABLES, lateness="36h")
    land(configuration, night(10))
    shop.exec_driver_sql("DELETE FROM events WHERE user_id = 'bob'")
    assert land(configuration, night(11)).late == {
        "2026-01-08_2026-01-09": {"added": 0, "gone": 1},
        "2026-01-09_2026-01-10": {"added": 0, "gone": 1},
    }
    assert land(configuration, night(12)).late == {}
    bobs = [row["event_at"].day for row in events(configuration, 12) if row["user_id"] == "bob"]
    assert bobs == list(range(1, 8))


def events(configuration: Configuration, day: int) -> list[dict[str, object]]:
    rows = sorted_rows(*raw_tables(configuration, night(day)).events)
    return sorted(rows, key=lambda row: (row["event_at"], row["user_id"]))


def test_an_older_night_reads_nothing_again(shop: sa.Connection, tmp_path: Path) -> None:
    configuration = configured(tmp_path, TABLES, lateness="2d")
    land(configuration, night(10))
    add(shop, 8, "ada", "bag")
    before = names(configuration, 10)
    assert land(configuration, night(9)).late == {}
    assert land(configuration, night(10)).late == {}
    assert names(configuration, 10) == before


def test_without_lateness_nothing_is_read_again(shop: sa.Connection, tmp_path: Path) -> None:
    configuration = configured(tmp_path, TABLES)
    land(configuration, night(10))
    add(shop, 9, "ada", "bag")
    assert land(configuration, night(11)).late == {}
    assert names(configuration, 11) == ["1970-01-01_2026-01-10", "2026-01-10_2026-01-11"]


def test_what_was_built_of_a_replaced_day_is_stale_and_built_again(shop: sa.Connection, tmp_path: Path) -> None:
    configuration = configured(tmp_path, TABLES, lateness="2d")
    for day in (9, 10):
        land(configuration, night(day))
        build(configuration, night(day))
    assert stale_builds(configuration) == []
    add(shop, 9, "ada", "bag")
    land(configuration, night(11))
    assert stale_builds(configuration) == [night(10)]
    assert stale_builds(configuration, since=night(10)) == []
    assert build(configuration, night(10)) == build(configuration, night(10))
    assert stale_builds(configuration) == []


def test_a_landing_killed_between_two_replacements_goes_on(shop: sa.Connection, tmp_path: Path) -> None:
    configuration = configured(tmp_path, TABLES, lateness="3d")
    land(configuration, night(10))
    add(shop, 8, "ada", "bag")
    add(shop, 9, "ada", "bag")
    whole = land(configuration, night(11))
    raw = configuration.raw
    (raw / "2026-01-11").rename(raw / ".tmp-2026-01-11-0a")
    (raw / "events" / "2026-01-10_2026-01-11").rename(raw / "events" / ".tmp-2026-01-10_2026-01-11-0b")
    shutil.rmtree(raw / "events" / "2026-01-09_2026-01-10_2026-01-11")  # the reading before is still there
    assert not is_landed(configuration, night(11))
    again = land(configuration, night(11))
    assert again.rows == whole.rows
    assert len(events(configuration, 11)) == 22
    assert not list(raw.rglob(".tmp-*"))


@given(
    lateness=st.integers(0, 4),
    nights=st.lists(st.integers(1, 14), min_size=1, max_size=14, unique=True),
    arrivals=st.lists(st.tuples(st.integers(0, 13), st.floats(0, 1)), max_size=12),
)
@settings(max_examples=80, deadline=None)
def test_no_row_that_is_as_late_as_declared_is_ever_missed(
    lateness: int, nights: list[int], arrivals: list[tuple[int, float]]
) -> None:
    """Nights in any order but read when they are due; a row of day d arrives by the end of d plus the lateness."""
    start, folder = dt.date(2026, 1, 1), Path("raw")
    rows = [(start + day * DAY, start + (day + 1) * DAY, share * lateness) for day, share in arrivals]
    held: dict[tuple[dt.date, dt.date], tuple[Interval, set[int]]] = {}
    now = 0
    for number in nights:
        now, date = max(now, number), start + number * DAY
        landed = [interval for interval, _ in sorted(held.values(), key=lambda entry: entry[0].start)]
        for interval in to_read(landed, folder, date, lateness=lateness * DAY, closed=None):
            there = {
                index
                for index, (day, end, late) in enumerate(rows)
                if interval.start <= day < interval.end and (end - start) / DAY + late <= now
            }
            held[interval.start, interval.end] = interval, there
    ends = sorted(span for span in held)
    assert [first for first, _ in ends] == [EPOCH.date(), *(last for _, last in ends[:-1])]
    found = set().union(*(there for _, there in held.values()))
    last = start + max(nights) * DAY
    assert found >= {index for index, (_, end, _) in enumerate(rows) if end + lateness * DAY <= last}

"""A warehouse lands as the same rows in Parquet do; what does not fit is named; nothing is half-landed."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from features.configuration import Configuration
from features.contracts import RAW
from features.errors import ConfigurationError, ContractViolation, SourceLost
from features.landing import is_landed, land, landed, raw_tables
from features.sources import SourceConfig, open_source
from features.sources.market import Market
from features.sources.sql import SqlReader, SqlSource
from features.sources.synthetic import write_market
from features.windows import EPOCH, Window, between, midnight
from tests.bad_warehouses import BAD_MAPPINGS, BAD_ROWS
from tests.postgresql_server import PASSWORD, new_database
from tests.warehouses import POSTGRESQL, VARIABLE, configured, fill, sorted_rows

FIRST = dt.date(2026, 1, 1)
DATE = dt.date(2026, 1, 10)
EVERYTHING = Window(EPOCH, midnight(dt.date(2100, 1, 1)))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("market") / "data"
    write_market(Market(users=60, items=40, days=12, start=FIRST, seed=3), directory)
    return directory


@pytest.fixture(scope="module")
def filled(postgresql: sa.URL, market: Path) -> Iterator[sa.URL]:
    """The shop in PostgreSQL as every test finds it."""
    with new_database(postgresql) as url:
        fill(url, market)
        yield url


@pytest.fixture
def shop(postgresql: sa.URL, filled: sa.URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Connection]:
    """A copy of it, its URL in the environment, and a connection that changes it, statement by statement."""
    with new_database(postgresql, template=filled.database) as url:
        monkeypatch.setenv(VARIABLE, url.render_as_string(hide_password=False))
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            yield connection


@pytest.fixture(params=["postgresql", "sqlite"])
def tables(request: pytest.FixtureRequest, tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The mapping of the shop in PostgreSQL, and of the same in SQLite."""
    if request.param == "postgresql":
        request.getfixturevalue("shop")
        return mapping()
    url = sa.URL.create("sqlite", database=str(tmp_path / "shop.db"))
    monkeypatch.setenv(VARIABLE, url.render_as_string())
    return fill(url, market)


def mapping(**events: Any) -> dict[str, Any]:
    """The shop's mapping in PostgreSQL, with columns of events changed."""
    tables = deepcopy(dict(POSTGRESQL))
    tables["events"]["columns"] |= events
    return tables


def source_of(configuration: Configuration) -> SqlSource:
    source = open_source(configuration.section("source", SourceConfig), configuration.file.parent)
    assert isinstance(source, SqlSource)
    return source


def files(configuration: Configuration) -> list[Path]:
    return sorted(configuration.raw.rglob("*.parquet"))


def test_a_warehouse_lands_as_the_same_rows_in_parquet_do(tables: Any, market: Path, tmp_path: Path) -> None:
    configuration = configured(tmp_path, tables)
    section = {"source": {"kind": "parquet", "path": str(market)}}
    plain = Configuration(tmp_path / "attractor.toml", tmp_path / "plain", section)
    for date in (DATE, dt.date(2026, 1, 11)):
        expected, found = land(plain, date), land(configuration, date)
        assert found.rows == expected.rows
        assert found.rows["events"] > 100
        assert found.new_events == expected.new_events
        ours, others = raw_tables(configuration, date), raw_tables(plain, date)
        for name in ("users", "items", "social_edges"):
            assert sorted_rows(getattr(ours, name)) == sorted_rows(getattr(others, name))
        assert sorted_rows(*ours.events) == sorted_rows(*others.events)


def test_windows_are_pushed_down_as_bound_values(tables: Any, market: Path, tmp_path: Path) -> None:
    source = source_of(configured(tmp_path, tables))
    sent: list[tuple[str, str]] = []

    def listen(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        sent.append((statement, str(parameters)))

    window = between(dt.date(2026, 1, 8), DATE)
    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        with source.reading() as reader:
            read = pa.Table.from_batches(rows.batch for rows in reader.events(window))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    statement, parameters = sent[-1]
    assert "clicks" in statement
    assert "2026" not in statement
    assert "2026" in parameters
    times = read["event_at"].to_pylist()
    margin = dt.timedelta(days=0 if "schema" in tables["events"] else 1)
    assert min(times) >= window.start - margin
    assert max(times) < window.end + margin
    assert 0 < len(times) < len(sorted_rows(market / "events.parquet"))


def test_rows_come_by_a_cursor_of_the_server_batch_by_batch(
    shop: sa.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.sources.sql.BATCH_ROWS", 100)
    with source_of(configured(tmp_path, mapping())).reading() as reader:
        stream = reader.events(EVERYTHING)
        first, second = next(stream), next(stream)
        (cursors,) = reader.connection.exec_driver_sql(
            "SELECT count(*) FROM pg_cursors WHERE statement ~ 'clicks'"
        ).one()
        rest = list(stream)
    assert cursors == 1
    assert second.first_row == first.batch.num_rows
    assert all(90 < rows.batch.num_rows <= 100 for rows in [first, second, *rest[:-1]])


def test_rows_that_carry_lists_come_in_smaller_batches(
    shop: sa.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.sources.sql.LIST_ROWS", 16)
    with source_of(configured(tmp_path, mapping())).reading() as reader:
        assert [rows.batch.num_rows for rows in reader.rows("items")] == [16, 16, 8]
        assert [rows.batch.num_rows for rows in reader.rows("users")] == [60]


def test_all_tables_are_of_one_snapshot(shop: sa.Connection, tmp_path: Path) -> None:
    configuration = configured(tmp_path, mapping())
    with source_of(configuration).reading() as reader:
        users = sum(rows.batch.num_rows for rows in reader.rows("users"))
        shop.exec_driver_sql("INSERT INTO shop.customers VALUES (99999, now())")
        shop.exec_driver_sql("INSERT INTO shop.clicks VALUES (99999, 'i000001', '2026-01-09 12:00Z', NULL, false)")
        events = pa.Table.from_batches(rows.batch for rows in reader.events(EVERYTHING))
        assert "u0099999" not in events["user_id"].to_pylist()
    assert users == 60
    assert land(configuration, DATE).rows["users"] == 61  # the next transaction knows both


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO shop.customers VALUES (99999, now())",
        "DELETE FROM shop.clicks WHERE customer = (SELECT min(customer) FROM shop.clicks)",
    ],
)
def test_without_a_snapshot_a_change_under_way_is_noticed(shop: sa.Connection, tmp_path: Path, change: str) -> None:
    configuration = configured(tmp_path, mapping(), isolation="READ COMMITTED")
    with (
        pytest.raises(SourceLost, match=r"table shop\.\w+ changed while it was read: .*trying again may do"),
        source_of(configuration).reading() as reader,
    ):
        for stream in (reader.rows("users"), reader.events(EVERYTHING)):
            list(stream)
        shop.exec_driver_sql(change)
    land(configuration, DATE)
    assert is_landed(configuration, DATE)


def test_a_row_that_refers_to_one_that_came_meanwhile_is_no_violation_but_a_change(
    shop: sa.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = configured(tmp_path, mapping(), isolation="READ COMMITTED")
    read = SqlReader.events

    def later(reader: SqlReader, window: Window) -> Any:
        shop.exec_driver_sql("INSERT INTO shop.customers VALUES (99999, now())")
        shop.exec_driver_sql("INSERT INTO shop.clicks VALUES (99999, 'i000001', '2026-01-09 12:00Z', NULL, false)")
        return read(reader, window)

    monkeypatch.setattr(SqlReader, "events", later)
    with pytest.raises(SourceLost, match=r"shop\.customers changed while it was read"):
        land(configuration, DATE)
    assert files(configuration) == []


def test_a_lost_connection_lands_nothing_and_the_next_try_everything(
    shop: sa.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend is terminated by a row in the middle of the events, after three tables and some events were read."""
    monkeypatch.setattr("features.sources.sql.BATCH_ROWS", 50)
    shop.exec_driver_sql(
        "UPDATE shop.clicks SET phrase = 'fatal' WHERE clicked = (SELECT max(clicked) FROM shop.clicks)"
    )
    die = "CASE phrase WHEN 'fatal' THEN pg_terminate_backend(pg_backend_pid())::text ELSE phrase END"
    broken = configured(tmp_path, mapping(query={"sql": die}))
    with pytest.raises(SourceLost, match=r"table shop\.clicks, after \d+ rows: .*trying again may do") as lost:
        land(broken, dt.date(2026, 1, 20))
    assert "after 0 rows" not in str(lost.value)
    assert files(broken) == []
    assert not list(broken.raw.rglob("landing.json"))
    whole = configured(tmp_path, mapping())
    assert land(whole, dt.date(2026, 1, 20)).rows["events"] > 100
    assert not list(whole.raw.rglob(".tmp-*"))


def test_a_warehouse_that_is_down_is_said_so_without_its_password(
    tmp_path: Path, postgresql: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (
        postgresql.set(port=1),
        postgresql.set(password=PASSWORD + "wrong"),
        postgresql.set(database="nowhere"),
    ):
        monkeypatch.setenv(VARIABLE, url.render_as_string(hide_password=False))
        with (
            pytest.raises(SourceLost, match=r"postgresql 127\.0\.0\.1:\d+/") as refused,
            source_of(configured(tmp_path, mapping())).reading(),
        ):
            pass
        assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(("columns", "message"), BAD_MAPPINGS)
def test_a_mapping_that_does_not_fit_names_table_and_column(
    shop: sa.Connection, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    configuration = configured(tmp_path, mapping(**columns))
    with (
        pytest.raises(ConfigurationError, match=message),
        source_of(configuration).reading() as reader,
    ):
        list(reader.events(EVERYTHING))


def test_a_table_that_is_not_there_is_named_with_those_that_are(shop: sa.Connection, tmp_path: Path) -> None:
    tables = mapping() | {"users": {"table": "customer", "schema": "shop"}}
    with pytest.raises(
        ConfigurationError, match=r"no table shop\.customer; it has shop\.customers, shop\.clicks, shop\.follows"
    ):
        land(configured(tmp_path, tables), DATE)


@pytest.mark.parametrize(("statement", "columns", "message"), BAD_ROWS)
def test_a_row_that_does_not_fit_is_named_nothing_lands_and_a_retry_does(
    shop: sa.Connection, tmp_path: Path, statement: str, columns: dict[str, Any], message: str
) -> None:
    shop.exec_driver_sql("CREATE SCHEMA kept; CREATE TABLE kept.clicks AS TABLE shop.clicks")
    shop.exec_driver_sql(statement)
    configuration = configured(tmp_path, mapping(**columns))
    with pytest.raises((ContractViolation, ConfigurationError), match=message):
        land(configuration, dt.date(2026, 1, 13))
    assert files(configuration) == []
    assert not is_landed(configuration, dt.date(2026, 1, 13))
    if "clicks" in statement or columns:
        shop.exec_driver_sql("DROP TABLE shop.clicks; ALTER TABLE kept.clicks SET SCHEMA shop")
    else:
        shop.exec_driver_sql(
            "DELETE FROM shop.customers WHERE number IS NULL OR ctid NOT IN "
            "(SELECT min(ctid) FROM shop.customers GROUP BY number); "
            "DELETE FROM shop.follows WHERE who IS NULL"
        )
    assert land(configured(tmp_path, mapping()), dt.date(2026, 1, 13)).quarantined == {}


def events_of(tables: dict[str, Any], window: Window) -> list[dict[str, Any]]:
    with source_of(configured(Path("nowhere"), tables)).reading() as reader:
        rows = pa.Table.from_batches(rows.batch for rows in reader.events(window)).to_pylist()
    return sorted(rows, key=lambda row: (row["event_at"], row["user_id"], row["item_id"]))


def test_naive_times_are_read_in_the_zone_that_the_mapping_names(shop: sa.Connection) -> None:
    shop.exec_driver_sql("ALTER TABLE shop.clicks ADD local timestamp")
    shop.exec_driver_sql("UPDATE shop.clicks SET local = clicked AT TIME ZONE 'Asia/Tokyo'")
    tokyo, utc = mapping(event_at={"column": "local", "zone": "Asia/Tokyo"}), mapping()
    assert events_of(tokyo, EVERYTHING) == events_of(utc, EVERYTHING)
    window = between(dt.date(2026, 1, 8), DATE)
    found, expected = events_of(tokyo, window), events_of(utc, window)
    inside = [row for row in found if window.start <= row["event_at"] < window.end]
    assert inside == expected  # a day more on either side is asked for, because clocks are turned back
    assert len(expected) < len(found) < len(events_of(utc, EVERYTHING))


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_numbers_since_1970_are_read_in_their_unit(shop: sa.Connection, unit: str, factor: int) -> None:
    shop.exec_driver_sql("UPDATE shop.clicks SET clicked = date_trunc('second', clicked)")
    shop.exec_driver_sql(
        f"ALTER TABLE shop.clicks ADD number bigint GENERATED ALWAYS AS (extract(epoch FROM clicked AT TIME ZONE 'UTC')"
        f"::bigint * {factor}) STORED"
    )
    numbers = mapping(event_at={"column": "number", "unit": unit})
    for window in (EVERYTHING, between(dt.date(2026, 1, 8), DATE)):
        found = events_of(numbers, window)
        assert found == events_of(mapping(), window)
        assert found


def test_names_are_quoted_and_expressions_are_the_users_own(shop: sa.Connection, tmp_path: Path) -> None:
    shop.exec_driver_sql('ALTER TABLE shop.clicks RENAME TO "odd ""name""; DROP TABLE shop.products; --"')
    shop.exec_driver_sql(
        'ALTER TABLE shop."odd ""name""; DROP TABLE shop.products; --" RENAME sku TO "select %%(a)s:b"'
    )
    tables = mapping(item_id="select %(a)s:b", query={"sql": "CASE WHEN phrase LIKE '%e%' THEN phrase::text END"})
    tables["events"]["table"] = 'odd "name"; DROP TABLE shop.products; --'
    configuration = configured(tmp_path, tables)
    assert land(configuration, DATE).rows["items"] == 40
    queries = {row["query"] for row in sorted_rows(*raw_tables(configuration, DATE).events)} - {None}
    assert queries
    assert all("e" in query for query in queries)


def test_a_reader_cannot_write(shop: sa.Connection, tmp_path: Path) -> None:
    tables = mapping(query={"sql": "(WITH gone AS (SELECT 1) SELECT nextval('shop.numbers')::text)"})
    shop.exec_driver_sql("CREATE SEQUENCE shop.numbers")
    with pytest.raises(ConfigurationError, match="read-only transaction"):
        land(configured(tmp_path, tables), DATE)


def test_uuids_are_ids_and_columns_of_the_contracts_names_need_no_mapping(shop: sa.Connection, tmp_path: Path) -> None:
    shop.exec_driver_sql(
        """
        CREATE VIEW users AS SELECT md5(number::text)::uuid AS user_id, registered AS created_at FROM shop.customers;
        CREATE VIEW items AS SELECT sku AS item_id, '[0, 1.5]' AS picture, 3 AS title FROM shop.products;
        CREATE VIEW events AS
        SELECT md5(customer::text)::uuid AS user_id, sku AS item_id, clicked AS event_at FROM shop.clicks;
        CREATE VIEW social_edges AS SELECT NULL::uuid AS user_id, NULL::uuid AS friend_id WHERE false
        """
    )
    configuration = configured(tmp_path, {"items": {"columns": {"title": ""}}})
    assert land(configuration, DATE).rows["social_edges"] == 0
    tables = raw_tables(configuration, DATE)
    assert len(sorted_rows(tables.users)[0]["user_id"]) == 36
    assert sorted_rows(tables.items)[0] | {"item_id": ""} == {
        column.name: {"item_id": "", "picture": [0.0, 1.5]}.get(column.name) for column in RAW["items"].columns
    }


def test_quarantine_sets_bad_rows_aside(shop: sa.Connection, tmp_path: Path) -> None:
    shop.exec_driver_sql("INSERT INTO shop.clicks VALUES (NULL, 'i000001', '2026-01-05 12:00Z', NULL, false)")
    landing = land(configured(tmp_path, mapping(), on_violation="quarantine"), DATE)
    assert landing.quarantined == {"events": {"user_id: a value, not null": 1}}
    assert landed(configured(tmp_path, mapping()), DATE) == landing


def test_another_database_or_table_is_another_source_and_a_mapping_another_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(url: str, tables: dict[str, Any]) -> SqlSource:
        monkeypatch.setenv(VARIABLE, url)
        return source_of(configured(tmp_path, tables))

    one = made("postgresql://a:b@one/shop", mapping())
    moved = made("postgresql://c:d@two:5433/shop", mapping())
    assert (one.identity, one.fingerprint()) == (moved.identity, moved.fingerprint())
    assert made("postgresql://a:b@one/other", mapping()).identity != one.identity
    assert made("postgresql://a:b@one/shop", mapping() | {"users": {"table": "people"}}).identity != one.identity
    changed = made("postgresql://a:b@one/shop", mapping(query=""))
    assert changed.identity == one.identity
    assert changed.fingerprint() != one.fingerprint()


def test_an_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/nothing.db")
    with pytest.raises(ConfigurationError, match=r"expected an SQLite file at .*nothing\.db"):
        land(configured(tmp_path, {}), DATE)
    assert not (tmp_path / "nothing.db").exists()


def test_sqlite_finds_undated_events_by_the_index_and_remembers_no_row(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/shop.db")
    configuration = configured(tmp_path, fill(sa.make_url(f"sqlite:///{tmp_path}/shop.db"), market))
    with source_of(configuration).reading() as reader:
        asked = reader.queries["events"].within(between(FIRST, DATE), sqlite=True)
        sql = asked.compile(reader.connection, compile_kwargs={"literal_binds": True})
        plan = [row.detail for row in reader.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
    assert "MULTI-INDEX OR" not in plan
    assert sum("USING INDEX" in step for step in plan) == 2
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.executescript("UPDATE clicks SET clicked = NULL WHERE rowid = 1")
    with pytest.raises(ContractViolation, match=r"column 'event_at', row \d+: expected a value, not null, got None"):
        land(configuration, DATE)

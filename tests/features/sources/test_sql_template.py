"""`attractor init --source sql` writes what can be filled in, and what it writes works where the names are the same."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from export import stages
from export.warehouse_template import warehouse_template
from features.configuration import load
from features.contracts import RAW
from features.errors import ConfigurationError
from features.landing import landed
from features.sources import SourceConfig
from features.sources.sql_mapping import ColumnMapping
from tests.command_line import attractor

DATE = dt.date(2026, 1, 10)


def test_the_template_names_every_table_and_column(tmp_path: Path) -> None:
    file = tmp_path / "attractor.toml"
    file.write_text(warehouse_template("SHOP_URL"), encoding="utf-8")
    source = load(file).section("source", SourceConfig)
    assert source.variable == "SHOP_URL"
    assert source.late_by == dt.timedelta(days=2)
    assert {name: list(mapping.columns) for name, mapping in source.tables.items()} == {
        name: [column.name for column in RAW[name].columns] for name in ("users", "items", "events", "social_edges")
    }


def test_the_example_in_the_docs_is_a_mapping(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "sql-source.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "attractor.toml"
    file.write_text(f'state = "state"\n[source]\nkind = "sql"\nurl_variable = "SHOP_URL"\n{example}', encoding="utf-8")
    mapping = load(file).section("source", SourceConfig).tables["events"]
    assert mapping.place(RAW["events"]) == "shop.clicks"
    assert mapping.columns["event_at"] == ColumnMapping(column="clicked", zone="UTC")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('tabel = "clicks"', "tabel"),
        ('columns = { event_at = { colunm = "clicked" } }', "colunm"),
        ('columns = { event_at = { column = "clicked", sql = "now()" } }', "either `column` or `sql`"),
        ('columns = { event_at = { column = "clicked", zone = "Mars" } }', "a time zone such as Europe/Vienna"),
        ('columns = { event_at = { column = "clicked", zone = "UTC", unit = "s" } }', "`zone` or `unit`, not both"),
        ('columns = { event_at = { column = "clicked", unit = "h" } }', "unit"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_by_its_place(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "attractor.toml"
    lines = ['state = "state"', "[source]", 'kind = "sql"', 'url_variable = "A"', "[source.tables.events]", line]
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=rf"(?s)\[source\].*tables\.events.*{message}"):
        load(file).section("source", SourceConfig)


def test_what_init_writes_lands_a_warehouse_of_the_contracts_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "attractor.toml"
    assert attractor("init", "--source", "sql", "--url-variable", "SHOP_URL", "--config", str(file)) == 0
    assert "fill in its tables, and the variable SHOP_URL" in capsys.readouterr().out
    text = file.read_text(encoding="utf-8")
    with_zone = '{ column = "created_at", zone = "UTC" }'
    text = text.replace('created_at = "created_at"', f"created_at = {with_zone}")
    text = text.replace('event_at = "event_at"', 'event_at = { column = "event_at", zone = "UTC" }')
    file.write_text(text, encoding="utf-8")
    shop(tmp_path / "shop.db")
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/shop.db")
    assert stages.land(load(file), DATE).figures["rows"] == {"users": 1, "items": 1, "events": 1, "social_edges": 0}
    path = pq.read_table(load(file).raw / "events" / f"2026-01-09_{DATE}" / "events.parquet")
    assert path.to_pylist() == [
        {"user_id": "7", "item_id": "hat", "event_at": dt.datetime(2026, 1, 9, 12, tzinfo=dt.UTC), "query": None}
    ]


def test_a_scheduler_hands_over_the_connection_that_the_source_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(tmp_path / "shop.db")
    zone = {"zone": "UTC"}
    tables = {
        "users": {"columns": {"created_at": {"column": "created_at", **zone}}},
        "items": {"columns": {"created_at": {"column": "created_at", **zone}}},
        "events": {"columns": {"event_at": {"column": "event_at", **zone}}},
    }
    file = tmp_path / "attractor.toml"
    lines = ['state = "state"', "[source]", 'kind = "sql"', 'connection = "shop"']
    for name, table in tables.items():
        lines += [f"[source.tables.{name}.columns]"]
        lines += [
            f'{column} = {{ column = "{source["column"]}", zone = "UTC" }}'
            for column, source in table["columns"].items()
        ]
    file.write_text("\n".join(lines), encoding="utf-8")
    asked: list[str] = []

    def uri_of(name: str) -> str:
        asked.append(name)
        return json.dumps({"conn_type": "sqlite", "schema": f"{tmp_path}/shop.db"})

    monkeypatch.setenv("AIRFLOW_CONN_SHOP", "")  # so that what is set is taken back
    monkeypatch.delenv("AIRFLOW_CONN_SHOP")
    for _ in range(2):
        stages.land(load(file), DATE, uri_of=uri_of)
    assert asked == ["shop"]
    assert landed(load(file), DATE).rows["events"] == 1


def shop(file: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{file}", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in (
            "CREATE TABLE users (user_id INTEGER, created_at TIMESTAMP)",
            "INSERT INTO users VALUES (7, NULL)",
            "CREATE TABLE items (item_id TEXT, title TEXT, category TEXT, created_at TIMESTAMP)",
            "INSERT INTO items VALUES ('hat', 'Straw hat', NULL, '2026-01-01 08:00:00')",
            "CREATE TABLE events (user_id INTEGER, item_id TEXT, event_at TIMESTAMP)",
            "INSERT INTO events VALUES (7, 'hat', '2026-01-09T12:00:00')",
            "CREATE VIEW social_edges AS SELECT user_id, user_id AS friend_id FROM users WHERE false",
        ):
            connection.exec_driver_sql(statement)


def test_init_lists_what_the_warehouse_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop(tmp_path / "shop.db")
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/shop.db")
    file = tmp_path / "attractor.toml"
    assert attractor("init", "--source", "sql", "--url-variable", "SHOP_URL", "--config", str(file)) == 0
    _, listed = file.read_text(encoding="utf-8").split("# Tables that the warehouse had when this was written:\n")
    assert listed.splitlines() == [
        "#   events: user_id INTEGER, item_id TEXT, event_at TIMESTAMP without a zone",
        "#   items: item_id TEXT, title TEXT, category TEXT, created_at TIMESTAMP without a zone",
        "#   social_edges: user_id INTEGER, friend_id INTEGER",
        "#   users: user_id INTEGER, created_at TIMESTAMP without a zone",
    ]
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/gone.db")
    assert attractor("init", "--source", "sql", "--url-variable", "SHOP_URL", "--config", str(file)) == 1
    assert "gone.db" in capsys.readouterr().err


def test_everything_that_does_not_fit_is_said_at_once_and_can_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(tmp_path / "shop.db")
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/shop.db")
    file = tmp_path / "attractor.toml"
    attractor("init", "--source", "sql", "--url-variable", "SHOP_URL", "--config", str(file))
    fits = file.read_text(encoding="utf-8").replace(
        '_at = "created_at"', '_at = { column = "created_at", zone = "UTC" }'
    )
    fits = fits.replace('"event_at"  ', '{ column = "event_at", zone = "UTC" }')
    file.write_text(fits.replace('"users"', '"people"').replace('"items"', '"things"'), encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        stages.land(load(file), DATE)
    assert [line.split(";")[0] for line in str(raised.value).splitlines()] == [
        "[source.tables.users] the warehouse has no table people",
        "[source.tables.items] the warehouse has no table things",
    ]
    file.write_text(fits, encoding="utf-8")  # nothing was landed, so that it is no other source
    assert stages.land(load(file), DATE).figures["rows"]["events"] == 1

"""Rows that are easy to get wrong, from the source to the feature tables: what `docs/own-data.md` promises of each."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.build import build
from features.configuration import Configuration
from features.contracts import FEATURES, RAW
from features.errors import ContractViolation
from features.landing import Landing, land
from features.partitions import read_partition

DATE = dt.date(2026, 1, 10)
Tables = dict[str, list[dict[str, Any]]]
Views = dict[str, dict[str, dict[str, Any]]]  # view, key, row


def event(user: str, item: str, day: int, query: str | None = None) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event_at": dt.datetime(2026, 1, day, tzinfo=dt.UTC), "query": query}


def edge(user: str, friend: str) -> dict[str, Any]:
    return {"user_id": user, "friend_id": friend}


def market() -> Tables:
    """`ada` and `bob` act and are friends; `cyd` only has friends, `dan` only acts, `eve` does nothing."""
    return {
        "users": [{"user_id": user} for user in ("ada", "bob", "cyd", "dan", "eve")],
        "items": [{"item_id": item} for item in ("dress", "hat", "unsold")],
        "events": [event("ada", "dress", 1), event("bob", "dress", 2), event("bob", "hat", 3), event("dan", "hat", 4)],
        "social_edges": [edge("ada", "bob"), edge("cyd", "ada")],
    }


def night(tables: Tables, directory: Path, **source: Any) -> tuple[Landing, Views]:
    """The landing and the feature rows of DATE."""
    (directory / "data").mkdir()
    for name, rows in tables.items():
        schema = pa.schema([pa.field(c.name, c.type) for c in RAW[name].columns])
        pq.write_table(pa.Table.from_pylist(rows, schema), directory / "data" / f"{name}.parquet")
    section = {"kind": "parquet", "path": "data", **source}
    configuration = Configuration(directory / "attractor.toml", directory / "state", {"source": section})
    landing = land(configuration, DATE)
    build(configuration, DATE)
    views = {}
    for view, table in FEATURES.items():
        rows = read_partition(configuration, view, DATE).to_pylist()
        views[view] = {row[table.key[0]]: row for row in rows}
    return landing, views


def friends(views: Views) -> dict[str, list[str]]:
    return {user: row["friend_ids"] for user, row in views["social_graph"].items()}


FRIENDS = {"ada": ["bob", "cyd"], "bob": ["ada"], "cyd": ["ada"], "dan": [], "eve": []}


def test_repeated_events_stay_in_histories_and_count_once_in_graphs(tmp_path: Path) -> None:
    tables = market()
    tables["events"] += [event("ada", "dress", 1), event("ada", "dress", 5, "red")]
    landing, views = night(tables, tmp_path)
    assert landing.rows["events"] == 6
    history = views["user_history"]["ada"]
    assert history["item_ids"] == ["dress"] * 3
    assert history["queries"] == ["", "", "red"]
    assert history["user_event_count"] == history["history_length"] == 3
    assert views["item_catalog"]["dress"]["item_event_count"] == 4
    audience = views["item_audience"]["dress"]
    assert (audience["consumer_ids"], audience["consumer_count"]) == (["ada", "bob"], 2)
    assert views["social_graph"]["ada"]["similar_user_ids"] == ["bob"]


def test_both_directions_are_one_friendship(tmp_path: Path) -> None:
    tables = market()
    tables["social_edges"] += [edge("bob", "ada"), edge("ada", "cyd")]
    landing, views = night(tables, tmp_path)
    assert landing.rows["social_edges"] == 4
    assert landing.social_alignment is not None
    assert landing.social_alignment["pairs"] == 2
    assert friends(views) == FRIENDS
    assert views["social_graph"]["ada"]["friend_count"] == 2


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (edge("ada", "bob"), "user_id, friend_id: a key that no earlier row has"),
        (edge("eve", "eve"), "friend_id: another value than user_id"),
        (edge("ada", "nobody"), "friend_id: one of users.user_id"),
        (edge("nobody", "ada"), "user_id: one of users.user_id"),
    ],
    ids=["repeated friend row", "self-edge", "edge to an unknown id", "edge from an unknown id"],
)
def test_bad_edges_are_refused_by_name_or_set_aside(tmp_path: Path, row: dict[str, Any], rule: str) -> None:
    tables = market()
    tables["social_edges"].append(row)
    with pytest.raises(ContractViolation) as refused:
        night(tables, tmp_path)
    assert (refused.value.table, refused.value.row) == ("social_edges", 2)
    assert not list((tmp_path / "state").rglob("*.parquet"))
    (tmp_path / "again").mkdir()
    landing, views = night(tables, tmp_path / "again", on_violation="quarantine")
    assert landing.quarantined == {"social_edges": {rule: 1}}
    assert friends(views) == FRIENDS


@pytest.mark.parametrize("row", [event("nobody", "hat", 5), event("ada", "nothing", 5)], ids=["user", "item"])
def test_events_of_unknown_ids_are_refused_by_name_or_set_aside(tmp_path: Path, row: dict[str, Any]) -> None:
    tables = market()
    tables["events"].append(row)
    with pytest.raises(ContractViolation, match=r"table 'events'.*row 4"):
        night(tables, tmp_path)
    (tmp_path / "again").mkdir()
    landing, views = night(tables, tmp_path / "again", on_violation="quarantine")
    assert landing.rows["events"] == 4
    assert set(views["user_history"]) == {"ada", "bob", "dan"}


def test_friends_without_history_are_friends(tmp_path: Path) -> None:
    _, views = night(market(), tmp_path)
    assert "cyd" not in views["user_history"]
    assert friends(views) == FRIENDS
    assert views["social_graph"]["cyd"]["similar_user_ids"] == []


def test_isolated_users_have_a_history_and_an_empty_list_of_friends(tmp_path: Path) -> None:
    _, views = night(market(), tmp_path)
    alone = views["social_graph"]["dan"]
    assert (alone["friend_ids"], alone["friend_count"]) == ([], 0)
    assert alone["similar_user_ids"] == ["bob"]
    assert views["user_history"]["dan"]["item_ids"] == ["hat"]


def test_users_without_anything_have_one_empty_row(tmp_path: Path) -> None:
    _, views = night(market(), tmp_path)
    nobody = views["social_graph"]["eve"]
    lists = {name: nobody[name] for name in nobody if name not in ("user_id", "event_timestamp")}
    assert lists == {"friend_ids": [], "similar_user_ids": [], "friend_count": 0, "similar_user_count": 0}
    assert "eve" not in views["user_history"]


def test_items_without_audience_are_in_the_catalogue_with_empty_lists(tmp_path: Path) -> None:
    _, views = night(market(), tmp_path)
    assert views["item_catalog"]["unsold"]["item_event_count"] == 0
    assert views["item_catalog"]["unsold"]["text"] == ""
    audience = views["item_audience"]["unsold"]
    lists = {name: audience[name] for name in audience if name not in ("item_id", "event_timestamp")}
    assert lists == {"consumer_ids": [], "similar_item_ids": [], "consumer_count": 0, "similar_item_count": 0}


@pytest.mark.parametrize("empty", ["users", "items", "events", "social_edges"])
def test_a_table_without_rows_makes_empty_lists(tmp_path: Path, empty: str) -> None:
    tables = market()
    emptied = {"users": ("users", "events", "social_edges"), "items": ("items", "events")}.get(empty, (empty,))
    for name in emptied:
        tables[name] = []
    landing, views = night(tables, tmp_path)
    assert landing.rows[empty] == 0
    assert len(views["social_graph"]) == len(tables["users"])
    assert len(views["item_audience"]) == len(tables["items"])
    assert all(not row["friend_ids"] for row in views["social_graph"].values()) == (empty in ("users", "social_edges"))

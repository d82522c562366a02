"""Building a date: once per state of its inputs, never half, and MissingInput where nothing was landed."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.build import build, build_from
from features.configuration import Configuration
from features.contracts import FEATURES, RAW
from features.errors import ContractViolation, MissingInput
from features.files import read_json
from features.landing import RawTables
from features.partitions import partition_path, read_partition

DATE = dt.date(2026, 1, 4)
ROWS = {"user_history": 2, "item_catalog": 2, "social_graph": 3, "item_audience": 2}


def at(day: int) -> dt.datetime:
    return dt.datetime(2026, 1, day, 12, tzinfo=dt.UTC)


def raw_tables(directory: Path, *events: tuple[str, str, dt.datetime]) -> RawTables:
    """Three users, two items; the given events after two that are always there."""
    tables: dict[str, list[dict[str, Any]]] = {
        "users": [{"user_id": user} for user in ("ada", "bob", "eve")],
        "items": [{"item_id": item, "title": item.title()} for item in ("dress", "hat")],
        "social_edges": [{"user_id": "ada", "friend_id": "bob"}],
        "events": [
            {"user_id": user, "item_id": item, "event_at": when}
            for user, item, when in (("ada", "dress", at(1)), ("bob", "dress", at(2)), *events)
        ],
    }
    paths = {name: directory / f"{name}.parquet" for name in tables}
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=RAW[name].schema), paths[name])
    return RawTables(paths["users"], paths["items"], paths["social_edges"], (paths["events"],))


def configuration(directory: Path, **features: Any) -> Configuration:
    return Configuration(directory / "attractor.toml", directory / "state", {"features": features})


def stamps(here: Configuration) -> dict[str, int]:
    return {view: partition_path(here, view, DATE).stat().st_mtime_ns for view in FEATURES}


def test_a_build_stands_until_what_it_is_made_of_changes(tmp_path: Path) -> None:
    here, raw = configuration(tmp_path), raw_tables(tmp_path)
    assert build_from(here, DATE, raw) == ROWS
    first = stamps(here)
    cheaper = configuration(tmp_path, threads=1, memory_limit="1GB")
    assert build_from(cheaper, DATE, raw) == ROWS
    assert stamps(here) == first
    build_from(here, DATE, raw_tables(tmp_path, ("ada", "hat", at(3))))
    assert read_partition(here, "user_history", DATE)["item_ids"][0].as_py() == ["dress", "hat"]
    second = stamps(here)
    build_from(configuration(tmp_path, history_length=1), DATE, raw)
    assert read_partition(here, "user_history", DATE)["item_ids"][0].as_py() == ["hat"]
    assert all(first[view] < second[view] < stamps(here)[view] for view in FEATURES)


def test_a_lost_partition_is_built_again(tmp_path: Path) -> None:
    here, raw = configuration(tmp_path), raw_tables(tmp_path)
    build_from(here, DATE, raw)
    partition_path(here, "social_graph", DATE).unlink()
    assert build_from(here, DATE, raw) == ROWS
    assert len(read_partition(here, "social_graph", DATE)) == 3


def test_a_failed_build_does_not_pass_for_the_one_before(tmp_path: Path) -> None:
    here = configuration(tmp_path)
    build_from(here, DATE, raw_tables(tmp_path))
    broken = pa.Table.from_pylist([{"item_id": "x" * 200}], schema=RAW["items"].schema)
    pq.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(ContractViolation, match="'item_catalog', column 'item_id'"):
        build_from(here, DATE, replace(raw_tables(tmp_path), items=tmp_path / "broken.parquet"))
    assert build_from(here, DATE, raw_tables(tmp_path)) == ROWS
    assert read_partition(here, "item_catalog", DATE)["item_id"].to_pylist() == ["dress", "hat"]


def test_the_record_says_what_similarity_left_out(tmp_path: Path) -> None:
    here = configuration(tmp_path, similarity_max_degree=1)
    build_from(here, DATE, raw_tables(tmp_path))
    record = read_json(here.features / "builds" / "2026-01-04.json")
    assert record["left_out_of_similarity"] == {"items": 1, "users": 0}
    assert record["inputs"]["features"]["similarity_max_degree"] == 1
    assert read_partition(here, "social_graph", DATE)["similar_user_count"].to_pylist() == [0, 0, 0]


def test_a_date_that_was_not_landed_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="attractor land --date 2026-01-04"):
        build(configuration(tmp_path), DATE)

"""A user's own Parquet: several files count as one table, and row groups out of the window are not read."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.contracts import EVENTS, RAW
from features.errors import ConfigurationError
from features.sources import SourceConfig, open_source
from features.windows import EPOCH, Window, between, midnight


def empty_market(directory: Path) -> None:
    directory.mkdir()
    for table in RAW.values():
        pq.write_table(table.schema.empty_table(), directory / f"{table.name}.parquet")


def days(*numbers: int | None) -> pa.Table:
    times = [None if day is None else midnight(dt.date(2026, 1, day)) for day in numbers]
    columns = {"user_id": ["u"] * len(times), "item_id": ["i"] * len(times), "event_at": times}
    types = pa.schema([pa.field(c.name, c.type) for c in EVENTS.columns[:3]])
    return pa.Table.from_pydict(columns, types)


def test_rows_are_counted_over_the_files_of_a_directory(tmp_path: Path) -> None:
    empty_market(tmp_path / "data")
    (tmp_path / "data" / "users.parquet").unlink()
    folder = tmp_path / "data" / "users"
    folder.mkdir()
    pq.write_table(pa.table({"user_id": ["c", "d"]}), folder / "part-1.parquet")
    pq.write_table(pa.table({"user_id": ["a", "b", "x"]}), folder / "part-0.parquet", row_group_size=2)
    source = open_source(SourceConfig("parquet", "data"), tmp_path)
    found = [(rows.first_row, rows.batch["user_id"].to_pylist()) for rows in source.rows("users")]
    assert found == [(0, ["a", "b"]), (2, ["x"]), (3, ["c", "d"])]


def test_an_empty_file_still_shows_its_columns(tmp_path: Path) -> None:
    empty_market(tmp_path / "data")
    (rows,) = open_source(SourceConfig("parquet", "data"), tmp_path).rows("items")
    assert rows.batch.schema.names == [column.name for column in RAW["items"].columns]


@pytest.mark.parametrize(
    ("window", "first_rows"),
    [
        (between(dt.date(2026, 1, 5), dt.date(2026, 1, 6)), [2, 4]),
        (between(dt.date(2026, 1, 3), dt.date(2026, 1, 5)), [4]),
        (Window(EPOCH, midnight(dt.date(2026, 1, 3))), [0, 4]),
    ],
)
def test_only_row_groups_that_may_touch_the_window_are_read(
    tmp_path: Path, window: Window, first_rows: list[int]
) -> None:
    empty_market(tmp_path / "data")
    pq.write_table(days(1, 2, 5, 6, 9, None), tmp_path / "data" / "events.parquet", row_group_size=2)
    source = open_source(SourceConfig("parquet", "data"), tmp_path)
    assert [rows.first_row for rows in source.events(window)] == first_rows


def test_a_missing_directory_table_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=str(tmp_path / "data")):
        open_source(SourceConfig("parquet", "data"), tmp_path)
    empty_market(tmp_path / "data")
    (tmp_path / "data" / "items.parquet").write_bytes(b"not Parquet")
    source = open_source(SourceConfig("parquet", "data"), tmp_path)
    with pytest.raises(ConfigurationError, match=str(tmp_path / "data" / "items.parquet")):
        list(source.rows("items"))
    (tmp_path / "data" / "social_edges.parquet").unlink()
    with pytest.raises(ConfigurationError, match=r"expected .*data/social_edges\.parquet"):
        open_source(SourceConfig("parquet", "data"), tmp_path)


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    empty_market(tmp_path / "data")
    config = SourceConfig("parquet", "data")
    before = open_source(config, tmp_path).fingerprint()
    assert open_source(config, tmp_path).fingerprint() == before
    pq.write_table(pa.table({"user_id": ["a"]}), tmp_path / "data" / "users.parquet")
    assert open_source(config, tmp_path).fingerprint() != before


@pytest.mark.parametrize(
    "settings",
    [{"kind": "parquet"}, {"kind": "synthetic", "path": "data"}, {"kind": "synthetic", "users": 1}],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"path|users"):
        SourceConfig(**settings)  # type: ignore[arg-type]

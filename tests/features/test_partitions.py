"""Partitions: what breaks the contract is named and not written, equal rows are equal bytes, reading is by name."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.configuration import Configuration
from features.contracts import ITEM_CATALOG
from features.errors import ContractViolation, MissingInput
from features.partitions import ROW_GROUP, partition_batches, partition_path, read_partition, write_rows

DATE = dt.date(2026, 1, 4)
ROW: dict[str, Any] = {
    "item_id": "a",
    "event_timestamp": dt.datetime(2026, 1, 4, tzinfo=dt.UTC),
    "title": "Linen dress",
    "category": "dress",
    "tags": ["linen"],
    "text": "dress; linen; Linen dress",
    "picture": [0.5, -1.0],
    "item_event_count": 0,
}


def configuration(directory: Path) -> Configuration:
    return Configuration(directory / "attractor.toml", directory / "state", {})


def batch(*rows: dict[str, Any]) -> pa.RecordBatch:
    """Rows as a query gives them: every column nullable."""
    schema = pa.schema([field.with_nullable(True) for field in ITEM_CATALOG.schema])
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)


def numbered(count: int) -> list[dict[str, Any]]:
    return [ROW | {"item_id": f"{number:06}"} for number in range(count)]


@pytest.mark.parametrize(
    ("broken", "column", "rule"),
    [
        (ROW | {"item_id": "b", "title": None}, "title", "a value"),
        (ROW | {"item_id": "b", "item_event_count": -1}, "item_event_count", ">= 0"),
        (ROW | {"item_id": "b" * 129}, "item_id", "at most 128 characters"),
        (ROW, "item_id", "keys that are unique and rise"),
        (ROW | {"item_id": "A"}, "item_id", "keys that are unique and rise"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_broken_row_is_named_and_nothing_is_written(
    broken: dict[str, Any], column: str, rule: str, *, together: bool, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    batches = [batch(ROW, broken)] if together else [batch(ROW), batch(broken)]
    with pytest.raises(ContractViolation) as caught:
        write_rows(path, ITEM_CATALOG, batches)
    assert (caught.value.table, caught.value.column, caught.value.rule, caught.value.row) == (
        "item_catalog",
        column,
        rule,
        1,
    )
    assert not list(tmp_path.iterdir())


def test_a_repeated_key_is_found_across_row_groups(tmp_path: Path) -> None:
    rows = numbered(ROW_GROUP)
    with pytest.raises(ContractViolation, match="unique and rise") as caught:
        write_rows(tmp_path / "rows.parquet", ITEM_CATALOG, [batch(*rows), batch(rows[-1])])
    assert caught.value.row == ROW_GROUP


def test_how_rows_come_in_batches_does_not_show_in_the_bytes(tmp_path: Path) -> None:
    rows = numbered(ROW_GROUP + 100)
    batches = {
        "one": [batch(*rows)],
        "many": [batch(*rows[start : start + 1000]) for start in range(0, len(rows), 1000)],
        "odd": [batch(), batch(*rows[:7]), batch(*rows[7:])],
    }
    for name, parts in batches.items():
        assert write_rows(tmp_path / name, ITEM_CATALOG, parts) == len(rows)
    assert len({(tmp_path / name).read_bytes() for name in batches}) == 1
    with pq.ParquetFile(tmp_path / "one") as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [ROW_GROUP, 100]


def test_reading_gives_the_contract_back_whole_by_column_and_in_batches(tmp_path: Path) -> None:
    here, rows = configuration(tmp_path), numbered(5)
    write_rows(partition_path(here, "item_catalog", DATE), ITEM_CATALOG, [batch(*rows)])
    table = read_partition(here, "item_catalog", DATE)
    assert table.schema.equals(ITEM_CATALOG.schema)
    assert table.to_pylist() == rows
    assert read_partition(here, "item_catalog", DATE, columns=["text"]).column_names == ["text"]
    parts = list(partition_batches(here, "item_catalog", DATE, rows=2, columns=["item_id", "text"]))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert pa.Table.from_batches(parts).equals(table.select(["item_id", "text"]))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    here = configuration(tmp_path)
    with pytest.raises(MissingInput, match=r"item_catalog was not built as of 2026-01-04.*attractor build"):
        read_partition(here, "item_catalog", DATE)
    with pytest.raises(MissingInput):
        next(partition_batches(here, "item_catalog", DATE))
    with pytest.raises(KeyError):
        partition_path(here, "no_such_view", DATE)
    write_rows(partition_path(here, "item_catalog", DATE), ITEM_CATALOG, [batch(ROW)])
    with pytest.raises(KeyError, match="no_such_column"):
        read_partition(here, "item_catalog", DATE, columns=["no_such_column"])

"""Feature tables on disk: one Parquet file per view and date, written checked, read without Feast or torch."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.configuration import Configuration
from features.contracts import FEATURES, Column, Table
from features.errors import ContractViolation, MissingInput
from features.files import replacing_file

ROW_GROUP = 8192
"""Rows of a row group: what a reader must hold at least, and fixed, so that equal rows give equal bytes."""


def partition_path(configuration: Configuration, view: str, date: dt.date) -> Path:
    """Where the rows of `view` as of `date` lie; KeyError if there is no such view."""
    return configuration.features / FEATURES[view].name / f"date={date.isoformat()}.parquet"


def read_partition(
    configuration: Configuration, view: str, date: dt.date, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of `view` as of `date`, sorted by key. Raises MissingInput if they were not built."""
    with _open(configuration, view, date) as file:
        return file.read(columns=_known_columns(FEATURES[view], columns))


def partition_batches(
    configuration: Configuration,
    view: str,
    date: dt.date,
    *,
    rows: int = ROW_GROUP,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The same in batches of at most `rows` rows, for tables larger than memory."""
    with _open(configuration, view, date) as file:
        yield from file.iter_batches(batch_size=rows, columns=_known_columns(FEATURES[view], columns))


def read_rows_of(configuration: Configuration, view: str, date: dt.date, keys: Sequence[str]) -> pa.Table:
    """The same of the rows whose first key column is one of `keys`; row groups without any are not read."""
    _open(configuration, view, date).close()
    path, column = partition_path(configuration, view, date), FEATURES[view].key[0]
    return pq.read_table(path, filters=[(column, "in", list(keys))], partitioning=None)


def write_rows(path: Path, table: Table, batches: Iterable[pa.RecordBatch]) -> int:
    """Write `batches`, one instant's rows of `table` sorted by its first key column; the number of rows.

    Raises ContractViolation and writes nothing if a row breaks the contract.
    """
    rows, previous = 0, None
    with (
        replacing_file(path) as temporary,
        pq.ParquetWriter(temporary, table.schema, compression="zstd") as writer,
    ):
        for block in _blocks(batches):
            _check(block, table, first_row=rows, previous=previous)
            writer.write_table(block.cast(table.schema), row_group_size=ROW_GROUP)
            rows, previous = rows + len(block), block[table.key[0]][-1].as_py()
    return rows


def _open(configuration: Configuration, view: str, date: dt.date) -> pq.ParquetFile:
    path = partition_path(configuration, view, date)
    if not path.is_file():
        raise MissingInput(f"{view} was not built as of {date}: no {path}; run `attractor build --date {date}`")
    return pq.ParquetFile(path)


def _known_columns(table: Table, columns: Sequence[str] | None) -> list[str] | None:
    """Parquet readers pass over a name that they do not know; here it is a KeyError."""
    return None if columns is None else [table.column(name).name for name in columns]


def _blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP rows: a query's own batches vary from run to run."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        while count >= ROW_GROUP:
            rows = pa.Table.from_batches(held)
            yield rows.slice(0, ROW_GROUP)
            held = rows.slice(ROW_GROUP).to_batches()
            count -= ROW_GROUP
    if count:
        yield pa.Table.from_batches(held)


def _check(block: pa.Table, table: Table, *, first_row: int, previous: str | None) -> None:
    assert block.column_names == table.schema.names, f"{table.name}: {block.column_names}"
    for column in table.columns:
        for rule, broken in _broken(block[column.name], column):
            _refuse(block, table, column.name, rule, broken, first_row)
    keys = block[table.key[0]].combine_chunks()
    before = pa.concat_arrays([pa.array([previous], keys.type), keys[:-1]])
    _refuse(block, table, table.key[0], "keys that are unique and rise", pc.less_equal(keys, before), first_row)


def _broken(values: pa.ChunkedArray, column: Column) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Each rule of the column with, for every row, whether it is broken; null where that cannot be said."""
    if not column.nullable:
        yield "a value", values.is_null()
    if column.at_least is not None:
        yield f">= {column.at_least}", pc.less(values, pa.scalar(column.at_least, values.type))
    if column.max_length is not None:
        yield f"at most {column.max_length} characters", pc.greater(pc.utf8_length(values), column.max_length)


def _refuse(block: pa.Table, table: Table, column: str, rule: str, broken: pa.ChunkedArray, first_row: int) -> None:
    at = pc.index(broken, True).as_py()
    if at >= 0:
        raise ContractViolation(table.name, column, rule, row=first_row + at, value=block[column][at].as_py())

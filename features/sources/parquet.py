"""A user's own data: a directory of the four tables of `contracts.RAW`, each a Parquet file or a directory of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.contracts import EVENTS, RAW
from features.errors import ConfigurationError
from features.sources.source import BATCH_ROWS, Reader, Rows, fingerprint_of
from features.windows import EPOCH, Window


class ParquetSource:
    """Rows are counted over a table's files in order of name.

    Raises ConfigurationError naming the table that is missing or the file that cannot be read.
    """

    identity = "parquet"
    closed = None

    def __init__(self, directory: Path) -> None:
        self.files = {name: _files(directory, name) for name in RAW}

    def fingerprint(self) -> str:
        return fingerprint_of(path for paths in self.files.values() for path in paths)

    def reading(self) -> AbstractContextManager[Reader]:
        return nullcontext(self)

    def rows(self, table: str) -> Iterator[Rows]:
        return self._rows(table, None)

    def events(self, window: Window) -> Iterator[Rows]:
        return self._rows(EVENTS.name, window)

    def _rows(self, table: str, window: Window | None) -> Iterator[Rows]:
        first_row = 0
        for path in self.files[table]:
            try:
                with pq.ParquetFile(path) as file:
                    yield from _file_rows(file, window, first_row)
                    first_row += file.metadata.num_rows
            except (pa.ArrowException, OSError) as error:
                raise ConfigurationError(f"{path} cannot be read as Parquet: {error}") from error


def _files(directory: Path, table: str) -> list[Path]:
    file, folder = directory / f"{table}.parquet", directory / table
    found = [file] if file.is_file() else sorted(folder.glob("*.parquet"))
    if not found:
        raise ConfigurationError(f"[source] path: expected {file}, or Parquet files in {folder}/; there is neither")
    return found


def _file_rows(file: pq.ParquetFile, window: Window | None, first_row: int) -> Iterator[Rows]:
    """Row groups that may touch the window, batch by batch; an empty file gives one empty batch, for its columns."""
    if file.metadata.num_rows == 0:
        yield Rows(_empty(file.schema_arrow), first_row)
    for group in range(file.num_row_groups):
        at = first_row
        if window is None or _touches(file.metadata.row_group(group), window):
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                yield Rows(batch, at)
                at += batch.num_rows
        first_row += file.metadata.row_group(group).num_rows


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _touches(group: pq.RowGroupMetaData, window: Window) -> bool:
    """Whether a row group may hold events of the window, or undated ones; true where its statistics do not tell."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema != "event_at":
            continue
        statistics = column.statistics
        if statistics is None or not statistics.has_min_max or not statistics.has_null_count or statistics.null_count:
            return True
        try:
            low, high = statistics.min, statistics.max
        except OverflowError:  # an instant beyond the years that Python's datetime knows
            return True
        if not isinstance(low, dt.datetime) or low.tzinfo is None:
            return True
        return bool(low < window.end and (window.start == EPOCH or high >= window.start))
    return True

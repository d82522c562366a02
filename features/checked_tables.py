"""Writing one raw table as Parquet, streamed: rows that keep the contract to it, the others to its quarantine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from features.contracts import VECTOR, Table
from features.erased_users import NOBODY, ErasedUsers
from features.errors import ContractViolation
from features.row_rules import KnownIds, broken_rows, conform, identifying, row_schema
from features.sources.source import BATCH_ROWS, Rows
from features.windows import EPOCH, Window

QUARANTINE = "quarantine"
_AND = ", "
_REASON = (("row", pa.int64()), ("column", pa.string()), ("rule", pa.string()), ("value", pa.string()))


@dataclass(frozen=True)
class Checked:
    """What came of a table: rows written, and rows set aside by rule."""

    rows: int
    quarantined: Mapping[str, int]


@dataclass
class _Quarantine:
    """Rejected rows of one table: written as text with row number, column, rule and value; or refused."""

    table: Table
    directory: Path
    refuse: bool
    counts: Counter[str] = field(default_factory=Counter)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    writer: pq.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch, numbers: NDArray[np.int64], columns: list[str], rules: list[str]) -> None:
        """Reject rows of a conformed batch; raises ContractViolation for the first of them where refusing is asked."""
        text = {name: _as_text(batch.column(name)) for name in batch.schema.names}
        values = [_value(text, column, index) for index, column in enumerate(columns)]
        if self.refuse:
            record = identifying(self.table, {name: column[0] for name, column in text.items()})
            row, value = int(numbers[0]), values[0]
            raise ContractViolation(self.table.name, columns[0], rules[0], row=row, value=value, record=record)
        self.counts.update(f"{column}: {rule}" for column, rule in zip(columns, rules, strict=True))
        self.rows.append(numbers)
        if self.writer is None:
            self.directory.mkdir(exist_ok=True)
            schema = pa.schema([*_REASON, *((name, pa.string()) for name in text)])
            self.writer = pq.ParquetWriter(self.directory / f"{self.table.name}.parquet", schema, compression="zstd")
        reason = {"row": numbers, "column": columns, "rule": rules, "value": values}
        self.writer.write_table(pa.table({**reason, **text}, schema=self.writer.schema))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def leave_out(self, numbers: NDArray[np.int64]) -> None:
        """Rows that are neither written nor kept here."""
        self.rows.append(numbers)

    def source_row(self, position: NDArray[np.int64], written: int) -> NDArray[np.int64]:
        """Row numbers at the source of rows written, where the whole table was read."""
        rejected = np.concatenate([np.empty(0, np.int64), *self.rows])
        return np.delete(np.arange(written + len(rejected)), rejected)[position]


def write_checked(
    table: Table,
    stream: Iterable[Rows],
    directory: Path,
    *,
    known: KnownIds,
    refuse: bool,
    erased: ErasedUsers = NOBODY,
    window: Window | None = None,
) -> Checked:
    """Write `<table>.parquet` and, if rows were rejected, `quarantine/<table>.parquet` below `directory`.

    Rows of `erased` users are left out before anything else looks at them. With `window`, rows dated outside it are
    left out; undated ones are not, so that their rule rejects them,
    and a window that starts at the epoch takes everything older too. Raises ContractViolation for what breaks
    the contract as a whole, and, with `refuse`, for the first bad row.
    """
    path = directory / f"{table.name}.parquet"
    with closing(_Quarantine(table, directory / QUARANTINE, refuse)) as quarantine:
        written = _write_rows(table, stream, path, quarantine, known=known, erased=erased, window=window)
        if table.key:
            written -= _reject_repeats(table, path, quarantine, written)
        return Checked(written, dict(sorted(quarantine.counts.items())))


def _write_rows(
    table: Table,
    stream: Iterable[Rows],
    path: Path,
    quarantine: _Quarantine,
    *,
    known: KnownIds,
    erased: ErasedUsers,
    window: Window | None,
) -> int:
    written = 0
    lengths: dict[str, int] = {}
    schema = row_schema(table, known, lengths)
    progress = tqdm(desc=f"land {table.name}", unit=" rows", unit_scale=True, disable=None, leave=False)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer, progress:
        for rows in stream:
            progress.update(rows.batch.num_rows)
            batch = conform(table, rows.batch)
            numbers = np.arange(rows.first_row, rows.first_row + batch.num_rows)
            forgotten = erased.rows(batch)
            quarantine.leave_out(numbers[forgotten])
            batch, numbers = batch.filter(pa.array(~forgotten)), numbers[~forgotten]
            if window is not None:
                inside = _inside(batch.column("event_at"), window)
                batch, numbers = batch.filter(pa.array(inside)), numbers[inside]
            if _learn_lengths(table, batch, lengths):
                schema = row_schema(table, known, lengths)
            broken = broken_rows(schema, pl.DataFrame(batch))
            index = broken["index"].to_numpy()
            if len(index):
                quarantine.add(batch.take(pa.array(index)), numbers[index], *_reasons(broken))
                batch = batch.take(pa.array(np.delete(np.arange(batch.num_rows), index)))
            writer.write_batch(batch.cast(table.schema))
            written += batch.num_rows
    return written


def _reasons(broken: pl.DataFrame) -> tuple[list[str], list[str]]:
    return broken["column"].to_list(), broken["rule"].to_list()


def _inside(times: pa.Array, window: Window) -> NDArray[np.bool_]:
    instants = pl.Series(times)
    inside = instants < window.end
    if window.start > EPOCH:
        inside &= instants >= window.start
    return inside.fill_null(True).to_numpy()


def _learn_lengths(table: Table, batch: pa.RecordBatch, lengths: dict[str, int]) -> bool:
    """Let the first vector of a column set the length for all; whether one was learnt."""
    before = len(lengths)
    for column in table.columns:
        if column.type == VECTOR and column.name not in lengths:
            known = pc.list_value_length(batch.column(column.name)).drop_null()
            known = known.filter(pc.greater(known, 0))  # an empty one breaks a rule of its own
            if len(known):
                lengths[column.name] = known[0].as_py()
    return len(lengths) > before


def _reject_repeats(table: Table, path: Path, quarantine: _Quarantine, written: int) -> int:
    """Reject every row whose key an earlier row has, and write the table again without them."""
    positions = _repeats(table, path)
    if not len(positions):
        return 0
    numbers = quarantine.source_row(positions, written)
    kept = path.with_name(f"kept-{path.name}")
    first = 0
    with pq.ParquetFile(path) as file, pq.ParquetWriter(kept, table.schema, compression="zstd") as writer:
        for batch in file.iter_batches(BATCH_ROWS):
            here = (positions >= first) & (positions < first + batch.num_rows)
            index = positions[here] - first
            if len(index):
                reasons = [_AND.join(table.key)] * len(index), ["a key that no earlier row has"] * len(index)
                quarantine.add(batch.take(pa.array(index)), numbers[here], *reasons)
            writer.write_batch(batch.take(pa.array(np.delete(np.arange(batch.num_rows), index))))
            first += batch.num_rows
    kept.replace(path)
    return len(positions)


def _repeats(table: Table, path: Path) -> NDArray[np.int64]:
    """Positions within the file of rows whose key an earlier row has; DuckDB spills beside the file."""
    key = _AND.join(table.key)
    spill = str(path.parent / "spill")
    with duckdb.connect(config={"threads": 2, "memory_limit": "1GB", "temp_directory": spill}) as connection:
        found = connection.execute(
            f"""
            WITH keyed AS (SELECT {key}, file_row_number AS position FROM read_parquet($file, file_row_number = true)),
            repeated AS (SELECT {key}, min(position) AS first FROM keyed GROUP BY {key} HAVING count(*) > 1)
            SELECT position FROM keyed JOIN repeated USING ({key}) WHERE position > first ORDER BY position
            """,
            {"file": str(path)},
        ).fetchnumpy()
    return np.asarray(found["position"], np.int64)


def _value(text: Mapping[str, list[str | None]], column: str, index: int) -> str | None:
    """What stood in a column, or in the columns of a key, which are named together."""
    values = [text[name][index] for name in column.split(_AND)]
    return values[0] if len(values) == 1 else _AND.join(str(value) for value in values)


def _as_text(values: pa.Array) -> list[str | None]:
    if not pa.types.is_nested(values.type):
        text: list[str | None] = values.cast(pa.string()).to_pylist()
        return text
    return [None if value is None else json.dumps(value) for value in values.to_pylist()]

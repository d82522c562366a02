"""One published table of a release: an Arrow IPC file mapped into memory, and the index of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.contracts import TIMESTAMP, VECTOR, Column, Table
from features.errors import ArtifactCorrupt
from features.key_index import KeyIndex, Rows, index_names, key_hash, key_hashes, open_index, same_keys

BATCH_ROWS = 32_768
"""Rows of every record batch but the last: row r stands in batch r // BATCH_ROWS."""

ROWS_FILE = "rows.arrow"
INDEX_FOLDER = "index"
EVENT_TIMESTAMP = "event_timestamp"
"""The column that says when a row holds, where rows of one table differ in it."""

_SCALARS = (
    pa.binary(),
    pa.bool_(),
    pa.float32(),
    pa.float64(),
    pa.int32(),
    pa.int64(),
    pa.string(),
    TIMESTAMP,
)
_TYPES = {str(one): one for scalar in _SCALARS for one in (scalar, pa.list_(scalar))}
_FIXED = re.compile(r"fixed_size_list<item: float>\[([1-9]\d{0,5})\]")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def table_of_contract(view: str, contract: Mapping[str, Any]) -> Table:
    """The table that a manifest's contract describes; the inverse of `releases.contract_of`.

    Raises ValueError if the name could not be a folder's or a type is none that releases store.
    """
    if not _NAME.fullmatch(view):
        raise ValueError(f"expected a view named by letters, digits, _ and -, got {view!r}")
    columns = [Column(name, _type_named(kind), "", nullable=nullable) for name, kind, nullable in contract["columns"]]
    names = [column.name for column in columns]
    if not contract["key"] or not set(contract["key"]) <= set(names) or len(set(names)) != len(names):
        raise ValueError(f"expected columns that differ and a key among them, got {names} and {contract['key']}")
    return Table(view, "", tuple(contract["key"]), tuple(columns))


def _type_named(name: str) -> pa.DataType:
    fixed = _FIXED.fullmatch(name)
    if fixed is None and name not in _TYPES:
        raise ValueError(f"expected a type that releases store, got {name!r}")
    return pa.list_(pa.float32(), int(fixed[1])) if fixed else _TYPES[name]


def stored_names(tables: Iterable[Table]) -> list[str]:
    """The files that `open_table` maps of each table, as a manifest names them."""
    return [
        name
        for table in tables
        for name in (f"{table.name}/{ROWS_FILE}", *(f"{INDEX_FOLDER}/{part}" for part in index_names(table.name)))
    ]


def embedding_columns(table: Table) -> tuple[str, ...]:
    """Columns that hold one vector of one length a row, stored as fixed-size lists; other lists vary in length.

    Either their type says so, or their name does and the length is that of the table's first vector.
    """
    return tuple(
        c.name
        for c in table.columns
        if pa.types.is_fixed_size_list(c.type)
        or (c.type == VECTOR and c.name.endswith("_embedding") and not c.nullable)
    )


def stored_schema(table: Table, dimension: int) -> pa.Schema:
    """The Arrow schema of the file: the contract's, its embeddings as `fixed_size_list<float>[dimension]`."""
    embeddings = embedding_columns(table)
    return pa.schema(
        field.with_type(pa.list_(pa.float32(), dimension))
        if field.name in embeddings and field.type == VECTOR
        else field
        for field in table.schema
    )


@dataclass(frozen=True)
class ReleasedTable:
    """Rows of one table, sorted by key; nothing is read from disk until it is asked for."""

    table: Table
    file: Path
    batches: tuple[pa.RecordBatch, ...]
    windows: dict[str, _Windows]
    index: KeyIndex

    @property
    def names(self) -> list[str]:
        """The columns."""
        stored: list[str] = self.batches[0].schema.names
        return stored

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return sum(batch.num_rows for batch in self.batches)

    def locate(self, keys: Sequence[pa.Array]) -> Rows:
        """The row of each key, -1 where the table has none; `keys` holds one array per key column, in order."""
        if not len(keys[0]):
            return np.empty(0, np.int64)
        hashes = key_hashes(keys)
        rows = self.index.candidates(hashes, 0)
        pending, depth = self._different(keys, rows), 1
        while len(pending):  # another key of the same hash: look one further
            rows[pending] = self.index.candidates(hashes[pending], depth)
            depth += 1
            pending = pending[self._different([key.take(pa.array(pending)) for key in keys], rows[pending])]
        return rows

    def locate_one(self, key: Sequence[str | int]) -> int:
        """The row of one key, -1 if there is none: as `locate`, without its fixed cost."""
        for row in self.index.rows_of(key_hash(key)):
            number, place = divmod(row, BATCH_ROWS)
            stored = self._keys[number]
            if all(column[place].as_py() == value for column, value in zip(stored, key, strict=True)):
                return row
        return -1

    def column(self, name: str, rows: Rows) -> pa.Array:
        """The values of a column at `rows`, in their order; every row must exist."""
        position = self.batches[0].schema.get_field_index(name)
        if len(rows) == 1:  # nothing to gather, nothing to copy
            return self.batches[rows[0] // BATCH_ROWS].column(position).slice(rows[0] % BATCH_ROWS, 1)
        if len(self.batches) == 1:
            return self.batches[0].column(position).take(pa.array(rows))
        numbers = rows // BATCH_ROWS
        present = np.unique(numbers)
        if len(present) <= 1:
            batch = self.batches[present[0] if len(present) else 0]
            return batch.column(position).take(pa.array(rows % BATCH_ROWS))
        order = np.argsort(numbers, kind="stable")
        edges = np.searchsorted(numbers[order], present)
        parts = [
            self.batches[number].column(position).take(pa.array(rows[group] % BATCH_ROWS))
            for number, group in zip(present, np.split(order, edges[1:]), strict=True)
        ]
        return pa.concat_arrays(parts).take(pa.array(np.argsort(order)))

    def lists(self, name: str, rows: Rows) -> Iterator[ListRow | None]:
        """The list of column `name` at each of `rows`, None where it is null; nothing is copied."""
        columns = self._opened[name]
        for row in rows.tolist():
            number, place = divmod(row, BATCH_ROWS)
            yield columns[number].row(place)

    def vectors(self, name: str, rows: Rows) -> NDArray[np.float32]:
        """Embeddings [rows, d] copied out of the memory map in one gather; every row must exist."""
        return self.windows[name].gather(rows)

    def dimension(self, name: str) -> int:
        """Length of the vectors of embedding column `name`."""
        return self.windows[name].dimension

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self.batches)

    @cached_property
    def _keys(self) -> list[list[pa.Array]]:
        return [[batch.column(name) for name in self.table.key] for batch in self.batches]

    @cached_property
    def _opened(self) -> dict[str, list[_Lists]]:
        names = [field.name for field in self.batches[0].schema if pa.types.is_list(field.type)]
        return {name: [_Lists.of(batch.column(name)) for batch in self.batches] for name in names}

    def _different(self, keys: Sequence[pa.Array], rows: Rows) -> Rows:
        """Positions whose proposed row holds another key than the one asked for."""
        (proposed,) = (rows >= 0).nonzero()
        if not len(proposed):
            return proposed
        stored = [self.column(name, rows[proposed]) for name in self.table.key]
        asked = keys if len(proposed) == len(rows) else [key.take(pa.array(proposed)) for key in keys]
        return proposed[~same_keys(stored, asked)]


ListRow = tuple[pa.Array, memoryview, int, int]
"""Where a list stands: all elements of its batch, the bytes of their values, its first element, its end."""


@dataclass(frozen=True)
class _Lists:
    """A list column of one batch, opened once so that reading a row needs no call of Arrow."""

    elements: pa.Array
    packed: memoryview
    offsets: memoryview
    valid: NDArray[np.bool_] | None

    @classmethod
    def of(cls, column: pa.Array) -> _Lists:
        valid = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
        packed = memoryview(column.values.buffers()[-1] or b"")
        return cls(column.values, packed, memoryview(column.offsets.to_numpy()), valid)

    def row(self, place: int) -> ListRow | None:
        if self.valid is not None and not self.valid[place]:
            return None
        return self.elements, self.packed, self.offsets[place], self.offsets[place + 1]


@dataclass(frozen=True)
class _Windows:
    """Every run of `dimension` floats of a mapped file, and where each batch's vectors begin."""

    dimension: int
    runs: NDArray[np.float32]  # [floats - dimension + 1, dimension], overlapping: no float is stored twice
    starts: NDArray[np.int64]

    def gather(self, rows: Rows) -> NDArray[np.float32]:
        if not len(rows):
            return np.empty((0, self.dimension), np.float32)
        block: NDArray[np.float32] = self.runs[self.starts[rows // BATCH_ROWS] + (rows % BATCH_ROWS) * self.dimension]
        return block


def open_table(directory: Path, table: Table) -> ReleasedTable:
    """Map `<directory>/<table>/rows.arrow` and its index. Raises ArtifactCorrupt if either is not what it should be."""
    file = directory / table.name / ROWS_FILE
    try:
        mapped = pa.memory_map(str(file)).read_buffer()
        reader = pa.ipc.open_file(pa.BufferReader(mapped))
        batches = tuple(reader.get_batch(i) for i in range(reader.num_record_batches))
        for batch in batches:  # offsets and UTF-8: Arrow takes both for granted when it reads
            batch.validate(full=True)
    except (OSError, pa.ArrowException, MemoryError) as error:
        raise ArtifactCorrupt(f"{file} cannot be read: {error}") from error
    if [batch.num_rows for batch in batches[:-1]] != [BATCH_ROWS] * (len(batches) - 1) or not batches:
        raise ArtifactCorrupt(f"{file}: expected record batches of {BATCH_ROWS} rows but for the last")
    windows = {name: _windows(mapped, batches, table, name, file) for name in embedding_columns(table)}
    _check_schema(file, reader.schema, stored_schema(table, max((w.dimension for w in windows.values()), default=0)))
    index = open_index(directory / INDEX_FOLDER, table.name)
    index.check(sum(batch.num_rows for batch in batches))
    return ReleasedTable(table, file, batches, windows, index)


def check_comparable(directory: Path, *tables: ReleasedTable) -> None:
    """Raises ArtifactCorrupt unless the vectors of all `tables` that have rows are of one length, as of one space."""
    lengths = {table.table.name: max(map(table.dimension, table.windows)) for table in tables if table.row_count}
    if len(set(lengths.values())) > 1:
        raise ArtifactCorrupt(f"{directory}: expected vectors of one space, got lengths {lengths}")


def _windows(mapped: pa.Buffer, batches: Sequence[pa.RecordBatch], table: Table, name: str, file: Path) -> _Windows:
    columns: list[Any] = [batch.column(table.schema.get_field_index(name)) for batch in batches]
    if not all(pa.types.is_fixed_size_list(column.type) for column in columns):
        raise ArtifactCorrupt(f"{file}: expected fixed-size lists in column {name!r}, got {columns[0].type}")
    dimension = columns[0].type.list_size
    offsets = [column.values.buffers()[1].address - mapped.address if len(column) else 0 for column in columns]
    spans = [(offset, offset + 4 * dimension * len(column)) for offset, column in zip(offsets, columns, strict=True)]
    # A compressed batch lies elsewhere, a column with nulls or an offset otherwise than its rows are counted.
    if any(begin < 0 or begin % 4 or end > mapped.size for begin, end in spans) or mapped.size < 4 * dimension:
        raise ArtifactCorrupt(f"{file}: expected the vectors of column {name!r} uncompressed within the file")
    if any(column.null_count or column.values.null_count or column.offset for column in columns):
        raise ArtifactCorrupt(f"{file}: expected vectors without nulls in column {name!r}")
    starts = np.array([offset // 4 for offset in offsets], np.int64)
    floats = np.frombuffer(mapped, np.float32, mapped.size // 4)
    runs = np.lib.stride_tricks.as_strided(floats, (len(floats) - dimension + 1, dimension), (4, 4), writeable=False)
    return _Windows(dimension, runs, starts)


def _check_schema(file: Path, came: pa.Schema, expected: pa.Schema) -> None:
    if not came.equals(expected):
        raise ArtifactCorrupt(f"{file}: expected columns {expected}, got {came}".replace("\n", ", "))

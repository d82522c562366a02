"""What the audit measures of a staged table, in one pass over its record batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from features.contracts import Table
from features.release_table import ReleasedTable, embedding_columns


@dataclass(frozen=True)
class VectorFigures:
    """Of one embedding column. NaN where there are too few rows to say."""

    not_finite: int  # rows with a NaN or an infinity
    zero: int  # rows that are all zeros
    norm_error: float  # largest | |v| - 1 |
    mean_cosine: float  # over all pairs of a seeded sample of rows
    smallest_std: float  # over the same sample, of the dimension that varies least


@dataclass(frozen=True)
class ListFigures:
    """Of one table of ranked lists."""

    not_finite: int  # lists with a score that is NaN or infinite
    uneven: int  # lists whose items and scores differ in number, or that are empty
    out_of_order: int  # lists whose scores rise somewhere or leave [0, 1]
    repeated: int  # lists that name an item twice


@dataclass(frozen=True)
class TableFigures:
    """Of one table of a release."""

    rows: int
    bad_keys: int  # empty, or longer than the contract allows
    repeated_keys: int  # rows whose key an earlier row has
    vectors: dict[str, VectorFigures]
    lists: ListFigures | None


def measure(table: ReleasedTable, *, sample: int, seed: int) -> TableFigures:
    """Every figure of one table; the sample of `sample` rows depends on `seed` and the row count alone."""
    contract = table.table
    names = embedding_columns(contract)
    vectors = {name: _VectorSums() for name in names}
    lists = ListFigures(0, 0, 0, 0) if {"item_ids", "scores"} <= set(contract.schema.names) else None
    bad_keys = 0
    for batch in tqdm(table, total=len(table.batches), desc=f"audit {contract.name}", disable=None, leave=False):
        bad_keys += sum(_bad_keys(batch.column(name), contract, name) for name in contract.key)
        for name in names:
            vectors[name].add(_matrix(batch.column(name)))
        if lists is not None:
            lists = _added(lists, batch.column("item_ids"), batch.column("scores"))
    chosen = _sample(table.row_count, sample, seed)
    return TableFigures(
        rows=table.row_count,
        bad_keys=bad_keys,
        repeated_keys=_repeated_keys(table),
        vectors={name: sums.figures(*spread(table.vectors(name, chosen))) for name, sums in vectors.items()},
        lists=lists,
    )


def spread(vectors: NDArray[np.float32]) -> tuple[float, float]:
    """Mean cosine over all pairs of rows, and the standard deviation of the dimension that varies least.

    With unit rows u, the sum over pairs is |sum u|^2 - n, hence no n x n matrix.
    """
    rows = vectors.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    n = len(rows)
    if n < 2 or not np.isfinite(norms).all() or (norms == 0).any():
        return math.nan, math.nan
    units = rows / norms
    total = units.sum(axis=0)
    return float((total @ total - n) / (n * (n - 1))), float(units.std(axis=0).min())


class _VectorSums:
    """Running counts over batches of vectors."""

    def __init__(self) -> None:
        self.not_finite = self.zero = 0
        self.norm_error = -math.inf

    def add(self, vectors: NDArray[np.float32]) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        norms = np.linalg.norm(vectors[finite].astype(np.float64), axis=1)
        self.not_finite += int((~finite).sum())
        self.zero += int((norms == 0).sum())
        self.norm_error = max(self.norm_error, float(np.abs(norms - 1.0).max(initial=-math.inf)))

    def figures(self, mean_cosine: float, smallest_std: float) -> VectorFigures:
        return VectorFigures(self.not_finite, self.zero, self.norm_error, mean_cosine, smallest_std)


def _added(figures: ListFigures, items: pa.Array, scores: pa.Array) -> ListFigures:
    lengths = pc.list_value_length(scores).to_numpy()
    even = (pc.list_value_length(items).to_numpy() == lengths) & (lengths > 0)
    values = pc.list_flatten(scores).to_numpy(zero_copy_only=False)
    owners = pc.list_parent_indices(scores).to_numpy()
    rising = np.flatnonzero((np.diff(values) > 0) & (np.diff(owners) == 0))
    outside = np.flatnonzero((values < 0) | (values > 1))
    return ListFigures(
        not_finite=figures.not_finite + _distinct(owners[~np.isfinite(values)]),
        uneven=figures.uneven + int((~even).sum()),
        out_of_order=figures.out_of_order + _distinct(owners[np.append(rising, outside)]),
        repeated=figures.repeated + _repeated_items(items),
    )


def _repeated_items(items: pa.Array) -> int:
    pairs = pa.table({"list": pc.list_parent_indices(items), "item": pc.list_flatten(items)})
    counts = pairs.group_by(["list", "item"]).aggregate([([], "count_all")])
    return len(pc.unique(counts.filter(pc.field("count_all") > 1).column("list")))


def _repeated_keys(table: ReleasedTable) -> int:
    """Rows whose key came before; only rows that share a hash are looked at."""
    rows = table.index.shared_rows()
    if not len(rows):
        return 0
    keys = pa.table({name: table.column(name, rows) for name in table.table.key})
    return len(rows) - int(keys.group_by(list(table.table.key)).aggregate([]).num_rows)


def _bad_keys(keys: pa.Array, table: Table, name: str) -> int:
    if not pa.types.is_string(keys.type):
        return 0
    lengths = pc.utf8_length(keys).to_numpy(zero_copy_only=False)
    allowed = table.column(name).max_length
    bad: NDArray[np.bool_] = (lengths == 0) | (lengths > (allowed or np.inf))
    return int(np.count_nonzero(bad))


def _matrix(column: pa.Array) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)


def _sample(rows: int, sample: int, seed: int) -> NDArray[np.int64]:
    chosen = np.random.default_rng(seed).choice(rows, min(rows, sample), replace=False) if rows else np.empty(0)
    return np.sort(chosen.astype(np.int64))


def _distinct(values: NDArray[np.int64]) -> int:
    return len(np.unique(values))

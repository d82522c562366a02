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

SCORE_BINS = 2048
_LARGEST_LOGIT = math.log((1 - 2.0**-24) / 2.0**-24)


@dataclass(frozen=True, eq=False)
class VectorFigures:
    """Of one embedding column. NaN where there are too few rows to say; means and deviations are of finite rows."""

    not_finite: int  # rows with a NaN or an infinity
    zero: int  # rows that are all zeros
    constant: int  # other rows whose numbers are all the same
    norm_error: float  # largest | |v| - 1 |
    mean_norm: float
    mean: NDArray[np.float64]  # [d]
    std: NDArray[np.float64]  # [d]
    mean_cosine: float  # over all pairs of a seeded sample of rows
    smallest_std: float  # over the same sample, of the dimension that varies least


@dataclass(frozen=True, eq=False)
class ListFigures:
    """Of one table of ranked lists."""

    not_finite: int  # lists with a score that is NaN or infinite
    uneven: int  # lists whose items and scores differ in number, or that are empty
    out_of_order: int  # lists whose scores rise somewhere or leave [0, 1]
    repeated: int  # lists that name an item twice
    unknown: int  # places that name an item that the catalogue does not have
    places: int  # of all lists
    exposure: NDArray[np.int64]  # [items of the catalogue], places that name each
    scores: NDArray[np.int64]  # [SCORE_BINS], scores by `score_bins`


@dataclass(frozen=True)
class TableFigures:
    """Of one table of a release."""

    rows: int
    bad_keys: int  # empty, or longer than the contract allows
    repeated_keys: int  # rows whose key an earlier row has
    vectors: dict[str, VectorFigures]
    lists: ListFigures | None


def measure(table: ReleasedTable, *, catalogue: ReleasedTable, sample: int, seed: int) -> TableFigures:
    """Every figure of one table in one pass; memory holds a batch, and a number for each item of the `catalogue`.

    The sample of `sample` rows depends on `seed` and the row count alone.
    """
    contract = table.table
    vectors = {name: _VectorSums(table.dimension(name)) for name in embedding_columns(contract)}
    lists = _ListSums(catalogue) if is_ranked(contract) else None
    bad_keys = 0
    for batch in tqdm(table, total=len(table.batches), desc=f"audit {contract.name}", disable=None, leave=False):
        bad_keys += sum(_bad_keys(batch.column(name), contract, name) for name in contract.key)
        for name, sums in vectors.items():
            sums.add(_matrix(batch.column(name)))
        if lists is not None:
            lists.add(batch.column("item_ids"), batch.column("scores"))
    chosen = sample_rows(table.row_count, sample, seed)
    return TableFigures(
        rows=table.row_count,
        bad_keys=bad_keys,
        repeated_keys=_repeated_keys(table),
        vectors={name: sums.figures(*spread(table.vectors(name, chosen))) for name, sums in vectors.items()},
        lists=lists.figures() if lists is not None else None,
    )


def is_ranked(table: Table) -> bool:
    """Whether a table's rows are ranked lists with scores."""
    return {"item_ids", "scores"} <= set(table.schema.names)


def measure_lists(table: ReleasedTable, *, catalogue: ReleasedTable) -> ListFigures:
    """What `measure` says of a table's lists, without the rest."""
    lists = _ListSums(catalogue)
    for batch in table:
        lists.add(batch.column("item_ids"), batch.column("scores"))
    return lists.figures()


def score_bins(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of each score within [0, 1]: equally wide in its logit, so that very sure scores are told apart too."""
    inside = np.clip(scores.astype(np.float64), 2.0**-24, 1 - 2.0**-24)
    share = (np.log(inside / (1 - inside)) / _LARGEST_LOGIT + 1) / 2
    bins: NDArray[np.int64] = np.minimum((share * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    return bins


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
    """Running counts, and mean and deviation of each dimension, over batches of vectors [rows, d]."""

    def __init__(self, dimension: int) -> None:
        self.not_finite = self.zero = self.constant = self.rows = 0
        self.norm_error, self.norms = -math.inf, 0.0
        self.mean, self.squares = np.zeros(dimension), np.zeros(dimension)

    def add(self, vectors: NDArray[np.float32]) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        rows = vectors[finite].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1)
        self.not_finite += int((~finite).sum())
        self.zero += int((norms == 0).sum())
        if rows.shape[1] > 1:  # with one dimension every vector is constant
            self.constant += int(((rows == rows[:, :1]).all(axis=1) & (norms > 0)).sum())
        self.norm_error = max(self.norm_error, float(np.abs(norms - 1.0).max(initial=-math.inf)))
        self.norms += float(norms.sum())
        self._merge(rows)

    def _merge(self, rows: NDArray[np.float64]) -> None:
        """Chan, Golub and LeVeque (1979), eq. 2.1: two batches' means and sums of squared deviations as one."""
        if not len(rows):
            return
        total, mean = self.rows + len(rows), rows.mean(axis=0)
        difference = mean - self.mean
        self.squares += ((rows - mean) ** 2).sum(axis=0) + difference**2 * self.rows * len(rows) / total
        self.mean += difference * len(rows) / total
        self.rows = total

    def figures(self, mean_cosine: float, smallest_std: float) -> VectorFigures:
        known = self.rows or math.nan
        return VectorFigures(
            self.not_finite,
            self.zero,
            self.constant,
            self.norm_error,
            self.norms / known,
            self.mean,
            np.sqrt(self.squares / known),
            mean_cosine,
            smallest_std,
        )


class _ListSums:
    """Running counts over batches of lists."""

    def __init__(self, catalogue: ReleasedTable) -> None:
        self.catalogue = catalogue
        self.not_finite = self.uneven = self.out_of_order = self.repeated = self.unknown = self.places = 0
        self.exposure = np.zeros(catalogue.row_count, np.int64)
        self.scores = np.zeros(SCORE_BINS, np.int64)

    def add(self, items: pa.Array, scores: pa.Array) -> None:
        lengths = pc.list_value_length(scores).to_numpy()
        even = (pc.list_value_length(items).to_numpy() == lengths) & (lengths > 0)
        values = pc.list_flatten(scores).to_numpy(zero_copy_only=False)
        owners = pc.list_parent_indices(scores).to_numpy()
        finite = np.isfinite(values)
        rising = np.flatnonzero((np.diff(values) > 0) & (np.diff(owners) == 0))
        outside = np.flatnonzero((values < 0) | (values > 1))
        self.not_finite += _distinct(owners[~finite])
        self.uneven += int((~even).sum())
        self.out_of_order += _distinct(owners[np.append(rising, outside)])
        self.scores += np.bincount(score_bins(values[finite]), minlength=SCORE_BINS)
        self._name(pc.list_flatten(items).dictionary_encode(), pc.list_parent_indices(items).to_numpy())

    def _name(self, items: pa.DictionaryArray, owners: NDArray[np.int64]) -> None:
        """Count each item that a batch of lists names, and lists that name one twice."""
        indices, names = items.indices.to_numpy(), items.dictionary
        pairs = np.sort(owners.astype(np.int64) * len(names) + indices)
        twice = pairs[1:][pairs[1:] == pairs[:-1]]
        self.repeated += _distinct(twice // max(1, len(names)))
        counts, rows = np.bincount(indices, minlength=len(names)), self.catalogue.locate([names])
        self.exposure[rows[rows >= 0]] += counts[rows >= 0]
        self.unknown += int(counts[rows < 0].sum())
        self.places += len(indices)

    def figures(self) -> ListFigures:
        return ListFigures(
            self.not_finite,
            self.uneven,
            self.out_of_order,
            self.repeated,
            self.unknown,
            self.places,
            self.exposure,
            self.scores,
        )


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


def sample_rows(rows: int, sample: int, seed: int) -> NDArray[np.int64]:
    """`sample` of the row numbers below `rows`, drawn without replacement and ascending; all if there are fewer."""
    chosen = np.random.default_rng(seed).choice(rows, min(rows, sample), replace=False) if rows else np.empty(0)
    return np.sort(chosen.astype(np.int64))


def _distinct(values: NDArray[np.int64]) -> int:
    return len(np.unique(values))

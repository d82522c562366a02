"""What the audit measures of a release against the live one: drift of vectors, shift of scores, overlap of lists.

Also the concentration of exposure, which compares a release with an even spread.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from export.audit_figures import VectorFigures, sample_rows
from features.release_table import ReleasedTable

QUANTILES = 10
"""Bins of the population stability index: by custom the deciles of what is compared with."""

_LEAST_SHARE = 1e-4  # of an empty bin, whose logarithm would be infinite


def norm_drift(now: VectorFigures, before: VectorFigures) -> float:
    """Change of the mean length, as a share of the one before."""
    return abs(now.mean_norm / before.mean_norm - 1) if before.mean_norm else math.nan


def dimension_drift(now: VectorFigures, before: VectorFigures) -> float:
    """The largest move of a dimension's mean, in standard deviations that the dimension had before."""
    if now.mean.shape != before.mean.shape:
        return math.nan
    return float((np.abs(now.mean - before.mean) / np.maximum(before.std, 1e-12)).max(initial=0.0))


def live_cosine(now: ReleasedTable, before: ReleasedTable, column: str, *, sample: int, seed: int) -> float:
    """Mean cosine of a sampled row's vector and the one that the same key had before; NaN if no key is shared."""
    rows, earlier = _shared(now, before, sample=sample, seed=seed)
    if not len(rows) or now.dimension(column) != before.dimension(column):
        return math.nan
    left, right = now.vectors(column, rows).astype(np.float64), before.vectors(column, earlier).astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a vector of zeros has no cosine: NaN, which refuses
        return float(((left * right).sum(axis=1) / norms).mean())


def list_overlap(now: ReleasedTable, before: ReleasedTable, *, sample: int, seed: int) -> float:
    """Mean over sampled users of the share of the longer list that both lists name; NaN if no user is shared."""
    rows, earlier = _shared(now, before, sample=sample, seed=seed)
    lists = now.column("item_ids", rows).to_pylist(), before.column("item_ids", earlier).to_pylist()
    shares = [
        len(set(ours) & set(theirs)) / max(len(ours), len(theirs))
        for ours, theirs in zip(*lists, strict=True)
        if ours or theirs
    ]
    return float(np.mean(shares)) if shares else math.nan


def population_stability(now: NDArray[np.int64], before: NDArray[np.int64]) -> float:
    """PSI of two histograms over the same fine bins [bins], merged to the deciles of `before`; NaN if one is empty.

    Sum over deciles of (p - q) ln(p / q): the symmetric Kullback-Leibler divergence (Siddiqi, Credit Risk Scorecards,
    2006, ch. 6).
    """
    if not now.sum() or not before.sum():
        return math.nan
    reached = before.cumsum() / before.sum()
    # a fine bin belongs to the decile in which it begins
    decile = np.minimum((np.concatenate([[0.0], reached[:-1]]) * QUANTILES).astype(np.int64), QUANTILES - 1)
    shares = [np.bincount(decile, weights=counts / counts.sum(), minlength=QUANTILES) for counts in (now, before)]
    p, q = (np.maximum(share, _LEAST_SHARE) for share in shares)
    return float(((p - q) * np.log(p / q)).sum())


def gini(exposure: NDArray[np.int64]) -> float:
    """Gini coefficient of non-negative counts [items]: 0 if all are alike, near 1 if one item has all; NaN if none.

    G = sum (2 i - n - 1) x_i / (n sum x), x ascending, i from 1.
    """
    n, total = len(exposure), int(exposure.sum())
    if not total:
        return math.nan
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return float((ranks * np.sort(exposure).astype(np.float64)).sum() / (n * total))


def top_items_share(exposure: NDArray[np.int64], *, share: float = 0.01) -> float:
    """Share of all exposures that the most exposed `share` of items has, at least one item; NaN if there are none."""
    total, count = int(exposure.sum()), max(1, math.ceil(share * len(exposure)))
    return float(np.sort(exposure)[-count:].sum() / total) if total else math.nan


def _shared(
    now: ReleasedTable, before: ReleasedTable, *, sample: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a sample of `now` whose key `before` has too, and where it has it."""
    rows = sample_rows(now.row_count, sample, seed)
    earlier = before.locate([now.column(name, rows) for name in now.table.key])
    return rows[earlier >= 0], earlier[earlier >= 0]

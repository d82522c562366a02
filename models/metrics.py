"""Ranking metrics over the full catalogue. Ranks count from 1; ties go to the item that comes first.

Functions of ranks take one target a row (KARMA: the next item); the function of hits takes a set of
positives a row (DICER: everything the user took next).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]


def rank_of_target(scores: NDArray[np.floating], targets: NDArray[np.integer]) -> Ranks:
    """Rank of each row's target. `scores` [rows, items], -inf excludes an item; `targets` [rows].

    What has no number stands against a model: a target whose score is NaN comes last, any other item of NaN before it.
    """
    rows = np.arange(len(targets))
    own = scores[rows, targets][:, None]
    before = np.arange(scores.shape[1])[None, :] < targets[:, None]
    ranks: Ranks = 1 + (~(scores <= own) | ((scores == own) & before)).sum(axis=1)
    return np.minimum(ranks, scores.shape[1])  # a NaN target was counted as before itself


def hit_rate(ranks: Ranks, k: int) -> float:
    """HR@k: share of rows whose target is among the first k; 0 where there are no rows."""
    return float((ranks <= k).mean()) if len(ranks) else 0.0


def ndcg(ranks: Ranks, k: int) -> float:
    """NDCG@k with one target a row: mean of 1/log2(1 + rank) where rank <= k."""
    return float(np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0).mean()) if len(ranks) else 0.0


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """MRR: mean of 1/rank."""
    return float((1.0 / ranks).mean()) if len(ranks) else 0.0


def metrics_of_hits(
    hits: NDArray[np.bool_], positives: NDArray[np.integer], cutoffs: Sequence[int]
) -> Mapping[str, NDArray[np.float64]]:
    """Every list metric at every cut-off K, one value a row, from where the hits are.

    `hits` [rows, places] says which places of a row's list hold one of its `positives` [rows] (their number, at least
    1); a place that the list does not have is no hit. Names and definitions:

    - `Recall@K` = hits / positives (Chen et al., SIGIR 2019; RecBole), `CappedRecall@K` = hits / min(positives, K)
      (Fu et al., WWW 2021);
    - `NDCG@K` with binary gains, ideal list of min(positives, K) hits;
    - `Precision@K` = hits / K, `HR@K` = whether there is a hit, `MRR@K` = 1 / place of the first one, else 0.

    Raises ValueError if a row has no positive or a cut-off is below 1.
    """
    if len(positives) and positives.min() < 1:
        raise ValueError(f"expected at least 1 positive in each row, got {positives.min()} in one")
    if min(cutoffs) < 1:
        raise ValueError(f"expected cut-offs of at least 1, got {min(cutoffs)}")
    longest = max(cutoffs)
    found = np.zeros((len(hits), longest))
    found[:, : hits.shape[1]] = hits[:, :longest]
    places = np.arange(1, longest + 1)
    discounts = 1.0 / np.log2(1 + places)
    counts, gains, ideal = found.cumsum(axis=1), (found * discounts).cumsum(axis=1), discounts.cumsum()
    first = np.where(found.any(axis=1), 1 + found.argmax(axis=1), longest + 1)
    metrics = {}
    for k in cutoffs:
        metrics[f"Recall@{k}"] = counts[:, k - 1] / positives
        metrics[f"CappedRecall@{k}"] = counts[:, k - 1] / np.minimum(positives, k)
        metrics[f"NDCG@{k}"] = gains[:, k - 1] / ideal[np.minimum(positives, k) - 1]
        metrics[f"Precision@{k}"] = counts[:, k - 1] / k
        metrics[f"HR@{k}"] = (first <= k).astype(np.float64)
        metrics[f"MRR@{k}"] = np.where(first <= k, 1.0 / first, 0.0)
    return metrics


@dataclass(frozen=True)
class Interval:
    """A mean and the percentile interval that a bootstrap gives it."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap_weights(units: int, *, draws: int, seed: int) -> NDArray[np.int64]:
    """How often each of `units` is drawn with replacement in each of `draws` samples of that size [draws, units]."""
    rng = np.random.default_rng(seed)
    weights: NDArray[np.int64] = rng.multinomial(units, np.full(units, 1 / units), size=draws)
    return weights


def interval_of(mean: float, replicates: NDArray[np.floating], *, level: float = 0.95) -> Interval:
    """The percentile interval of a mean from its bootstrap replicates."""
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def paired_bootstrap(
    differences: NDArray[np.floating], units: NDArray[np.integer], *, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of paired `differences` [rows], resampling whole units (users) `units` [rows], numbered from 0.

    Rows of one unit go together because they are not independent. Raises ValueError without rows.
    """
    if not len(differences):
        raise ValueError("expected differences to resample, got none")
    present, units = np.unique(units, return_inverse=True)
    sums, counts = np.bincount(units, weights=differences), np.bincount(units)
    weights = bootstrap_weights(len(present), draws=draws, seed=seed)
    return interval_of(float(differences.mean()), (weights @ sums) / (weights @ counts))

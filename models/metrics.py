"""Ranking metrics over the full catalogue. Ranks count from 1; ties go to the item that comes first.

Functions of ranks take one target a row (KARMA: the next item); functions of lists take a set of
positives a row (DICER: everything the user took next).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]


def rank_of_target(scores: NDArray[np.floating], targets: NDArray[np.integer]) -> Ranks:
    """Rank of each row's target. `scores` [rows, items], -inf excludes an item; `targets` [rows]."""
    rows = np.arange(len(targets))
    own = scores[rows, targets][:, None]
    before = np.arange(scores.shape[1])[None, :] < targets[:, None]
    ranks: Ranks = 1 + ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return ranks


def hit_rate(ranks: Ranks, k: int) -> float:
    """HR@k: share of rows whose target is among the first k; 0 where there are no rows."""
    return float((ranks <= k).mean()) if len(ranks) else 0.0


def ndcg(ranks: Ranks, k: int) -> float:
    """NDCG@k with one target a row: mean of 1/log2(1 + rank) where rank <= k."""
    return float(np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0).mean()) if len(ranks) else 0.0


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """MRR: mean of 1/rank."""
    return float((1.0 / ranks).mean()) if len(ranks) else 0.0


def recall_of_lists(lists: Sequence[Sequence[int]], positives: Sequence[frozenset[int]], k: int) -> float:
    """Recall@k = hits / number of positives, averaged over rows with positives (Chen et al., SIGIR 2019)."""
    values = [
        len(positive.intersection(listed[:k])) / len(positive)
        for listed, positive in zip(lists, positives, strict=True)
        if positive
    ]
    return float(np.mean(values)) if values else 0.0


def ndcg_of_lists(lists: Sequence[Sequence[int]], positives: Sequence[frozenset[int]], k: int) -> float:
    """NDCG@k with binary gains; the ideal list has min(k, number of positives) hits."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    values = []
    for listed, positive in zip(lists, positives, strict=True):
        if positive:
            gains = np.fromiter((item in positive for item in listed[:k]), dtype=float, count=min(k, len(listed)))
            values.append(float(gains @ discounts[: len(gains)] / discounts[: min(k, len(positive))].sum()))
    return float(np.mean(values)) if values else 0.0

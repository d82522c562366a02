"""Exact top-K lists from blocks of scores. NumPy only: evaluation and the night rank with the same function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.dicer.graphs import Indices, Lists


def top_items(scores: NDArray[np.float32], seen: Lists, users: Indices, k: int) -> list[Indices]:
    """The `k` best items of each user that the user has not had, best first, ties to the lower item row.

    `scores` [users, items] is overwritten: seen items become -inf. A list is shorter where fewer items are left.
    """
    return [_best(_exclude(row, seen.of(user)), k) for row, user in zip(scores, users, strict=True)]


def _exclude(row: NDArray[np.float32], seen: Indices) -> NDArray[np.float32]:
    row[seen] = -np.inf
    return row


def _best(row: NDArray[np.float32], k: int) -> Indices:
    left = int(np.isfinite(row).sum())
    if left == 0:
        return np.empty(0, np.int64)
    count = min(k, left)
    least = np.partition(row, len(row) - count)[len(row) - count]
    candidates = np.flatnonzero(row >= least)  # every tie of the last place, lower rows first
    best: Indices = candidates[np.argsort(-row[candidates], kind="stable")][:count]
    return best

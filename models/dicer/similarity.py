"""Graphs of a split from arrays of pairs: the similarity of eq. 1 as one sparse product, never a double loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from scipy import sparse

from models.dicer.graphs import Graphs, Indices

_ROWS = 4096  # of a product at once: bounds its memory


def graphs_from_arrays(
    interactions: Indices,
    friends: Indices,
    users: int,
    items: int,
    *,
    threshold: float = 0.1,
    cap: int | None = None,
) -> Graphs:
    """Graphs of `interactions` [2, n] (user, item) and `friends` [2, m], symmetrised, without loops or repetition.

    Ids are row numbers, padded with zeros so that their order is the rows'. With `cap` a node hears at most its `cap`
    most similar ones. Raises ValueError if a row is outside of `users` or `items`.
    """
    for name, rows, count in (
        ("user", interactions[0], users),
        ("item", interactions[1], items),
        ("friend", friends, users),
    ):
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            raise ValueError(f"expected {name} rows in 0..{count - 1}, got {rows.min()}..{rows.max()}")
    distinct = np.unique(interactions[0] * max(1, items) + interactions[1])
    pairs = np.stack([distinct // max(1, items), distinct % max(1, items)])
    both = np.concatenate([friends, friends[::-1]], axis=1)
    both = both[:, both[0] != both[1]]
    heard = np.unique(both[1] * max(1, users) + both[0])
    return Graphs(
        _numbered(users),
        _numbered(items),
        np.stack([heard % max(1, users), heard // max(1, users)]),
        similar(pairs, users, items, threshold=threshold, cap=cap),
        similar(pairs[::-1], items, users, threshold=threshold, cap=cap),
        np.ascontiguousarray(pairs),
        0,
    )


def similar(pairs: Indices, nodes: int, others: int, *, threshold: float, cap: int | None) -> Indices:
    """Eq. 1: edges [2, n] between nodes a and b with `|R(a) ∩ R(b)| / sqrt(|R(a)| |R(b)|) >= threshold`.

    `pairs` [2, ·] are distinct (node, other). Row 0 is the neighbour, row 1 the node that hears it, in order of row 1.
    """
    ones = np.ones(pairs.shape[1], np.float32)
    table = sparse.csr_array((ones, (pairs[0], pairs[1])), shape=(nodes, others))
    degrees = np.asarray(table.sum(axis=1)).ravel()
    found = [np.stack(block) for block in _blocks(table, degrees, threshold, cap)]
    return np.concatenate(found, axis=1) if found else np.empty((2, 0), np.int64)


def _blocks(
    table: sparse.csr_array, degrees: Indices, threshold: float, cap: int | None
) -> Iterator[tuple[Indices, Indices]]:
    other_side = table.T.tocsr()
    for start in range(0, table.shape[0], _ROWS):
        shared = (table[start : start + _ROWS] @ other_side).tocoo()
        node, neighbour = shared.row.astype(np.int64) + start, shared.col.astype(np.int64)
        similarity = shared.data / np.sqrt(degrees[node] * degrees[neighbour])
        kept = (similarity >= threshold) & (node != neighbour)
        node, neighbour, similarity = node[kept], neighbour[kept], similarity[kept]
        if cap is not None:
            order = np.lexsort((neighbour, -similarity, node))
            ranks = np.arange(len(order)) - np.searchsorted(node[order], node[order])
            node, neighbour = node[order[ranks < cap]], neighbour[order[ranks < cap]]
        order = np.lexsort((neighbour, node))
        yield neighbour[order], node[order]


def _numbered(count: int) -> pa.StringArray:
    return pa.array([f"{row:09d}" for row in range(count)], pa.string())

"""Histories as lists, and the items outside of them, addressed by their order without ever being listed. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.dicer.graphs import Indices, Lists


def lists_of_pairs(pairs: Indices, nodes: int) -> Lists:
    """The second row of `pairs` [2, n] by the first, ascending and distinct, for `nodes` nodes."""
    width = 1 + int(pairs[1].max(initial=0))
    distinct = np.unique(pairs[0] * width + pairs[1])
    counts = np.bincount(distinct // width, minlength=nodes)
    return Lists(np.concatenate([[0], counts.cumsum()]).astype(np.int64), distinct % width)


@dataclass(frozen=True, eq=False)
class Unseen:
    """The items that are not in each node's list: `take` finds the r-th of them with one sorted search."""

    histories: Lists
    items: int
    gaps: (
        Indices  # of the list h_0 < h_1 < ... of a node, node · (items + 1) + h_k - k: h_k - k unseen items precede h_k
    )

    @property
    def counts(self) -> Indices:
        """How many items each node has not had."""
        return self.items - self.histories.lengths

    def take(self, nodes: Indices, ranks: Indices) -> Indices:
        """The item rows [n, c] that are the `ranks` [n, c] of `nodes` [n] among their unseen ones, counted from 0."""
        keys = nodes[:, None] * (self.items + 1) + ranks
        before = np.searchsorted(self.gaps, keys, side="right") - self.histories.offsets[nodes][:, None]
        return ranks + before


def unseen_of(histories: Lists, items: int) -> Unseen:
    """What `histories`, ascending lists of rows below `items`, leave."""
    owner = np.repeat(np.arange(len(histories.lengths)), histories.lengths)
    place = np.arange(len(owner)) - histories.offsets[owner]
    return Unseen(histories, items, owner * (items + 1) + histories.values - place)

"""Nodes that hear the same, and are heard by the same, as one: a sum over a graph without its repetition, exactly.

Every item that one user alone has had is as similar to all the others of that user, so the similarity of eq. 1 is full
of such nodes: Ciao's 25.6 million edges between items are 8.8 million between groups of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch_geometric import EdgeIndex

from models.dicer.graphs import Indices


@dataclass(frozen=True, eq=False)
class Twins:
    """A graph by groups of its nodes."""

    whole: Tensor  # [2, edges] between nodes, as it came
    group: Tensor  # [nodes]
    edges: EdgeIndex  # between groups, with the loops that a node's own group stands for

    def as_tensor(self) -> Tensor:
        """The edges between nodes [2, edges]."""
        return self.whole

    def sum(self, x: Tensor) -> Tensor:
        """Eq. 2, the sum of x [nodes, d] over each node's neighbours and itself."""
        sums = x.new_zeros(self.edges.num_rows, x.shape[1]).index_add(0, self.group, x)
        heard: Tensor = self.edges.matmul(sums, transpose=True)
        return heard.index_select(0, self.group)


def twins_of(edges: Indices, nodes: int) -> tuple[Indices, Indices]:
    """The group of each node [nodes], and the edges [2, n] between groups, in order of the group that hears.

    `edges` [2, ·] have no loops, row 0 the neighbour, row 1 the node that hears it. Nodes are twins if with themselves
    they hear the same nodes and are heard by the same: lists are told apart by sums of random 64-bit numbers.
    """
    numbers = np.random.default_rng(0).integers(2**63, size=nodes, dtype=np.int64)
    lists = np.stack([numbers, numbers], axis=1)  # what a node hears, and what hears it, itself included
    for side in (0, 1):
        order = np.argsort(edges[1 - side], kind="stable")
        ends = np.bincount(edges[1 - side], minlength=nodes).cumsum()
        running = np.concatenate([[0], numbers[edges[side, order]].cumsum()])  # may wrap around, and back
        lists[:, side] += running[ends] - running[np.concatenate([[0], ends[:-1]])]
    _, first, group = np.unique(lists, axis=0, return_index=True, return_inverse=True)
    chosen = np.zeros(nodes, np.bool_)
    chosen[first] = True  # one node of each group speaks for it
    between = group[edges[:, chosen[edges].all(axis=0)]]
    loops = np.arange(len(first))
    between = np.concatenate([between, np.stack([loops, loops])], axis=1)
    return group, np.ascontiguousarray(between[:, np.lexsort((between[0], between[1]))])

"""The graphs of one date as arrays, made from the feature views. NumPy only: the night reads them without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.errors import ContractViolation

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lists:
    """A list of numbers per node: those of node `n` are `values[offsets[n]:offsets[n + 1]]`."""

    offsets: Indices
    values: Indices

    @property
    def lengths(self) -> Indices:
        """Length of each node's list."""
        return np.diff(self.offsets)

    def of(self, node: int) -> Indices:
        """The list of one node."""
        return self.values[self.offsets[node] : self.offsets[node + 1]]

    def entries(self, nodes: Indices) -> tuple[Indices, Indices]:
        """All entries of the lists of `nodes`, list after list: which of `nodes` by its place, and the value."""
        lengths = self.lengths[nodes]
        starts = self.offsets[nodes] - np.concatenate([[0], lengths.cumsum()[:-1]])
        owner = np.repeat(np.arange(len(nodes)), lengths)
        return owner, self.values[np.repeat(starts, lengths) + np.arange(lengths.sum())]

    def padded(self, nodes: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """The lists of `nodes` as [nodes, longest], padded with 0, and where they are real; at least one column."""
        lengths = self.lengths[nodes]
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        real = columns[None, :] < lengths[:, None]
        table = np.zeros(real.shape, np.int64)
        table[real] = self.values[(self.offsets[nodes][:, None] + columns[None, :])[real]]
        return table, real


@dataclass(frozen=True, eq=False)
class Graphs:
    """Nodes are the sorted ids; an edge list is [2, edges]: row 0 the neighbour, row 1 the node that hears it.

    Edges are distinct, without self-loops, ordered by the node that hears; `interactions` is [2, pairs], user and item.
    """

    user_ids: pa.StringArray
    item_ids: pa.StringArray
    friends: Indices
    similar_users: Indices
    similar_items: Indices
    interactions: Indices
    dangling: int  # list entries that name no node of this date, left out

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def histories(self) -> Lists:
        """R(u): the items of each user, ascending."""
        return _lists(self.interactions[0], self.interactions[1], self.users)

    def audiences(self) -> Lists:
        """R(i): the users of each item, ascending."""
        return _lists(self.interactions[1], self.interactions[0], self.items)

    def heard_friends(self) -> Lists:
        """Friends with a history, the only ones that the user modulation listens to."""
        speaks = self.histories().lengths[self.friends[0]] > 0
        return _lists(self.friends[1][speaks], self.friends[0][speaks], self.users)


def graphs_of(views: Mapping[str, pa.Table]) -> Graphs:
    """The graphs in the rows of `social_graph` and `item_audience` of one date.

    Raises ContractViolation if an id occurs twice.
    """
    social, audience = views["social_graph"], views["item_audience"]
    user_ids = _sorted_ids(social, "social_graph", "user_id")
    item_ids = _sorted_ids(audience, "item_audience", "item_id")
    friends, lost_friends = _edges(social, "user_id", "friend_ids", user_ids, user_ids)
    similar_users, lost_users = _edges(social, "user_id", "similar_user_ids", user_ids, user_ids)
    similar_items, lost_items = _edges(audience, "item_id", "similar_item_ids", item_ids, item_ids)
    consumers, lost_consumers = _edges(audience, "item_id", "consumer_ids", item_ids, user_ids, loops=True)
    return Graphs(
        user_ids,
        item_ids,
        friends,
        similar_users,
        similar_items,
        np.ascontiguousarray(
            consumers[:, np.lexsort((consumers[1], consumers[0]))]
        ),  # torch gathers rows 9 times faster
        lost_friends + lost_users + lost_items + lost_consumers,
    )


def rows_of(ids: pa.Array | pa.ChunkedArray, known: pa.StringArray) -> Indices:
    """Row of each id among the `known` ones, -1 where it is not one of them."""
    found = pc.fill_null(pc.index_in(ids, value_set=known), -1)
    rows: Indices = np.asarray(found, dtype=np.int64)
    return rows


def user_blocks(users: Indices, size: int) -> Iterator[Indices]:
    """The users in order, `size` at a time."""
    return (users[start : start + size] for start in range(0, len(users), size))


def _sorted_ids(table: pa.Table, view: str, column: str) -> pa.StringArray:
    ids = table[column].combine_chunks().cast(pa.string())
    ids = ids.take(pc.sort_indices(ids))
    repeated = np.flatnonzero(np.asarray(pc.equal(ids[1:], ids[:-1]), dtype=bool))
    if len(repeated):
        raise ContractViolation(view, column, "each id once", value=ids[int(repeated[0])].as_py())
    return ids


def _edges(
    table: pa.Table, key: str, column: str, nodes: pa.StringArray, neighbours: pa.StringArray, *, loops: bool = False
) -> tuple[Indices, int]:
    """Distinct (neighbour, node) pairs ordered by node, and how many entries named none of `neighbours`."""
    lists = table[column].combine_chunks()
    node = rows_of(table[key], nodes)[np.asarray(pc.list_parent_indices(lists), dtype=np.int64)]
    neighbour = rows_of(pc.list_flatten(lists), neighbours)
    known = neighbour >= 0
    lost = int((~known).sum())
    if not loops:
        known &= node != neighbour
    distinct = np.unique(node[known] * max(1, len(neighbours)) + neighbour[known])
    return np.stack([distinct % max(1, len(neighbours)), distinct // max(1, len(neighbours))]), lost


def _lists(node: Indices, value: Indices, count: int) -> Lists:
    order = np.lexsort((value, node))
    return Lists(np.concatenate([[0], np.bincount(node, minlength=count).cumsum()]).astype(np.int64), value[order])

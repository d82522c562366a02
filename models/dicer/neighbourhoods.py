"""Neighbour-sampled training: a step encodes the surroundings of its batch alone, for graphs that do not fit.

Sampled, `fanout` entries a list and a step: a node's neighbours in the encoder, one draw for all its layers (their sum
is scaled up to the whole list, which is unbiased for what the layer hears; Hamilton et al., NeurIPS 2017), the friends
that are heard, histories and audiences (a maximum over a sample is at most that over the list). A pair that was drawn
from a history stands in the audience as well, and the other way round: between users and items of the batch a list can
have more than `fanout` entries. Exact: the pairs, the target left out, the heads, the loss. Evaluation and the night
sample nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.dicer.config import DicerConfig
from models.dicer.encoder import Edges
from models.dicer.graphs import Graphs, Indices, Lists
from models.dicer.pairs import Batch
from models.dicer.voices import Heard, drawn


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A small world: rows `users` and `items` of the whole one, its edges, and the batch in its own numbers."""

    users: Tensor
    items: Tensor
    edges: Edges
    batch: Batch
    heard: Heard


class Neighbourhoods:
    """Draws the surroundings of batches from the lists of `graphs`."""

    def __init__(self, graphs: Graphs, config: DicerConfig) -> None:
        assert config.fanout is not None, "sampling needs a fanout"
        self.fanout, self.layers, self.device = config.fanout, config.layers, config.device
        nobody = Lists(np.zeros(graphs.users + 1, np.int64), np.empty(0, np.int64))
        self.voices = graphs.heard_friends() if config.social else nobody
        self.friends = _heard(graphs.friends, graphs.users) if config.social else nobody
        self.similar_users = _heard(graphs.similar_users, graphs.users)
        self.similar_items = _heard(graphs.similar_items, graphs.items)
        self.histories, self.audiences, self.item_count = graphs.histories(), graphs.audiences(), graphs.items

    def around(self, batch: Batch, *, generator: torch.Generator) -> Neighbourhood:
        """What a step on `batch` needs, drawn from `generator`."""
        users, items = batch.users.cpu().numpy(), batch.items.cpu().numpy()
        voices = drawn(self.voices, users, self.fanout, generator)
        pairs = self._pairs(np.union1d(users, voices.values), np.unique(items), generator)
        all_users, (friends, alike) = self._grown(
            np.union1d(pairs[0], np.union1d(users, voices.values)), (self.friends, self.similar_users), generator
        )
        all_items, (near,) = self._grown(np.union1d(pairs[1], items.ravel()), (self.similar_items,), generator)
        numbered_pairs = np.stack([np.searchsorted(all_users, pairs[0]), np.searchsorted(all_items, pairs[1])])
        edges = Edges(
            torch.from_numpy(friends.edges).to(self.device),
            torch.from_numpy(alike.edges).to(self.device),
            torch.from_numpy(near.edges).to(self.device),
            torch.from_numpy(numbered_pairs).to(self.device),
            shares=tuple(torch.from_numpy(part.shares).to(self.device) for part in (friends, alike, near)),
        )
        numbered = Batch(
            torch.from_numpy(np.searchsorted(all_users, users)).to(self.device),
            torch.from_numpy(np.searchsorted(all_items, items)).to(self.device),
            batch.positives,
        )
        heard = Heard(Lists(voices.offsets, np.searchsorted(all_users, voices.values)), self.device)
        user_rows, item_rows = (torch.from_numpy(rows).to(self.device) for rows in (all_users, all_items))
        return Neighbourhood(user_rows, item_rows, edges, numbered, heard)

    def _pairs(self, speakers: Indices, items: Indices, generator: torch.Generator) -> Indices:
        """Interactions [2, n] drawn from the histories of `speakers` and from the audiences of `items`."""
        taken = drawn(self.histories, speakers, self.fanout, generator)
        takers = drawn(self.audiences, items, self.fanout, generator)
        keys = np.concatenate(
            [
                np.repeat(speakers, taken.lengths) * self.item_count + taken.values,
                takers.values * self.item_count + np.repeat(items, takers.lengths),
            ]
        )
        distinct = np.unique(keys)
        return np.stack([distinct // self.item_count, distinct % self.item_count])

    def _grown(
        self, wanted: Indices, relations: Sequence[Lists], generator: torch.Generator
    ) -> tuple[Indices, list[_Drawn]]:
        """`wanted` and all that `layers` layers hear of, ascending, with the drawn edges of each relation."""
        nodes, frontier = wanted, wanted
        found: list[list[tuple[Indices, Lists]]] = [[] for _ in relations]
        for _ in range(self.layers):
            reached = [drawn(lists, frontier, self.fanout, generator) for lists in relations]
            for kept, lists in zip(found, reached, strict=True):
                kept.append((frontier, lists))
            frontier = np.setdiff1d(np.concatenate([lists.values for lists in reached]), nodes)
            nodes = np.union1d(nodes, frontier)
        return nodes, [_numbered(nodes, kept, whole) for kept, whole in zip(found, relations, strict=True)]


@dataclass(frozen=True, eq=False)
class _Drawn:
    edges: Indices  # [2, n], in the numbers of the neighbourhood
    shares: np.ndarray[tuple[int, int], np.dtype[np.float32]]  # [nodes, 1]: by how much a drawn sum is scaled up


def _numbered(nodes: Indices, found: Sequence[tuple[Indices, Lists]], whole: Lists) -> _Drawn:
    shares = np.ones((len(nodes), 1), np.float32)
    pieces = [np.empty((2, 0), np.int64)]
    for frontier, lists in found:
        rows = np.searchsorted(nodes, frontier)
        shares[rows, 0] = whole.lengths[frontier] / np.maximum(1, lists.lengths)
        pieces.append(np.stack([np.searchsorted(nodes, lists.values), np.repeat(rows, lists.lengths)]))
    return _Drawn(np.concatenate(pieces, axis=1), shares)


def _heard(edges: Indices, nodes: int) -> Lists:
    """The neighbours that each node hears; `edges` are ordered by the node that hears."""
    offsets = np.concatenate([[0], np.bincount(edges[1], minlength=nodes).cumsum()]).astype(np.int64)
    return Lists(offsets, edges[0])

"""DICER at night: what is known of each node as tables, and scores of blocks of users x items from them.

D is the width of an encoded node. A pair meets no history: the ends of models/dicer/network.py stand for them, and
whatever of a head belongs to one node alone is in that node's row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.dicer.network import Dicer, Edges, Friends, ends_of, modulate, user_interest


@dataclass(frozen=True, eq=False)
class Rows:
    """Tables over the same nodes by name, each [nodes, ...]; which ones there are is the network's matter.

    Of users: `user_vector` h* [D], `user_ends` of the history [2D], `user_own` and `user_attraction`, their sides of
    r_O and r_I [D]. Of items: `item_vector` z* [D], `item_audience`, its ends [2D], `item_own` and `item_interest`,
    their sides of r_O and r_U [D].
    """

    parts: Mapping[str, Tensor]

    def __getitem__(self, nodes: Tensor | slice) -> Rows:
        return Rows({name: part[nodes] for name, part in self.parts.items()})

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))


def tables(network: Dicer, user_base: Tensor, item_base: Tensor, edges: Edges) -> tuple[Rows, Rows]:
    """What a night knows of each user and of each item."""
    h, z = network.encode(user_base, item_base, edges)
    users, items = edges.interactions
    user_parts = {"user_own": network.own_head.left(h)}
    item_parts = {"item_own": network.own_head.right(z)}
    if network.interest_head is not None:
        user_parts |= {"user_ends": ends_of(z, users, items, h.shape[0])}
        item_parts |= {"item_vector": z, "item_interest": network.interest_head.right(z)}
    if network.attraction_head is not None:
        user_parts |= {"user_vector": h, "user_attraction": network.attraction_head.left(h)}
        item_parts |= {"item_audience": ends_of(h, items, users, z.shape[0])}
    return Rows(user_parts), Rows(item_parts)


def friend_ends(user_rows: Rows, index: Tensor, real: Tensor) -> Friends | None:
    """The block of friends `index` [users, longest], padded where not `real`, taken from the rows of all users.

    None where the network has no head for the user's interest and so listens to nobody.
    """
    if "user_ends" not in user_rows.parts:
        return None
    return Friends(user_rows.parts["user_ends"][index] * real[..., None], real)


def score(network: Dicer, user_rows: Rows, item_rows: Rows, friends: Friends | None) -> Tensor:
    """Eq. 16 for every user of a block and every item of a block, from their rows: [users, items], in (0, 1)."""
    users, items = user_rows.parts, item_rows.parts
    weights = network.head_weights
    own = network.own_head.logits(users["user_own"][:, None], items["item_own"][None])
    total = weights[0] * torch.sigmoid(own)
    if network.interest_head is not None:
        assert friends is not None, "a network that models the user's interest listens to friends"
        interest = user_interest(items["item_vector"][None], users["user_ends"][:, None], friends)
        left = network.interest_head.left(interest)
        total = total + weights[1] * torch.sigmoid(network.interest_head.logits(left, items["item_interest"][None]))
    if network.attraction_head is not None:
        attraction = modulate(users["user_vector"][:, None], items["item_audience"][None])
        right = network.attraction_head.right(attraction)
        logits = network.attraction_head.logits(users["user_attraction"][:, None], right)
        total = total + weights[2] * torch.sigmoid(logits)
    return total

"""The literal definition of DICER's modulations and heads: what everything faster is compared with.

Twice: pair by pair, word for word; and as the authors' program runs it, a batch of pairs with padded lists, every row
gathered and every maximum taken. `max` always includes 0, so an empty list gives 0 and padding changes nothing. Lists
are sets; friends without a history take no part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.dicer.config import FriendFusion
from models.dicer.graphs import Indices, Lists
from models.dicer.network import Dicer, Head


def largest_product(x: Tensor, target: Tensor, members: Collection[int]) -> Tensor:
    """`max(0, max_j x_j ⊙ target)` elementwise over the rows `members` of `x`; [D]."""
    products = [torch.zeros_like(target), *(x[j] * target for j in sorted(members))]
    return torch.stack(products).amax(dim=0)


def user_interest(
    z: Tensor,
    user: int,
    item: int,
    histories: list[set[int]],
    friends: list[set[int]],
    *,
    leave_out: bool,
    fusion: FriendFusion = "sum",
) -> Tensor:
    """Eqs. 6-10: x_ui [D], the user's own and the friends' interest, or with the fusion `mean` half of that.

    With `leave_out` the target item is not in the user's own history. Without a friend who speaks x_ui is m_ui.
    """
    own = largest_product(z, z[item], histories[user] - {item} if leave_out else histories[user])
    heard = [largest_product(z, z[item], histories[f]) for f in sorted(friends[user]) if histories[f]]
    if not heard:
        return own
    attention = torch.softmax(torch.stack([own @ theirs for theirs in heard]), dim=0)
    total = own + attention @ torch.stack(heard)
    return total / 2 if fusion == "mean" else total


def item_attraction(h: Tensor, user: int, item: int, audiences: list[set[int]], *, leave_out: bool) -> Tensor:
    """Eqs. 11-12: y_iu [D]. With `leave_out` the target user is not in the item's audience."""
    return largest_product(h, h[user], audiences[item] - {user} if leave_out else audiences[item])


def encode_relation(
    x: Tensor, neighbours: list[set[int]], layers: list[tuple[Tensor, Tensor, Tensor, Tensor]]
) -> Tensor:
    """Eqs. 2-4 without dropout, node by node; a layer is (W1, b1, W2, b2)."""
    outputs = [x]
    for w1, b1, w2, b2 in layers:
        rows = []
        for node, heard in enumerate(neighbours):
            total = x[node] + sum((x[n] for n in sorted(heard)), torch.zeros_like(x[node]))
            rows.append(_leaky(w1 @ total + b1) + _leaky(w2 @ (x[node] * total) + b2))
        x = torch.stack(rows)
        outputs.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return torch.cat(outputs, dim=1)


def head_logit(weights: dict[str, Tensor], left: Tensor, right: Tensor) -> Tensor:
    """Eqs. 13-15 for one pair, layer by layer; `weights` is the state of a `Head`."""

    def linear(name: str, x: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    sides = [linear(f"projections.{k}", linear(f"towers.{k}", x).relu()) for k, x in enumerate((left, right))]
    joined = linear("join", torch.cat(sides)).relu()
    return linear("out", linear("hidden", joined).relu()).squeeze()


@dataclass(frozen=True, eq=False)
class PairLists:
    """What a batch of pairs gathers: rows of z or h, -1 where padded."""

    users: Tensor  # [pairs]
    items: Tensor  # [pairs]
    histories: Tensor  # [pairs, R], of the users
    heard: Tensor  # [pairs, F, R'], histories of their friends; a friend with none is all padding
    audiences: Tensor  # [pairs, C], of the items

    def leaving_out_the_pair(self) -> PairLists:
        """The same without the item in its user's own history and without the user in the item's audience."""
        histories = self.histories.masked_fill(self.histories == self.items[:, None], -1)
        audiences = self.audiences.masked_fill(self.audiences == self.users[:, None], -1)
        return PairLists(self.users, self.items, histories, self.heard, audiences)


def pair_lists(histories: Lists, friends: Lists, audiences: Lists, users: Indices, items: Indices) -> PairLists:
    """The lists of the pairs (users[k], items[k]), each kind padded to its longest among them."""
    owners, owner = np.unique(users, return_inverse=True)
    friend, real = friends.padded(owners)
    theirs = _padded(histories, friend.ravel()).reshape(*friend.shape, -1)
    theirs[~real] = -1
    arrays = (users, items, _padded(histories, users), theirs[owner], _padded(audiences, items))
    return PairLists(*(torch.from_numpy(array) for array in arrays))


def pair_logits(network: Dicer, h: Tensor, z: Tensor, lists: PairLists) -> Tensor:
    """Logits [heads, pairs] of r_O, r_U and r_I, those of them that the network has, from encoded h* and z*.

    R + C + F·R' rows of D numbers are gathered for each pair.
    """
    user, item = h[lists.users], z[lists.items]
    logits = [head_logits(network.own_head, user, item)]
    if network.interest_head is not None:
        own = largest_products(z, item, lists.histories)
        theirs = largest_products(z, item[:, None], lists.heard)
        speaks = (lists.heard >= 0).any(dim=-1) & network.config.social
        logits.append(
            head_logits(network.interest_head, _fused(own, theirs, speaks, network.config.friend_fusion), item)
        )
    if network.attraction_head is not None:
        logits.append(head_logits(network.attraction_head, user, largest_products(h, user, lists.audiences)))
    return torch.stack(logits)


def pair_scores(network: Dicer, h: Tensor, z: Tensor, lists: PairLists, likeness: Tensor | None = None) -> Tensor:
    """Eq. 16 for a batch of pairs, [pairs]: the heads' weighted probabilities.

    With a `likeness` [pairs] the heads' weighted logits are added to it, and the sum is made a probability.
    """
    logits = pair_logits(network, h, z, lists)
    if likeness is None:
        return network.head_weights @ torch.sigmoid(logits)
    return torch.sigmoid(likeness + network.head_weights @ logits)


def likeness_of(base: tuple[Tensor, Tensor], histories: Sequence[Collection[int]], layers: int, tau: float) -> Tensor:
    """What `dicer_plus` starts from, [users, items], node by node: eq. 3 and 4 of LightGCN, cosine, and popularity."""
    d = base[0].shape[1] // 2  # the encoder's
    users, items = base[0][:, d:], base[1][:, d:-1]
    audiences = [[u for u, taken in enumerate(histories) if i in taken] for i in range(len(items))]
    totals, x = [users, items], (users, items)
    for _ in range(layers):
        x = (
            _averaged(x[1], histories, [len(a) for a in audiences], users),
            _averaged(x[0], audiences, [len(taken) for taken in histories], items),
        )
        totals = [totals[0] + x[0], totals[1] + x[1]]
    unit = [rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12) for rows in totals]
    likeness: Tensor = unit[0] @ unit[1].T / tau + base[1][:, -1]
    return likeness


def _averaged(x: Tensor, lists: Sequence[Collection[int]], degrees: Sequence[int], like: Tensor) -> Tensor:
    rows: list[Tensor] = [
        sum((x[j] / math.sqrt(len(listed) * degrees[j]) for j in sorted(listed)), torch.zeros_like(like[0]))
        for listed in lists
    ]
    return torch.stack(rows)


def largest_products(x: Tensor, target: Tensor, members: Tensor) -> Tensor:
    """`max(0, max_j x_j ⊙ target)` over padded lists of rows of `x`: [..., D] and [..., R] to [..., D]."""
    rows = functional.pad(x, (0, 0, 0, 1))[members]  # -1 is the last row, of zeros
    return (rows * target[..., None, :]).amax(dim=-2).clamp(min=0)


def head_logits(head: Head, left: Tensor, right: Tensor) -> Tensor:
    """Eqs. 13-15 for a batch of pairs, layer by layer: [pairs, D] twice to [pairs]."""
    sides = [
        projection(functional.relu(tower(x)))
        for tower, projection, x in zip(head.towers, head.projections, (left, right), strict=True)
    ]
    joined = functional.relu(head.join(torch.cat(sides, dim=-1)))
    logits: Tensor = head.out(functional.relu(head.hidden(joined)))
    return logits.squeeze(-1)


def _fused(own: Tensor, theirs: Tensor, speaks: Tensor, fusion: FriendFusion) -> Tensor:
    """Eqs. 8-10 for m_ui [pairs, D] and m_fi [pairs, F, D], of friends who speak or do not."""
    logits = torch.einsum("pd,pfd->pf", own, theirs).masked_fill(~speaks, -torch.inf)
    silent = ~speaks.any(dim=1, keepdim=True)
    attention = logits.masked_fill(silent, 0.0).softmax(dim=1).masked_fill(~speaks, 0.0)
    total = own + torch.einsum("pf,pfd->pd", attention, theirs)
    return torch.where(silent, total, total / 2) if fusion == "mean" else total


def _padded(lists: Lists, nodes: Indices) -> NDArray[np.int64]:
    values, real = lists.padded(nodes)
    return np.where(real, values, -1)


def _leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)

"""The definition of the modulations, word for word and pair by pair: the slow reference of models/dicer/network.py.

`max` always includes 0, so an empty list gives 0. Lists are sets; friends without a history take no part.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def largest_product(x: Tensor, target: Tensor, members: Collection[int]) -> Tensor:
    """`max(0, max_j x_j ⊙ target)` elementwise over the rows `members` of `x`; [D]."""
    products = [torch.zeros_like(target), *(x[j] * target for j in sorted(members))]
    return torch.stack(products).amax(dim=0)


def user_interest(
    z: Tensor, user: int, item: int, histories: list[set[int]], friends: list[set[int]], *, leave_out: bool
) -> Tensor:
    """Eqs. 6-10: x_ui [D]. With `leave_out` the target item is not in the user's own history."""
    own = largest_product(z, z[item], histories[user] - {item} if leave_out else histories[user])
    heard = [largest_product(z, z[item], histories[f]) for f in sorted(friends[user]) if histories[f]]
    if not heard:
        return own
    attention = torch.softmax(torch.stack([own @ theirs for theirs in heard]), dim=0)
    return own + attention @ torch.stack(heard)


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


def _leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)

"""The modulations (eqs. 6-12 of Fu et al., WWW 2021) by extremes: exact, and without a history in sight.

With `halves(x) = [max(x, 0) ‖ max(-x, 0)]`, for a vector t and rows x_j

    max(0, max_j x_j ⊙ t) = fold(halves(t) ⊙ max_j halves(x_j)),        fold([a ‖ b]) = a + b,

exactly, so two numbers per node and dimension, its *ends* `max_j halves(x_j)` (0 for an empty list), stand for the
whole history. `models/dicer/definition.py` is the literal form that tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.dicer.config import FriendFusion

_COLUMNS = 32


@dataclass(frozen=True, eq=False)
class Friends:
    """Friends with a history of a block of users, padded: their ends [users, longest, 2D], and which are real."""

    ends: Tensor
    real: Tensor


def halves(x: Tensor) -> Tensor:
    """`[max(x, 0) ‖ max(-x, 0)]`, [..., D] to [..., 2D]; never both non-zero."""
    return torch.cat([x, -x], dim=-1).relu()


def fold(x: Tensor) -> Tensor:
    """[a ‖ b] to a + b, [..., 2D] to [..., D]."""
    first, second = x.chunk(2, dim=-1)
    return first + second


def modulate(x: Tensor, ends: Tensor) -> Tensor:
    """Eqs. 6 and 12: the largest `x_j ⊙ x`, or 0, over the list that has these ends; [..., D]."""
    return fold(halves(x) * ends)


def user_interest(z: Tensor, own_ends: Tensor, friends: Friends, *, fusion: FriendFusion = "sum") -> Tensor:
    """Eqs. 6-10: `m_ui + Σ_f α_uf m_fi` with `α_uf = softmax_f(m_ui · m_fi)`, [users, items, D].

    `z` is [users or 1, items, D], `own_ends` [users, items or 1, 2D]. The logits are products of ends, because the two
    halves of z never meet; the friend term has the attended mean of the friends' ends. Without friends it is m_ui.
    `fusion="mean"` halves the sum, as the authors run it, where there is a friend to hear.
    """
    rows = halves(z)
    if own_ends.shape[1] == 1:  # the same history for every item: the product of ends is one row a friend
        logits = rows.square() @ (own_ends * friends.ends).mT
    else:
        logits = (rows.square() * own_ends) @ friends.ends.mT
    absent = ~friends.real[:, None, :]
    attention = logits.masked_fill(absent, torch.finfo(logits.dtype).min).softmax(dim=-1).masked_fill(absent, 0.0)
    total = fold(rows * (own_ends + attention @ friends.ends))
    if fusion == "mean":
        return torch.where(friends.real.any(dim=-1)[:, None, None], total / 2, total)
    return total


def ends_of(x: Tensor, nodes: Tensor, neighbours: Tensor, count: int) -> Tensor:
    """Ends of `count` nodes whose lists are the pairs (`nodes`, `neighbours`) into `x` [·, D]: [count, 2D]."""
    rows = halves(x)
    index = nodes[:, None].expand(-1, rows.shape[1])
    return rows.new_zeros(count, rows.shape[1]).scatter_reduce(0, index, rows[neighbours], "amax")


@dataclass(frozen=True, eq=False)
class Extremes:
    """Largest and second-largest of `halves(x)` over each node's list, with the neighbours that own them.

    All are [nodes, 2D]; the owner is -1 and the value 0 where a list has no such entry. Only the values carry
    gradients, to their owners.
    """

    first: Tensor
    second: Tensor
    first_owner: Tensor

    def without(self, nodes: Tensor, left_out: Tensor) -> Tensor:
        """Ends of `nodes` [n] with neighbour `left_out` [n] not in their lists; [n, 2D]."""
        is_owner = self.first_owner.index_select(0, nodes) == left_out[:, None]
        return torch.where(is_owner, self.second.index_select(0, nodes), self.first.index_select(0, nodes))


def extremes_of(x: Tensor, nodes: Tensor, neighbours: Tensor, count: int) -> Extremes:
    """As `ends_of`, with what leaving one neighbour out takes."""
    rows = halves(x)
    with torch.no_grad():
        pieces = [
            _owners(piece, nodes, neighbours, count) for piece in rows.chunk(-(-rows.shape[1] // _COLUMNS), dim=1)
        ]
        first, second = (torch.cat(owners, dim=1) for owners in zip(*pieces, strict=True))
    return Extremes(_owned(rows, first), _owned(rows, second), first)


def _owners(rows: Tensor, nodes: Tensor, neighbours: Tensor, count: int) -> tuple[Tensor, Tensor]:
    # A float that is not negative orders like its bits, so value above owner in one number makes one maximum find both.
    # Read as float64, because torch's maximum of integers is four times slower; float32's bits on top make no NaN.
    owner = torch.arange(len(rows), device=rows.device)[:, None]
    packed = (rows.contiguous().view(torch.int32).long() << 32) | owner
    said = packed.view(torch.float64).index_select(0, neighbours)
    index = nodes[:, None].expand(-1, rows.shape[1])
    nothing = said.new_full((count, rows.shape[1]), -1)
    first = nothing.scatter_reduce(0, index, said, "amax")
    second = nothing.scatter_reduce(0, index, said.masked_fill_(said == first.index_select(0, nodes), -1), "amax")
    return _owner(first), _owner(second)


def _owner(said: Tensor) -> Tensor:
    return torch.where(said < 0, -1, said.view(torch.long) & (2**32 - 1))


def _owned(rows: Tensor, owners: Tensor) -> Tensor:
    return rows.gather(0, owners.clamp(min=0)).masked_fill(owners < 0, 0.0)

"""The modulations (eqs. 6-12 of Fu et al., WWW 2021) by extremes: exact, and without a history in sight.

With `halves(x) = [max(x, 0) ‖ max(-x, 0)]`, for a vector t and rows x_j

    max(0, max_j x_j ⊙ t) = fold(halves(t) ⊙ max_j halves(x_j)),        fold([a ‖ b]) = a + b,

exactly, so two numbers per node and dimension, its *ends* `max_j halves(x_j)` (0 for an empty list), stand for the
whole history. `models/dicer/definition.py` is the literal form that tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from models.dicer.blocks import blocks_of
from models.dicer.config import FriendFusion

_ENTRIES = 1024  # of the lists of a block: what stands between stays in the cache


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
    """Ends of nodes by their owners, the neighbours whose numbers they are: `first_owner` [nodes, 2D].

    The owner is -1 and the value 0 where a list has nothing above zero. Only values carry gradients, to their owners;
    of several equal ones the neighbour with the largest number owns.
    """

    x: Tensor
    lists: _Lists
    first_owner: Tensor

    @property
    def first(self) -> Tensor:
        """Ends of all nodes, [nodes, 2D]."""
        return _owned(self.x, self.first_owner)

    def of(self, nodes: Tensor) -> Tensor:
        """Ends of `nodes` [n], [n, 2D]."""
        return _owned(self.x, self.first_owner.index_select(0, nodes))

    def without(self, nodes: Tensor, left_out: Tensor) -> Tensor:
        """Ends of `nodes` [n] with neighbour `left_out` [n] not in their lists; [n, 2D]."""
        distinct, place = torch.unique(nodes, return_inverse=True)
        second = _owners(self.x.detach(), self.lists, distinct, leading=_second).index_select(0, place)
        first = self.first_owner.index_select(0, nodes)
        return _owned(self.x, torch.where(first == left_out[:, None], second, first))


def extremes_of(x: Tensor, nodes: Tensor, neighbours: Tensor, count: int) -> Extremes:
    """As `ends_of`, with what leaving one neighbour out takes."""
    lengths = torch.bincount(nodes, minlength=count)
    lists = _Lists(neighbours[nodes.argsort()], lengths.cumsum(0) - lengths, lengths)
    return Extremes(x, lists, _owners(x.detach(), lists, torch.arange(count, device=x.device), leading=_first))


@dataclass(frozen=True, eq=False)
class _Lists:
    """Those of node `n` are the `lengths[n]` entries from `starts[n]` on."""

    entries: Tensor
    starts: Tensor
    lengths: Tensor

    def padded(self, nodes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of few entries: which of `nodes` by their places [n], and their lists [n, longest], the last repeated.

        Lists of a block are about as long as one another; those without an entry are in none.
        """
        lengths, order = self.lengths[nodes].sort(stable=True)
        empty = int((lengths == 0).sum())
        lengths, order = lengths[empty:], order[empty:]
        for part in blocks_of(lengths.cpu().numpy(), rows=_ENTRIES, cells=_ENTRIES) if len(order) else ():
            within = torch.arange(int(lengths[part][-1]), device=nodes.device).minimum(lengths[part, None] - 1)
            yield order[part], self.entries[self.starts[nodes[order[part]], None] + within]


_Leading = Callable[[Tensor], tuple[Tensor, Tensor]]


def _owners(x: Tensor, lists: _Lists, nodes: Tensor, *, leading: _Leading) -> Tensor:
    """Who says what `leading` finds on the lists of `nodes` [n]: [n, 2D], -1 where that is not above zero."""
    owners = nodes.new_empty(len(nodes), 2 * x.shape[1]).fill_(-1)
    for places, listed in lists.padded(nodes):
        # A float's bits above a number's make one float64 that orders like both: one reduction finds value and owner,
        # and the bits of a float32 on top make no NaN. Below zero the largest number makes the smallest, as it should.
        bits = x.index_select(0, listed.flatten()).view(torch.int32).long().bitwise_left_shift_(32)
        high, low = leading(bits.bitwise_or_(listed.view(-1, 1)).view(torch.float64).view(*listed.shape, -1))
        said = torch.cat([high, -low], dim=1).view(torch.long)
        owners[places] = torch.where(said < 2**32, -1, said & (2**32 - 1))  # smaller: the value is not above zero
    return owners


def _first(said: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest of each list, [n, longest, D] to [n, D] each."""
    return said.amax(dim=1), said.amin(dim=1)


def _second(said: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest that those of `_first` leave; infinite where they leave none."""
    high, low = _first(said)
    below, above = (said.masked_fill(said == most[:, None], away) for most, away in ((high, -inf), (low, inf)))
    return below.amax(dim=1), above.amin(dim=1)


def _owned(x: Tensor, owners: Tensor) -> Tensor:
    """What the `owners` [n, 2D] say, 0 where there is none; an owner's own half is its absolute value."""
    columns = torch.arange(x.shape[1], device=x.device).repeat(2)
    # as one long row: torch gathers from a matrix column by column, far from where the last number was
    flat = owners.clamp(min=0).mul_(x.shape[1]).add_(columns).flatten()
    return x.flatten().gather(0, flat).view(owners.shape).abs().masked_fill(owners < 0, 0.0)

"""DICER, top to bottom: relation-aware encoder, dual-side modulation by extremes, three heads.

D is the width of an encoded node. Equation numbers are those of Fu et al., WWW 2021, doi 10.1145/3442381.3449940.

The modulations never gather a history. With `halves(x) = [max(x, 0) ‖ max(-x, 0)]`, for a vector t and rows x_j

    max(0, max_j x_j ⊙ t) = fold(halves(t) ⊙ max_j halves(x_j)),        fold([a ‖ b]) = a + b,

exactly, so two numbers per node and dimension, its *ends* `max_j halves(x_j)` (0 for an empty list), stand for the
whole history. `models/dicer/definition.py` is the literal form that tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing

from models.dicer.config import DicerConfig
from models.dicer.graphs import Graphs

_COLUMNS = 32


@dataclass(frozen=True, eq=False)
class Edges:
    """The graphs of one date as tensors; edge lists are `EdgeIndex` (fast) or plain [2, edges] (exportable)."""

    friends: Tensor
    similar_users: Tensor
    similar_items: Tensor
    interactions: Tensor  # [2, pairs] of (user, item)


@dataclass(frozen=True, eq=False)
class Friends:
    """Friends with a history of a block of users, padded: their ends [users, longest, 2D], and which are real."""

    ends: Tensor
    real: Tensor


def edges_of(graphs: Graphs) -> Edges:
    """The graphs as tensors whose edge lists multiply as sparse matrices, forwards and backwards."""

    def fast(edges: Any, nodes: int) -> Tensor:
        index = EdgeIndex(torch.from_numpy(edges), sparse_size=(nodes, nodes), sort_order="col")
        filled: Tensor = index.fill_cache_()
        return filled

    return Edges(
        fast(graphs.friends, graphs.users),
        fast(graphs.similar_users, graphs.users),
        fast(graphs.similar_items, graphs.items),
        torch.from_numpy(graphs.interactions),
    )


class NeighbourSum(MessagePassing):  # type: ignore[misc]  # torch_geometric is untyped
    """Eq. 2: the sum of x over the neighbours and the node itself, [nodes, d]."""

    SUPPORTS_FUSED_EDGE_INDEX = True

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Sum over `edges`, plus the self-loop of each node."""
        heard: Tensor = self.propagate(
            edges, x=x, size=None if isinstance(edges, EdgeIndex) else (x.shape[0], x.shape[0])
        )
        return x + heard

    def message(self, x_j: Tensor) -> Tensor:
        """What a neighbour says: its own vector."""
        return x_j

    def message_and_aggregate(self, edges: EdgeIndex, x: Tensor) -> Tensor:
        """The same as one sparse product."""
        product: Tensor = edges.matmul(x, transpose=True)
        return product


class Relation(nn.Module):
    """Eqs. 2-4: L layers over one relation, `x' = Drop(LeakyReLU(W1 H + b1) + LeakyReLU(W2 (x ⊙ H) + b2))`."""

    def __init__(self, config: DicerConfig) -> None:
        super().__init__()
        d = config.dimension
        self.sum = NeighbourSum()
        self.of_sum = nn.ModuleList(nn.Linear(d, d) for _ in range(config.layers))
        self.of_product = nn.ModuleList(nn.Linear(d, d) for _ in range(config.layers))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """[nodes, d] to [nodes, D]: the base embedding and each layer's output at unit length."""
        outputs = [x]
        for of_sum, of_product in zip(self.of_sum, self.of_product, strict=True):
            total = self.sum(x, edges)
            x = self.drop(functional.leaky_relu(of_sum(total)) + functional.leaky_relu(of_product(x * total)))
            outputs.append(functional.normalize(x, dim=-1))
        return torch.cat(outputs, dim=-1)


def halves(x: Tensor) -> Tensor:
    """`[max(x, 0) ‖ max(-x, 0)]`, [..., D] to [..., 2D]; never both non-zero."""
    return torch.cat([x, -x], dim=-1).relu()


def fold(x: Tensor) -> Tensor:
    """[a ‖ b] to a + b, [..., 2D] to [..., D]."""
    first, second = x.chunk(2, dim=-1)
    return first + second


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
        """Ends of `nodes` with neighbour `left_out` not in their lists; shapes broadcast to [users, items, 2D]."""
        is_owner = self.first_owner[nodes] == left_out[..., None]
        return torch.where(is_owner, self.second[nodes], self.first[nodes])


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
    packed = (rows.contiguous().view(torch.int32).long() << 32) | torch.arange(len(rows))[:, None]
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


def modulate(x: Tensor, ends: Tensor) -> Tensor:
    """Eqs. 6 and 12: the largest `x_j ⊙ x`, or 0, over the list that has these ends; [..., D]."""
    return fold(halves(x) * ends)


def user_interest(z: Tensor, own_ends: Tensor, friends: Friends) -> Tensor:
    """Eqs. 6-10: `m_ui + Σ_f α_uf m_fi` with `α_uf = softmax_f(m_ui · m_fi)`.

    `z` is [users or 1, items, D], `own_ends` [users, items or 1, 2D]. The logits are products of ends, because the two
    halves of z never meet; the friend term has the attended mean of the friends' ends. Without friends it is m_ui.
    """
    logits = (halves(z).square() * own_ends) @ friends.ends.mT
    absent = ~friends.real[:, None, :]
    attention = logits.masked_fill(absent, torch.finfo(logits.dtype).min).softmax(dim=-1).masked_fill(absent, 0.0)
    return modulate(z, own_ends + attention @ friends.ends)


class Head(nn.Module):
    """Eqs. 13-15: a tower D→D→D per side, then 2D→D→s→1.

    A tower's second layer and its half of the 2D→D layer have nothing between them and are applied as one matrix, so a
    side that belongs to one node alone is a table of that node.
    """

    def __init__(self, config: DicerConfig) -> None:
        super().__init__()
        width = config.width
        self.towers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.join = nn.Linear(2 * width, width)
        self.hidden = nn.Linear(width, config.hidden)
        self.out = nn.Linear(config.hidden, 1)
        self.drop = nn.Dropout(config.dropout)

    def left(self, x: Tensor) -> Tensor:
        """The user's side before the join, [..., D]."""
        return self._side(x, 0) + self.join.bias

    def right(self, x: Tensor) -> Tensor:
        """The item's side before the join, [..., D]."""
        return self._side(x, 1)

    def logits(self, left: Tensor, right: Tensor) -> Tensor:
        """Logit of each pair of sides, broadcast; [...]."""
        joined: Tensor = self.drop(functional.relu(left + right))
        hidden: Tensor = self.drop(functional.relu(self.hidden(joined)))
        logit: Tensor = self.out(hidden)
        return logit.squeeze(-1)

    def _side(self, x: Tensor, side: int) -> Tensor:
        half, projection = self.join.weight.chunk(2, dim=1)[side], self.projections[side]
        assert isinstance(projection, nn.Linear)
        return functional.linear(
            self.drop(functional.relu(self.towers[side](x))), half @ projection.weight, half @ projection.bias
        )


class Dicer(nn.Module):
    """The whole network; `user_base` and `item_base` are the trained embeddings P and Q."""

    head_weights: Tensor

    def __init__(self, config: DicerConfig, users: int, items: int) -> None:
        super().__init__()
        self.config = config
        # Rows of about unit length, like each layer's output beside them. Xavier's would shrink as the world grows, and
        # with them the one part of an encoded node that tells it from its neighbours: measured worse, models/LOG.md.
        scale = config.dimension**-0.5
        self.user_base = nn.Parameter(nn.init.normal_(torch.empty(users, config.dimension), std=scale))
        self.item_base = nn.Parameter(nn.init.normal_(torch.empty(items, config.dimension), std=scale))
        self.social = Relation(config)
        self.similar_users = Relation(config)
        self.similar_items = Relation(config)
        self.own_head = Head(config)
        self.interest_head = Head(config)
        self.attraction_head = Head(config)
        self.register_buffer("head_weights", torch.tensor(config.head_weights), persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # torch's own start shrinks a signal 60 times over a head's five layers
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode(self, user_base: Tensor, item_base: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Eq. 5, with the mean that the authors run: h* [users, D] and z* [items, D]."""
        h = (self.social(user_base, edges.friends) + self.similar_users(user_base, edges.similar_users)) / 2
        return h, self.similar_items(item_base, edges.similar_items)

    def pair_logits(
        self,
        h: Tensor,
        z: Tensor,
        histories: Extremes,
        audiences: Extremes,
        pairs: tuple[Tensor, Tensor],
        heard: Friends,
    ) -> Tensor:
        """Logits of the heads [3, n, c] for `pairs` = users [n] and c items of each [n, c].

        A pair of the training interactions is left out of both of its lists; for any other pair nothing changes.
        """
        users, items = pairs
        user, item = h[users][:, None], z[items]
        interest = user_interest(item, histories.without(users[:, None], items), heard)
        attraction = modulate(user, audiences.without(items, users[:, None]))
        own, by_interest, by_attraction = self.own_head, self.interest_head, self.attraction_head
        return torch.stack(
            [
                own.logits(own.left(user), own.right(item)),
                by_interest.logits(by_interest.left(interest), by_interest.right(item)),
                by_attraction.logits(by_attraction.left(user), by_attraction.right(attraction)),
            ]
        )

    def tables(self, user_base: Tensor, item_base: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """What a night knows of each node: user rows [users, 5D] and item rows [items, 5D].

        A user row is h* ‖ ends of the history (2D) ‖ its side of r_O ‖ its side of r_I;
        an item row is z* ‖ ends of the audience (2D) ‖ its side of r_O ‖ its side of r_U.
        """
        h, z = self.encode(user_base, item_base, edges)
        users, items = edges.interactions
        histories, audiences = ends_of(z, users, items, h.shape[0]), ends_of(h, items, users, z.shape[0])
        user_rows = torch.cat([h, histories, self.own_head.left(h), self.attraction_head.left(h)], dim=1)
        item_rows = torch.cat([z, audiences, self.own_head.right(z), self.interest_head.right(z)], dim=1)
        return user_rows, item_rows

    def score(self, user_rows: Tensor, item_rows: Tensor, friends: Friends) -> Tensor:
        """Eq. 16 for every user of a block and every item of a block, from their rows: [users, items], in (0, 1)."""
        h, own_ends, own_left, attraction_left = _parts(user_rows[:, None])
        z, audience, own_right, interest_right = _parts(item_rows[None])
        interest = self.interest_head.left(user_interest(z, own_ends, friends))
        attraction = self.attraction_head.right(modulate(h, audience))
        own = torch.sigmoid(self.own_head.logits(own_left, own_right))
        by_interest = torch.sigmoid(self.interest_head.logits(interest, interest_right))
        by_attraction = torch.sigmoid(self.attraction_head.logits(attraction_left, attraction))
        weights = self.head_weights
        return weights[0] * own + weights[1] * by_interest + weights[2] * by_attraction


def _parts(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d = rows.shape[-1] // 5
    return rows[..., :d], rows[..., d : 3 * d], rows[..., 3 * d : 4 * d], rows[..., 4 * d :]


def friend_ends(user_rows: Tensor, index: Tensor, real: Tensor) -> Friends:
    """The block of friends `index` [users, longest], padded where not `real`, taken from user rows [users, 5D]."""
    _, ends, _, _ = _parts(user_rows)
    return Friends(ends[index] * real[..., None], real)

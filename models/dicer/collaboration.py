"""What `dicer_plus` adds: base embeddings spread over the interactions, whose likeness is the first logit of a pair.

The layers are LightGCN's (He et al., SIGIR 2020, doi 10.1145/3397271.3401063). In training the targets of a batch are
taken out of the graph, as the paper takes them out of the histories: a node that has already heard its target learns to
repeat it, not to foresee it (measured: models/LOG.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import LGConv

from models.dicer.config import DicerConfig
from models.dicer.encoder import quiet_about_sparse_tensors


class SymmetricProduct(torch.autograd.Function):
    """`adjacency @ x`; the gradient is the same product, where torch would transpose the matrix in every step."""

    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, x: Tensor) -> Tensor:
        """As the class says; `adjacency` [nodes, nodes] is symmetric, in CSR form."""
        ctx.adjacency = adjacency
        return adjacency @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """The gradient of x."""
        return None, ctx.adjacency @ gradients[0]


class SymmetricLGConv(LGConv):  # type: ignore[misc]  # torch_geometric is untyped
    """LightGCN's layer for a symmetric, already normalised adjacency in CSR form: [nodes, d] to [nodes, d]."""

    def __init__(self) -> None:
        super().__init__(normalize=False)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """The weighted sum over the neighbours."""
        if edge_index.layout == torch.sparse_csr:
            product: Tensor = SymmetricProduct.apply(edge_index, x)  # type: ignore[no-untyped-call]
            return product
        heard: Tensor = super().forward(x, edge_index, edge_weight)
        return heard


def symmetric_edges(interactions: Tensor, users: int, items: int) -> tuple[Tensor, Tensor]:
    """Edges [2, 2n] both ways between user rows and the item rows after them, with `1 / sqrt(deg(u) deg(i))` [2n]."""
    consumers, consumed = interactions
    weights = _degrees(consumers, users)[consumers].rsqrt() * _degrees(consumed, items)[consumed].rsqrt()
    below = consumed + users
    ends = torch.cat([torch.stack([consumers, below]), torch.stack([below, consumers])], dim=1)
    return ends, torch.cat([weights, weights])


def adjacency_of(interactions: Tensor, users: int, items: int, *, kept: Tensor | None = None) -> Tensor:
    """`D^-1/2 A D^-1/2` as CSR [nodes, nodes]; only the interactions `kept` [n] have an edge, all count in D."""
    ends, weights = symmetric_edges(interactions, users, items)
    if kept is not None:
        both = torch.cat([kept, kept])
        ends, weights = ends[:, both], weights[both]
    with quiet_about_sparse_tensors():
        return torch.sparse_coo_tensor(ends, weights, (users + items,) * 2).coalesce().to_sparse_csr()


class Collaboration(nn.Module):
    """Mean of the base rows and of each of K layers at unit length, with one more number for an item's popularity."""

    least_popular: Tensor

    def __init__(self, config: DicerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SymmetricLGConv() for _ in range(config.collaborative_layers or 0))
        self.temperature, self.start = config.temperature, config.dimension
        self.register_buffer("least_popular", torch.zeros(1))

    @torch.no_grad()
    def settle(self, item_base: Tensor) -> None:
        """After training: an item that it did not know, whose base row is zeros, is as popular as the least popular."""
        self.least_popular += item_base[:, -1].min()
        item_base[:, -1] -= item_base[:, -1].min().clone()

    def forward(
        self, user_base: Tensor, item_base: Tensor, interactions: Tensor, *, left_out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows of users [users, d + 1] and items [items, d + 1] whose inner product is a pair's likeness.

        It is their cosine over the temperature, plus the last number of an item's base row, learned for each item. Base
        rows are [users, 2d] and [items, 2d + 1], of which the encoder has the first d. `left_out` [2, m] are
        interactions that nobody hears. `interactions` [2, n] are distinct.
        """
        users, items = user_base.shape[0], item_base.shape[0]
        x = torch.cat([user_base[:, self.start :], item_base[:, self.start : -1]])
        if self.training:
            kept = None if left_out is None else ~torch.isin(_keys(interactions, items), _keys(left_out, items))
            edges, weights = adjacency_of(interactions, users, items, kept=kept), None
        else:
            edges, weights = symmetric_edges(interactions, users, items)
        total = x
        for layer in self.layers:
            x = layer(x, edges, weights)
            total = total + x
        rows = functional.normalize(total, dim=1)
        return (
            torch.cat([rows[:users] / self.temperature, rows.new_ones(users, 1)], dim=1),
            torch.cat([rows[users:], item_base[:, -1:] + self.least_popular], dim=1),
        )


def _degrees(rows: Tensor, count: int) -> Tensor:
    ones = torch.ones_like(rows, dtype=torch.float32)
    return torch.zeros(count, device=rows.device).scatter_add(0, rows, ones).clamp(min=1)


def _keys(pairs: Tensor, items: int) -> Tensor:
    return pairs[0] * items + pairs[1]

"""Relation-aware encoder, eqs. 2-5 of Fu et al., WWW 2021, doi 10.1145/3442381.3449940; D is a node's encoded width."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric import EdgeIndex
from torch_geometric.nn import GATConv, MessagePassing

from models.dicer.config import DicerConfig
from models.dicer.dropout import Dropout
from models.dicer.graphs import Graphs, Indices
from models.dicer.overlaps import Overlaps, overlaps_of

_COLUMNS = 16
_FEW = 1_000_000  # edges: below, a product takes less than to look for overlaps

Relationship = Tensor | Overlaps
"""Edges: `EdgeIndex` and `Overlaps` (fast), or plain [2, edges] (exportable)."""


@dataclass(frozen=True, eq=False)
class Edges:
    """The graphs of one date."""

    friends: Relationship
    similar_users: Relationship
    similar_items: Relationship
    interactions: Tensor  # [2, pairs] of (user, item)
    # of the first three, [nodes, 1]: scales the sum over a drawn sample up to the whole list
    shares: tuple[Tensor, ...] = field(default=(), kw_only=True)


def edges_of(graphs: Graphs, *, device: str = "cpu") -> Edges:
    """The graphs as edge lists that multiply as sparse matrices, forwards and backwards."""

    def indexed(edges: Indices, nodes: int) -> Tensor:
        index = EdgeIndex(torch.from_numpy(edges).to(device), sparse_size=(nodes, nodes), sort_order="col")
        filled: Tensor = index.fill_cache_()
        return filled

    def fast(edges: Indices, pairs: Indices, nodes: int) -> Relationship:
        with quiet_about_sparse_tensors():
            found = overlaps_of(edges, pairs, nodes, device=device) if edges.shape[1] >= _FEW else None
        return found if found is not None and 2 * found.numbers < edges.shape[1] else indexed(edges, nodes)

    return Edges(
        indexed(graphs.friends, graphs.users),
        fast(graphs.similar_users, graphs.interactions[::-1], graphs.users),
        fast(graphs.similar_items, graphs.interactions, graphs.items),
        torch.from_numpy(graphs.interactions).to(device),
    )


@contextmanager
def quiet_about_sparse_tensors() -> Iterator[None]:
    """Without torch's note, once a process, that CSR and CSC tensors are in beta; ours are made sorted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse ")
        yield


class NeighbourSum(MessagePassing):  # type: ignore[misc]  # torch_geometric is untyped
    """Eq. 2: the sum of x over the neighbours and the node itself, [nodes, d]."""

    SUPPORTS_FUSED_EDGE_INDEX = True

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, x: Tensor, edges: Relationship, share: Tensor | None = None) -> Tensor:
        """Sum over `edges`, times `share` [nodes, 1] where they are a sample, plus the self-loop of each node."""
        if isinstance(edges, Overlaps):
            return edges.sum(x)
        if isinstance(edges, EdgeIndex):
            heard: Tensor = self.propagate(edges, x=x, size=None)
        else:  # what a few columns say over all edges is held, not all of them: a night's memory depends on it
            heard = torch.cat([_heard(piece, edges) for piece in torch.split(x, _COLUMNS, dim=1)], dim=1)
        return x + (heard if share is None else heard * share)

    def message_and_aggregate(self, edges: EdgeIndex, x: Tensor) -> Tensor:
        """The sum over the neighbours as one sparse product."""
        product: Tensor = edges.matmul(x, transpose=True)
        return product


class RelationLayer(nn.Module):
    """Eqs. 2-3: `LeakyReLU(W1 H + b1) + LeakyReLU(W2 (x ⊙ H) + b2)` with H the sum over neighbours and self."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.sum = NeighbourSum()
        self.of_sum = nn.Linear(dimension, dimension)
        self.of_product = nn.Linear(dimension, dimension)

    def forward(self, x: Tensor, edges: Relationship, share: Tensor | None = None) -> Tensor:
        """[nodes, d] to [nodes, d]; `share` as in `NeighbourSum`."""
        total = self.sum(x, edges, share)
        return functional.leaky_relu(self.of_sum(total)) + functional.leaky_relu(self.of_product(x * total))


class AttentionLayer(nn.Module):
    """The paper's ablation: a graph attention layer (Velickovic et al., ICLR 2018) in the place of eqs. 2-3."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        # its own way to add self-loops looks for those that are there first, which no exporter can follow
        self.attend = GATConv(dimension, dimension, add_self_loops=False)

    def forward(self, x: Tensor, edges: Relationship, share: Tensor | None = None) -> Tensor:
        """[nodes, d] to [nodes, d]; attention over a sample needs no `share`."""
        plain = edges.as_tensor() if isinstance(edges, EdgeIndex | Overlaps) else edges
        loops = torch.arange(x.shape[0], device=x.device).expand(2, -1)  # an export would keep len(x) as a number
        heard: Tensor = functional.leaky_relu(self.attend(x, torch.cat([plain, loops], dim=1)))
        return heard


class Relation(nn.Module):
    """Eq. 4: L layers over one relation."""

    def __init__(self, config: DicerConfig) -> None:
        super().__init__()
        layer = AttentionLayer if config.encoder == "gat" else RelationLayer
        self.layers = nn.ModuleList(layer(config.dimension) for _ in range(config.layers))
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, edges: Relationship, share: Tensor | None = None) -> Tensor:
        """[nodes, d] to [nodes, D]: the base embedding and each layer's output at unit length."""
        outputs = [x]
        for layer in self.layers:
            x = self.drop(layer(x, edges, share))
            outputs.append(functional.normalize(x, dim=-1))
        return torch.cat(outputs, dim=-1)


class Encoder(nn.Module):
    """Eq. 5, with the mean that the authors run. A relation that is switched off has no layers at all.

    A side without any relation keeps its layers over self-loops alone, as the paper's "without relations".
    """

    def __init__(self, config: DicerConfig) -> None:
        super().__init__()
        self.social = Relation(config) if config.social or not config.user_similarity else None
        self.similar_users = Relation(config) if config.user_similarity else None
        self.similar_items = Relation(config)
        self.config = config

    def forward(self, user_base: Tensor, item_base: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """h* [users, D] and z* [items, D] from base embeddings [users, d] and [items, d]."""
        config, heard, shares = self.config, [], edges.shares or (None, None, None)
        if self.social is not None:
            heard.append(self.social(user_base, edges.friends if config.social else _none(edges.friends), shares[0]))
        if self.similar_users is not None:
            heard.append(self.similar_users(user_base, edges.similar_users, shares[1]))
        items = edges.similar_items if config.item_similarity else _none(edges.similar_items)
        return sum(heard) / len(heard), self.similar_items(item_base, items, shares[2])


def _heard(x: Tensor, edges: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])


def _none(edges: Relationship) -> Tensor:
    plain = edges.as_tensor() if isinstance(edges, EdgeIndex | Overlaps) else edges
    return plain[:, :0]

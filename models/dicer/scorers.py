"""A trained network as scorers for the evaluation: from per-node tables, or pair by pair where there are none."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dicer.collaboration import Collaboration
from models.dicer.encoder import Edges
from models.dicer.evaluation import Scorers, inner_products
from models.dicer.graphs import Graphs, Indices
from models.dicer.losses import mixture
from models.dicer.network import Dicer
from models.dicer.pairs import Batch, ByAttention, logits_of
from models.dicer.scoring import Rows, friend_ends, score, tables
from models.dicer.voices import Voices

_ROW_NUMBERS = 262_144  # of a block of item rows, in floats of one table: smaller ones make a head's matrices too often
_ATTENDED = 256  # items of a block that gathers its lists


def scorers_of(network: Dicer, bases: tuple[Tensor, Tensor], edges: Edges, graphs: Graphs) -> Scorers:
    """Scores on `graphs` with base embeddings `bases` of its users and items; encodes once, now."""
    config = network.config
    if network.collaboration is not None and network.is_silent:
        return _by_likeness(network.collaboration, bases, edges)
    cut = config.fanout if config.modulation == "attention" else None  # extremes hear everyone at no cost
    voices = Voices(graphs, social=config.social, fanout=cut)
    if config.modulation == "attention":
        return _by_attention(network, network.encode(*bases, edges), voices, graphs.items)
    user_rows, item_rows = tables(network, *bases, edges)
    size = max(1, _ROW_NUMBERS // config.width)

    @torch.no_grad()
    def one(user: int, rows: Rows) -> Tensor:
        place = torch.tensor([user])
        index, real = (torch.from_numpy(array) for array in voices.friends.padded(np.array([user])))
        heard, own = friend_ends(user_rows, index, real), user_rows[place]
        blocks = (rows[start : start + size] for start in range(0, max(1, len(rows)), size))  # one even of none
        return torch.cat([score(network, own, block, heard) for block in blocks], dim=1)

    return Scorers(
        lambda users: _stacked([one(int(user), item_rows) for user in users], graphs.items),
        lambda users, items: _stacked(
            [one(int(user), item_rows[torch.from_numpy(row)]) for user, row in zip(users, items, strict=True)],
            items.shape[1],
        ),
    )


@torch.no_grad()
def _by_likeness(likeness: Collaboration, bases: tuple[Tensor, Tensor], edges: Edges) -> Scorers:
    """By the logit alone that silent heads add nothing to: its order is the score's, at a product a pair."""
    users, items = likeness(*bases, edges.interactions)
    return inner_products(users.numpy(), items.numpy())


def _by_attention(network: Dicer, encoded: tuple[Tensor, Tensor], voices: Voices, count: int) -> Scorers:
    @torch.no_grad()
    def pairs(users: Indices, items: Indices) -> NDArray[np.float32]:
        rows = [_attended(network, encoded, voices, int(user), row) for user, row in zip(users, items, strict=True)]
        return _stacked(rows, items.shape[1])

    return Scorers(lambda users: pairs(users, np.tile(np.arange(count), (len(users), 1))), pairs)


def _attended(network: Dicer, encoded: tuple[Tensor, Tensor], voices: Voices, user: int, items: Indices) -> Tensor:
    (h, z), owner = encoded, torch.tensor([user])
    heard = voices.heard(owner, generator=torch.Generator().manual_seed(user))  # the same friends at every call
    blocks = []
    for part in torch.split(torch.from_numpy(items), _ATTENDED):
        ready = ByAttention(network, h, z, Batch(owner, part[None], 0), heard, voices)
        blocks.append(mixture(list(logits_of(network, ready)), network.head_weights))
    return torch.cat(blocks, dim=1)


def _stacked(rows: list[Tensor], width: int) -> NDArray[np.float32]:
    if not rows:
        return np.empty((0, width), np.float32)
    stacked: NDArray[np.float32] = torch.cat(rows).numpy()
    return stacked

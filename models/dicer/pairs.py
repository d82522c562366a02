"""Logits and loss of sampled pairs, the target left out of both of its histories: what one training step computes.

A step costs one pass over the graphs' edges, and then work per pair that never gathers a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.dicer.attention import attend, attended_interest
from models.dicer.blocks import blocks_of, sum_in_blocks
from models.dicer.encoder import Edges
from models.dicer.losses import cross_entropy, focal
from models.dicer.modulation import Extremes, Friends, extremes_of, modulate, user_interest
from models.dicer.network import Dicer
from models.dicer.voices import Heard, Voices

_PAIRS = 1024  # of a block,
_VOICES = 4096  # and its friends, padded: both stay in the cache


@dataclass(frozen=True, eq=False)
class Batch:
    """Users [n] and items [n, c], of which the first `positives` of each row are training interactions."""

    users: Tensor
    items: Tensor
    positives: int

    @property
    def labels(self) -> Tensor:
        """1 for a positive, 0 for a negative; [n, c]."""
        columns = torch.arange(self.items.shape[1], device=self.items.device)
        return (columns < self.positives).float().expand(self.items.shape)


class Modulated(Protocol):
    """A batch made ready: what is cut into blocks of rows, what every block shares, and a block's vectors."""

    @property
    def heard(self) -> Heard:
        """Friends of each row."""

    @property
    def sliced(self) -> Sequence[Tensor]:
        """Tensors whose first axis is the batch's rows."""

    @property
    def shared(self) -> Sequence[Tensor]:
        """Tensors that every block reads."""

    def vectors(
        self, part: slice, sliced: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """h* [n, 1, D], z* [n, c, D], x_ui [n, c, D] and y_iu [n, c, D] of the rows `part`."""


class ByExtremes:
    """Eqs. 6-12 from two rows a node; leaving the target out takes the second-largest where it owns the largest."""

    def __init__(self, network: Dicer, h: Tensor, z: Tensor, edges: Edges, batch: Batch, heard: Heard) -> None:
        users, items = edges.interactions
        histories = extremes_of(z, users, items, len(h))
        audiences, place = _audiences(h, edges.interactions, batch.items, len(z))
        first, p, (n, c) = histories.first, batch.positives, batch.items.shape
        owners, targets = batch.users[:, None].expand(n, p).reshape(-1), batch.items[:, :p].reshape(-1)
        self.sliced: Sequence[Tensor] = (
            h.index_select(0, batch.users),
            z.index_select(0, batch.items.reshape(-1)).view(n, c, -1),
            first.index_select(0, batch.users),
            histories.without(owners, targets).view(n, p, -1),
            audiences.without(place[:, :p].reshape(-1), owners).view(n, p, -1),
            audiences.of(place[:, p:].reshape(-1)).view(n, c - p, -1),
        )
        self.shared: Sequence[Tensor] = (first,)
        self.fusion, self.heard = network.config.friend_fusion, heard

    def vectors(
        self, part: slice, sliced: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `Modulated.vectors`."""
        h, z, own, own_without, audience_without, audience = sliced
        index, real = self.heard.block(part)
        ends = shared[0].index_select(0, index.reshape(-1)).view(*index.shape, -1)
        # one look at the friends for all items: their ends are most of what a block reads
        histories = torch.cat([own_without, own[:, None].expand(-1, audience.shape[1], -1)], dim=1)
        interest = user_interest(z, histories, Friends(ends, real), fusion=self.fusion)
        return h[:, None], z, interest, modulate(h[:, None], torch.cat([audience_without, audience], dim=1))


def _audiences(h: Tensor, interactions: Tensor, wanted: Tensor, items: int) -> tuple[Extremes, Tensor]:
    """Extremes of the audiences of the `wanted` items alone, and where each of them is found there."""
    distinct, place = torch.unique(wanted, return_inverse=True)
    found = torch.full((items,), -1, device=h.device)
    found[distinct] = torch.arange(len(distinct), device=h.device)
    rows = found[interactions[1]]
    kept = rows >= 0
    return extremes_of(h, rows[kept], interactions[0][kept], len(distinct)), place


class ByAttention:
    """The ablation `attention_instead_of_modulation`: lists of at most `fanout` entries, gathered for every pair."""

    def __init__(self, network: Dicer, h: Tensor, z: Tensor, batch: Batch, heard: Heard, voices: Voices) -> None:
        self.sliced: Sequence[Tensor] = (h.index_select(0, batch.users),)
        self.shared: Sequence[Tensor] = (h, z)
        self.mean, self.batch, self.heard, self.voices = network.config.friend_fusion == "mean", batch, heard, voices

    def vectors(
        self, part: slice, sliced: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `Modulated.vectors`."""
        (own_h,), (h, z) = sliced, shared[:2]
        users, items = self.batch.users[part], self.batch.items[part]
        friends, real = self.heard.block(part)
        own, own_real = self.voices.histories(users)
        theirs, theirs_real = self.voices.histories(friends)
        audience, audience_real = self.voices.audiences(items)
        targets = z[items]
        kept = own_real[:, None] & (own[:, None] != items[..., None])
        interest = attended_interest(
            targets, (z[own], kept), (z[theirs], theirs_real & real[..., None]), mean=self.mean
        )
        others = audience_real & (audience != users[:, None, None])
        attraction = attend(h[audience], own_h[:, None, None].expand(-1, items.shape[1], -1, -1), others[:, :, None])
        return own_h[:, None], targets, interest, attraction.squeeze(2)


def modulated(
    network: Dicer,
    edges: Edges,
    batch: Batch,
    voices: Voices,
    *,
    generator: torch.Generator,
) -> Modulated:
    """The batch's modulations under the network's configuration; encodes the whole graphs now."""
    h, z = network.encode(network.user_base, network.item_base, edges)
    heard = voices.heard(batch.users, generator=generator)
    if network.config.modulation == "attention":
        return ByAttention(network, h, z, batch, heard, voices)
    return ByExtremes(network, h, z, edges, batch, heard)


def logits_of(network: Dicer, ready: Modulated) -> Tensor:
    """Logits [heads, n, c] of the whole batch at once."""
    return network.head_logits(*ready.vectors(slice(None), ready.sliced, ready.shared))


def loss_of(network: Dicer, ready: Modulated, batch: Batch) -> Tensor:
    """The configured loss, averaged over the pairs of the batch, in blocks of rows."""
    config, labels = network.config, batch.labels
    low = config.precision == "bfloat16"

    def block(part: slice, sliced: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        vectors, made = ready.vectors(part, sliced, shared), shared[-len(ends) :]
        with torch.autocast(config.device, dtype=torch.bfloat16, enabled=low):
            logits = network.head_logits(*vectors, ends=[made[at : at + 4] for at in range(0, len(made), 4)])
        wanted, logits = labels[part], logits.float()
        share = len(wanted) / len(labels)
        if config.loss == "focal":
            return share * focal(logits, wanted, gamma=config.focal_gamma, alpha=config.focal_alpha)
        weights = network.head_weights / network.head_weights.sum()
        return share * cross_entropy(logits, wanted, weights)

    ends = [tensor for head in network.heads for tensor in head.tower_ends()]  # a block's cost as much as its pairs
    heads = [weight for name, weight in network.named_parameters() if "_head." in name]
    rows = max(1, _PAIRS // batch.items.shape[1])
    blocks = blocks_of(ready.heard.lists.lengths, rows=rows, cells=_VOICES)
    return sum_in_blocks(block, ready.sliced, [*ready.shared, *heads, *ends], blocks=blocks)


def step_loss(network: Dicer, edges: Edges, batch: Batch, voices: Voices, *, generator: torch.Generator) -> Tensor:
    """What a training step goes down: the configured loss of the heads."""
    return loss_of(network, modulated(network, edges, batch, voices, generator=generator), batch)

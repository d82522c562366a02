"""Semantic collapse, measured: attention sinks, entropy, what attention falls on, and the rank of the embeddings.

The sink measure is that of Gu et al., "When Attention Sink Emerges in Language Models", ICLR 2025 (arXiv 2410.10781).
Shapes: L layers, A heads, n tokens of one history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.karma.backbones import decoder_of
from models.karma.compressed import FIRST_SOFT
from models.karma.evaluation import Readable
from models.karma.network import Karma, causal
from models.karma.text import INT, QUERY, SPECIALS, Tokens

Floats = NDArray[np.float64]

EPSILON = 0.3
"""A key that receives more than this of the attention of the queries from it on is a sink (Gu et al.)."""
LATER = 16
"""Keys with fewer queries from them on are left out: a mean over few says nothing."""
KINDS = ("mark", "query", "item")


@dataclass(frozen=True, eq=False)
class Collapse:
    """Means over histories; all but the last two by layer and head [L, A]."""

    sink_share: Floats  # histories with a key above EPSILON
    first_key: Floats  # histories whose first key is above EPSILON
    strongest: Floats  # what the strongest key receives
    entropy: Floats  # of a query's attention, as a share of log(keys)
    on: dict[str, Floats]  # share of the attention of the `[INT]`s on each of KINDS
    tokens: dict[str, float]  # share of each of KINDS among the keys that an `[INT]` sees: attention without a choice


@torch.no_grad()
def attention_of(network: Karma, tokens: Tokens, soft: torch.Tensor | None = None) -> Floats:
    """Attention weights [L, A, n, n] of one history: rows are queries, columns keys; `soft` as `Karma.embed_history`.

    Attention is computed step by step for this, because the fused kernels never hold the weights.
    """
    decoder, ids = decoder_of(network.backbone), torch.from_numpy(tokens)[None]
    mask, positions = causal(len(tokens), ids)
    usual = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        output = decoder(
            inputs_embeds=network.embed_history(ids, soft),
            # added to the scores, where the fused kernels take true and false
            attention_mask=torch.zeros(mask.shape).masked_fill(~mask, -torch.inf),
            position_ids=positions,
            output_attentions=True,
            use_cache=False,
        )
    finally:
        decoder.set_attn_implementation(usual)
    weights: Floats = torch.cat(output.attentions).double().numpy()
    return weights


def received(weights: Floats) -> Floats:
    """Gu et al., eq. 7: mean attention [..., n] that key k receives from queries i >= k, of weights [..., n, n]."""
    queries = np.arange(weights.shape[-1], 0, -1)
    share: Floats = weights.sum(axis=-2) / queries  # what is before k gives it nothing
    return share


def row_entropy(weights: Floats) -> Floats:
    """Entropy of each query's attention [..., n - 1] as a share of log(keys); the first query has no choice."""
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    entropy: Floats = -(weights * logs).sum(axis=-1)[..., 1:] / np.log(np.arange(2, weights.shape[-1] + 1))
    return entropy


def kinds_of(tokens: Tokens, *, soft_items: int | None = None) -> NDArray[np.int64]:
    """Which of KINDS each token of a history is: its own marks, what stands for a query, or for an item.

    These are words; or, with `soft_items`, rows of soft tokens, of which so many are items' and the rest queries'.
    """
    if soft_items is not None:
        row = tokens - FIRST_SOFT
        return np.select([row < 0, row < soft_items], [0, 2], 1).astype(np.int64)
    kinds, speaking = np.zeros(len(tokens), np.int64), 0
    for place, token in enumerate(tokens.tolist()):
        if token < len(SPECIALS):
            speaking = {QUERY: 1, INT: 2}.get(token, 0)
        else:
            kinds[place] = speaking
    return kinds


def collapse_of(network: Karma, histories: Readable) -> Collapse:
    """The measures over histories of at least LATER tokens. Raises ValueError if none is so long."""
    long = [tokens for tokens in histories.sequences if len(tokens) >= LATER]
    if not long:
        raise ValueError(f"expected a history of at least {LATER} tokens, got {len(histories.sequences)} shorter ones")
    strongest, first, entropy, on, present = [], [], [], [], []
    for tokens in long:
        weights = attention_of(network, tokens, histories.soft)
        shares = received(weights)[..., : len(tokens) - LATER + 1]
        strongest.append(shares.max(axis=-1))
        first.append(shares[..., 0])
        entropy.append(row_entropy(weights).mean(axis=-1))
        reading = weights[..., tokens == INT, :].mean(axis=-2)
        seen = (np.arange(len(tokens)) <= np.flatnonzero(tokens == INT)[:, None]) / (1 + np.flatnonzero(tokens == INT))[
            :, None
        ]
        member = kinds_of(tokens, soft_items=histories.soft_items)[:, None] == np.arange(len(KINDS))
        on.append(reading @ member)
        present.append(seen.mean(axis=0) @ member)
    falls, there = np.mean(on, axis=0), np.mean(present, axis=0)
    return Collapse(
        np.mean(np.array(strongest) > EPSILON, axis=0),
        np.mean(np.array(first) > EPSILON, axis=0),
        np.mean(strongest, axis=0),
        np.mean(entropy, axis=0),
        {kind: falls[..., number] for number, kind in enumerate(KINDS)},
        {kind: float(there[number]) for number, kind in enumerate(KINDS)},
    )


def effective_rank(vectors: NDArray[np.floating]) -> float:
    """exp of the entropy of the normalised singular values of `vectors` [n, d] (Roy and Vetterli, EUSIPCO 2007)."""
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))

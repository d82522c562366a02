"""What KARMA is measured beside: item-to-item neighbours and SASRec, on the same histories and targets.

SASRec: Kang and McAuley, ICDM 2018 (arXiv 1808.09781), a causal transformer over item ids, here with cross-entropy
over all items instead of one sampled negative, which is the stronger form (Petrov and Macdonald, RecSys 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional

from models.karma.evaluation import Score, Targets, score_ranks, smooth_gain
from models.karma.text import PAD, History, Rows, padded
from models.training import Fit, LoopConfig, fit


@dataclass(frozen=True)
class Neighbours:
    """Item-to-item: cosine of the items' users, summed over the last `window` items of a history (0: all)."""

    window: int = 0


@dataclass(frozen=True)
class SasrecConfig:
    """SASRec of KARMA's width; validation picks among `sasrec_grid`."""

    learning_rate: float = 1e-3
    hidden: int = 96
    layers: int = 2
    heads: int = 4
    dropout: float = 0.2
    history_length: int = 50
    batch: int = 32
    steps: int = 1500
    validate_every: int = 50
    patience: int = 5


def neighbours_grid() -> tuple[Neighbours, ...]:
    """The trials of item-to-item."""
    return tuple(Neighbours(window) for window in (0, 20, 5, 1))


def sasrec_grid() -> tuple[SasrecConfig, ...]:
    """The trials of SASRec."""
    return tuple(
        SasrecConfig(layers=layers, learning_rate=rate, dropout=dropout)
        for layers, rate, dropout in ((2, 1e-3, 0.2), (2, 3e-3, 0.2), (2, 1e-3, 0.5), (4, 1e-3, 0.2))
    )


def cosine_neighbours(histories: Sequence[Rows], items: int) -> csr_array:
    """|users of both| / sqrt(|users of one| |users of the other|) [items, items]."""
    owned = [np.unique(history) for history in histories]
    rows = np.repeat(np.arange(len(owned)), [len(each) for each in owned])
    columns = np.concatenate([*owned, np.empty(0, np.int64)])
    has = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(owned), items))
    lengths = np.sqrt(np.maximum(has.sum(axis=0), 1.0))
    unit = has.multiply(1.0 / lengths[None, :]).tocsr()
    return csr_array(unit.T @ unit)


def neighbours_score(likeness: csr_array, config: Neighbours) -> Score:
    """Summed cosines of the latest items of a history."""

    def score(targets: Targets, part: slice) -> NDArray[np.floating]:
        pasts = [np.unique(history.items[-config.window :]) for history in targets.histories[part]]
        rows = np.repeat(np.arange(len(pasts)), [len(past) for past in pasts])
        columns = np.concatenate([*pasts, np.empty(0, np.int64)])
        shown = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(pasts), likeness.shape[0]))
        scores: NDArray[np.floating] = (shown @ likeness).toarray()
        return scores

    return score


class Sasrec(nn.Module):
    """Item embeddings, learned places, a pre-norm causal transformer; scores are inner products."""

    def __init__(self, config: SasrecConfig, *, items: int) -> None:
        """Weights come from torch's global generator. Item r is embedded in row r + 1; row 0 is padding."""
        super().__init__()
        self.items = nn.Embedding(items + 1, config.hidden, padding_idx=PAD)
        nn.init.normal_(self.items.weight, std=0.02)
        self.places = nn.Parameter(torch.randn(config.history_length, config.hidden) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.hidden, config.heads, 2 * config.hidden, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, histories: Tensor) -> Tensor:
        """States [B, S, H] of `histories` [B, S], padded on the right, where causality hides the padding."""
        length = histories.shape[1]
        embedded = self.dropout(self.items(histories) + self.places[:length])
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        states: Tensor = self.norm(self.layers(embedded, mask=mask, is_causal=True))
        return states

    def scores(self, states: Tensor) -> Tensor:
        """Scores [..., items] of every item next."""
        return functional.linear(states, self.items.weight[1:])


def train_sasrec(
    histories: Sequence[Rows],
    items: int,
    judged: Targets,
    config: SasrecConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[Sasrec, Fit]:
    """Train on every place of the histories to the best validation value over `judged`."""
    usable = [history for history in histories if len(history) > 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Sasrec(config, items=items)

    def objective(_: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(usable), (config.batch,), generator=generator).tolist()
        rows = [usable[row][-config.history_length - 1 :] + 1 for row in chosen]
        block = torch.from_numpy(padded(rows)[0])
        given, wanted = block[:, :-1], block[:, 1:]
        real = wanted != PAD
        return functional.cross_entropy(network.scores(network(given)[real]), wanted[real] - 1)

    def validate() -> float:
        return smooth_gain(score_ranks(judged, sasrec_score(network, config)))

    loop = LoopConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=0.01,
        validate_every=config.validate_every,
        patience=config.patience,
    )
    ran = fit(network, objective, validate, config=loop, seed=seed, checkpoint=checkpoint, label="train sasrec")
    network.eval()
    return network, ran


def sasrec_score(network: Sasrec, config: SasrecConfig) -> Score:
    """Scores after the last item of each history."""

    @torch.no_grad()
    def score(targets: Targets, part: slice) -> NDArray[np.floating]:
        pasts = [history.items[-config.history_length :] + 1 for history in targets.histories[part]]
        pasts = [past if len(past) else np.array([PAD]) for past in pasts]
        ids, lengths = padded(pasts)
        states = network(torch.from_numpy(ids))[torch.arange(len(pasts)), torch.from_numpy(lengths) - 1]
        scores: NDArray[np.floating] = network.scores(states).numpy()
        return scores

    return score


def moved(score: Score, to_new: Rows, items: int) -> Score:
    """The scores of a model trained on an older catalogue, for one of `items`; what it never saw comes last.

    `to_new` [old items] is each old item's row in the newer catalogue.
    """
    to_old = np.full(items, -1, np.int64)
    to_old[to_new] = np.arange(len(to_new))

    def on_new(targets: Targets, part: slice) -> NDArray[np.floating]:
        some = targets.take(range(part.start, part.stop))
        pasts = [to_old[history.items] for history in some.histories]
        known = [History(past[past >= 0], []) for past in pasts]
        scores = np.full((len(some), items), -np.inf)
        scores[:, to_new] = score(replace(some, histories=known), slice(0, len(some)))
        return scores

    return on_new

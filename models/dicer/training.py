"""Train DICER on the graphs of a training set; select on the validation window, report the test window once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.dicer.config import DicerConfig
from models.dicer.evaluation import (
    HeldOut,
    evaluate,
    held_out,
    network_scorer,
    popularity_scorer,
    social_alignment,
)
from models.dicer.graphs import Graphs, Indices, Lists, graphs_of, rows_of
from models.dicer.losses import cross_entropy, focal
from models.dicer.network import Dicer, Edges, Friends, edges_of, extremes_of
from models.training import Fit, LoopConfig, fit

if TYPE_CHECKING:  # its module imports Feast; training takes the rows, not the store
    from features.training_sets import TrainingSet

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainedDicer:
    """A trained network, whose base embeddings' rows are `user_ids` and `item_ids`, with its held-out metrics."""

    network: Dicer
    config: DicerConfig
    user_ids: pa.StringArray
    item_ids: pa.StringArray
    metrics: Mapping[str, Any]


class Sampler:
    """Draws users by activity, some positives of each, and as many unseen items for each positive, all uniform."""

    def __init__(self, histories: Lists, items: int) -> None:
        self.items = items
        self.offsets, self.lengths = torch.from_numpy(histories.offsets), torch.from_numpy(histories.lengths)
        self.values = torch.from_numpy(histories.values)
        self.drawable = torch.where(self.lengths < items, self.lengths, 0).cumsum(0)  # who had all has no negatives
        # Of the history h_0 < h_1 < ... of a user, h_k - k unseen items come before h_k. One key a user and gap.
        owner = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        place = torch.arange(len(owner)) - self.offsets[owner]
        self.gaps = owner * (items + 1) + self.values - place

    def draw(self, config: DicerConfig, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Users [n], items [n, p + p · negatives] and labels of the same shape, positives first."""
        n, p = config.users_per_step, config.positives_per_user
        uniform = torch.rand(n, 1 + p + p * config.negatives, generator=generator, dtype=torch.float64)
        users = torch.searchsorted(self.drawable, (uniform[:, 0] * self.drawable[-1]).long(), right=True)
        items = torch.cat(
            [self._positives(users, uniform[:, 1 : 1 + p]), self._unseen(users, uniform[:, 1 + p :])], dim=1
        )
        labels = torch.zeros(items.shape)
        labels[:, :p] = 1
        return users, items, labels

    def _positives(self, users: Tensor, uniform: Tensor) -> Tensor:
        return self.values[(uniform * self.lengths[users, None]).long() + self.offsets[users, None]]

    def _unseen(self, users: Tensor, uniform: Tensor) -> Tensor:
        """The r-th item outside the history for uniform r: r plus the number of k with h_k - k <= r.

        Exact and without rejection, so no user is too hard to draw for; one sorted search answers it for all.
        """
        r = (uniform * (self.items - self.lengths[users, None])).long()
        before = torch.searchsorted(self.gaps, users[:, None] * (self.items + 1) + r, right=True)
        return r + before - self.offsets[users, None]


def train_dicer(
    training_set: TrainingSet, config: DicerConfig, *, seed: int, checkpoint: Path | None = None
) -> TrainedDicer:
    """Train to the best validation NDCG@10, and measure validation and test beside popularity.

    With `checkpoint` a killed run continues and ends with the same weights. Raises ValueError without interactions.
    """
    graphs = graphs_of(training_set.train)
    lengths = graphs.histories().lengths
    if not np.any((lengths > 0) & (lengths < graphs.items)):
        raise ValueError("expected interactions before train_end to learn from, got a graph with none")
    with torch.random.fork_rng(devices=[]), _quiet_about_sparse_tensors():
        torch.manual_seed(seed)
        network = Dicer(config, graphs.users, graphs.items)
        truth = held_out(training_set.validation, graphs)
        ran = _learn(network, graphs, truth, config=config, seed=seed, checkpoint=checkpoint)
        network.eval()
        recent = graphs_of(training_set.recent)
        trained = TrainedDicer(network, config, graphs.user_ids, graphs.item_ids, {})
        validation, test = (
            _measure(trained, graphs, truth),
            _measure(trained, recent, held_out(training_set.test, recent)),
        )
    metrics = {
        "validation": validation[0],
        "test": test[0],
        "labels": {"validation": validation[1], "test": test[1]},
        "social_alignment": social_alignment(graphs, seed=seed),
        "steps": ran.steps,
        "best_step": ran.best_step,
    }
    return TrainedDicer(network, config, graphs.user_ids, graphs.item_ids, metrics)


def cold_rows(base: Tensor, rows: Indices) -> Tensor:
    """Base embeddings of `rows`; a node that training did not know (-1) has the cold one: zeros.

    From zeros the encoder still makes something of its neighbours (eq. 3's first term), and of none its biases.
    """
    index = torch.from_numpy(rows)
    padded = torch.cat([base, base.new_zeros(1, base.shape[1])])
    return padded[torch.where(index < 0, len(base), index)]


def _learn(
    network: Dicer, graphs: Graphs, truth: HeldOut, *, config: DicerConfig, seed: int, checkpoint: Path | None
) -> Fit:
    edges, sampler, histories = edges_of(graphs), Sampler(graphs.histories(), graphs.items), graphs.histories()
    friends, judged = graphs.heard_friends(), truth.sample(config.validation_users, seed=seed)

    def objective(step: int, generator: torch.Generator) -> Tensor:
        users, items, labels = sampler.draw(config, generator)
        logits = _pair_logits(network, edges, friends, users, items)
        if config.loss == "focal":
            return focal(logits, labels, gamma=config.focal_gamma, alpha=config.focal_alpha)
        return cross_entropy(logits, labels, network.head_weights)

    def validate() -> float:
        scorer = network_scorer(network, (network.user_base, network.item_base), edges, graphs)
        return evaluate(scorer, judged, graphs, histories)["NDCG@10"]

    loop = LoopConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        validate_every=config.validate_every,
        patience=config.patience,
    )
    return fit(network, objective, validate, config=loop, seed=seed, checkpoint=checkpoint, label="train dicer")


def _pair_logits(network: Dicer, edges: Edges, friends: Lists, users: Tensor, items: Tensor) -> Tensor:
    h, z = network.encode(network.user_base, network.item_base, edges)
    consumers, consumed = edges.interactions
    histories = extremes_of(z, consumers, consumed, len(h))
    audiences = extremes_of(h, consumed, consumers, len(z))
    index, real = (torch.from_numpy(array) for array in friends.padded(users.numpy()))
    heard = Friends(histories.first[index] * real[..., None], real)
    return network.pair_logits(h, z, histories, audiences, (users, items), heard)


@torch.no_grad()
def _measure(trained: TrainedDicer, graphs: Graphs, truth: HeldOut) -> tuple[dict[str, Any], dict[str, int]]:
    """Metrics of the model and of popularity on the same candidates, and what they were measured on."""
    network = trained.network
    bases = (
        cold_rows(network.user_base, rows_of(graphs.user_ids, trained.user_ids)),
        cold_rows(network.item_base, rows_of(graphs.item_ids, trained.item_ids)),
    )
    seen = graphs.histories()
    scorers = {
        "model": network_scorer(network, bases, edges_of(graphs), graphs),
        "popularity": popularity_scorer(graphs),
    }
    positives = sum(len(wanted) for wanted in truth.positives)
    counts = {"users": len(truth.users), "positives": positives, "unknown": truth.unknown}
    return {name: evaluate(scorer, truth, graphs, seen) for name, scorer in scorers.items()}, counts


@contextmanager
def _quiet_about_sparse_tensors() -> Iterator[None]:
    # torch notes once a process that CSC tensors are in beta and unchecked; the edge lists are made and sorted here.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse ")
        yield

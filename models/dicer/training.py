"""Train DICER on the graphs of a training set; select on the validation window, report the test window once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from features.errors import NothingToLearn
from features.social_alignment import social_alignment
from models.dicer.config import DicerConfig
from models.dicer.encoder import Edges, edges_of, quiet_about_sparse_tensors
from models.dicer.evaluation import HeldOut, Scorers, evaluate, held_out, popularity_scorer
from models.dicer.graphs import Graphs, Indices, graphs_of, rows_of
from models.dicer.histories import unseen_of
from models.dicer.likeness import learn_likeness
from models.dicer.neighbourhoods import Neighbourhoods
from models.dicer.network import Dicer
from models.dicer.pairs import Batch, ByExtremes, loss_of, step_loss
from models.dicer.scorers import scorers_of
from models.dicer.voices import Voices
from models.training import Fit, LoopConfig, Objective, fit, require_device

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

    def __init__(self, graphs: Graphs) -> None:
        self.unseen = unseen_of(graphs.histories(), graphs.items)
        lengths = self.unseen.histories.lengths
        self.drawable = np.where(lengths < graphs.items, lengths, 0).cumsum()  # who had all has no negatives
        if not len(lengths) or self.drawable[-1] == 0:
            raise NothingToLearn(
                "expected interactions to learn from, got a graph with none, or with nothing left to offer"
            )

    def draw(self, config: DicerConfig, generator: torch.Generator, *, order: Indices | None = None) -> Batch:
        """`users_per_step` users with `positives_per_user` positives and their negatives, in rows by `order[user]`."""
        n, p = config.users_per_step, config.positives_per_user
        uniform = torch.rand(n, 1 + p + p * config.negatives, generator=generator, dtype=torch.float64).numpy()
        users = np.searchsorted(self.drawable, (uniform[:, 0] * self.drawable[-1]).astype(np.int64), side="right")
        if order is not None:
            users = users[np.argsort(order[users], kind="stable")]
        histories = self.unseen.histories
        places = (uniform[:, 1 : 1 + p] * histories.lengths[users, None]).astype(np.int64)
        positives = histories.values[places + histories.offsets[users, None]]
        ranks = (uniform[:, 1 + p :] * self.unseen.counts[users, None]).astype(np.int64)
        items = np.concatenate([positives, self.unseen.take(users, ranks)], axis=1)
        return Batch(torch.from_numpy(users).to(config.device), torch.from_numpy(items).to(config.device), p)


def train_split(
    graphs: Graphs,
    config: DicerConfig,
    *,
    validate: Callable[[Scorers], float],
    seed: int,
    checkpoint: Path | None = None,
    label: str = "train dicer",
) -> tuple[Dicer, Fit]:
    """A network trained on `graphs` to the step at which `validate` was highest, with how it got there.

    With `checkpoint` a killed run continues and ends with the same weights. Raises NothingToLearn without interactions,
    ConfigurationError without the configuration's device.
    """
    require_device(config.device)
    with torch.random.fork_rng(devices=[]), quiet_about_sparse_tensors():
        torch.manual_seed(seed)
        network = Dicer(config, graphs.users, graphs.items).to(config.device)
        edges = edges_of(graphs, device=config.device)
        if network.collaboration is not None:
            learn_likeness(
                network,
                edges.interactions,
                validate=validate,
                seed=seed,
                checkpoint=checkpoint and checkpoint / "likeness",
            )
            network.silence_heads()
        on_cpu = edges if config.device == "cpu" else edges_of(graphs)

        def judge() -> float:
            twin = network if config.device == "cpu" else copy.deepcopy(network).cpu()
            return validate(scorers_of(twin, (twin.user_base, twin.item_base), on_cpu, graphs))

        ran = fit(
            network,
            _objective(network, edges, graphs),
            judge,
            config=_loop(config),
            seed=seed,
            checkpoint=checkpoint and checkpoint / "whole",
            label=label,
        )
    return network.cpu().eval(), ran


def _objective(network: Dicer, edges: Edges, graphs: Graphs) -> Objective:
    """The loss of a batch, drawn from the whole `graphs`; with a fanout, encoded in its surroundings alone."""
    config, sampler = network.config, Sampler(graphs)
    voices = Voices(graphs, social=config.social, fanout=config.fanout, device=config.device)
    around = Neighbourhoods(graphs, config) if config.fanout and config.modulation == "extremes" else None

    def objective(step: int, generator: torch.Generator) -> Tensor:
        # rows with equally many friends stand together, so that a block is padded to its own longest list
        batch = sampler.draw(config, generator, order=voices.friends.lengths)
        if around is None:
            return step_loss(network, edges, batch, voices, generator=generator)
        near = around.around(batch, generator=generator)
        bases = network.user_base.index_select(0, near.users), network.item_base.index_select(0, near.items)
        encoded = network.encode(*bases, near.edges)
        return loss_of(network, ByExtremes(network, *encoded, near.edges, near.batch, near.heard), near.batch)

    return objective


def train_dicer(
    training_set: TrainingSet, config: DicerConfig, *, seed: int, checkpoint: Path | None = None
) -> TrainedDicer:
    """Train to the best validation NDCG@10, and measure validation and test beside popularity.

    With `checkpoint` a killed run continues and ends with the same weights. Raises NothingToLearn without interactions.
    """
    graphs = graphs_of(training_set.train)
    truth = held_out(training_set.validation, graphs)
    judged, histories = truth.sample(config.validation_users, seed=seed), graphs.histories()

    def validate(scorers: Scorers) -> float:
        return evaluate(scorers.every_item, judged, graphs, histories)["NDCG@10"]

    network, ran = train_split(graphs, config, validate=validate, seed=seed, checkpoint=checkpoint)
    recent = graphs_of(training_set.recent)
    trained = TrainedDicer(network, config, graphs.user_ids, graphs.item_ids, {})
    with quiet_about_sparse_tensors():
        validation = _measure(trained, graphs, truth)
        test = _measure(trained, recent, held_out(training_set.test, recent))
    metrics = {
        "validation": validation[0],
        "test": test[0],
        "labels": {"validation": validation[1], "test": test[1]},
        "social_alignment": asdict(
            social_alignment(graphs.friends, graphs.interactions, seed=seed, users=graphs.users)
        ),
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


def _loop(config: DicerConfig) -> LoopConfig:
    return LoopConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        validate_every=config.validate_every,
        patience=config.patience,
        look_first=config.collaborative_layers is not None,  # heads that correct nothing are a candidate
    )


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
        "model": scorers_of(network, bases, edges_of(graphs), graphs).every_item,
        "popularity": popularity_scorer(graphs),
    }
    positives = sum(len(wanted) for wanted in truth.positives)
    counts = {"users": len(truth.users), "positives": positives, "unknown": truth.unknown}
    return {name: evaluate(scorer, truth, graphs, seen) for name, scorer in scorers.items()}, counts

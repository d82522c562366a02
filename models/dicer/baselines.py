"""What DICER is measured beside: popularity, BPR-MF and LightGCN, on the same split with the same loop.

BPR-MF (Rendle et al., UAI 2009, doi 10.5555/1795114.1795167) is LightGCN (He et al., SIGIR 2020,
doi 10.1145/3397271.3401063) without layers, so both are PyTorch Geometric's `LightGCN`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn.models import LightGCN
from torch_geometric.nn.models.lightgcn import BPRLoss

from models.dicer.collaboration import SymmetricLGConv, adjacency_of
from models.dicer.evaluation import Scorers, inner_products
from models.dicer.graphs import Indices
from models.dicer.histories import Unseen, lists_of_pairs, unseen_of
from models.dicer.protocols import Split
from models.training import Fit, LoopConfig, fit, require_device


@dataclass(frozen=True)
class FactorConfig:
    """One trial of BPR-MF (no layers) or LightGCN. An epoch is as many drawn pairs as there are training pairs."""

    layers: int = 0
    dimension: int = 64  # DICER's d
    learning_rate: float = 0.005
    regularisation: float = 1e-4  # of the squared base rows of a drawn user, positive and negative
    pairs_per_step: int = 4096
    epochs: int = 300
    validate_every: int = 5  # epochs
    patience: int = 8  # validations without a new best
    validation_users: int = 2000  # at most so many, drawn once, judge a step, as for DICER
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        for name in ("dimension", "pairs_per_step", "epochs", "validate_every", "patience", "validation_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"baseline {name} must be at least 1, got {getattr(self, name)}")


def bpr_grid() -> tuple[FactorConfig, ...]:
    """The trials of BPR-MF; validation picks one."""
    return tuple(
        FactorConfig(learning_rate=rate, regularisation=weight)
        for rate, weight in ((0.005, 1e-4), (0.005, 1e-2), (0.002, 1e-3))
    )


def lightgcn_grid() -> tuple[FactorConfig, ...]:
    """The trials of LightGCN; large steps at large rates, because each costs a propagation over the whole graph."""
    return tuple(
        FactorConfig(layers=layers, learning_rate=rate, regularisation=weight, pairs_per_step=16384)
        for layers, rate, weight in ((3, 0.01, 1e-4), (3, 0.02, 1e-3), (2, 0.01, 1e-4))
    )


def factor_network(split: Split, config: FactorConfig) -> LightGCN:
    """The untrained network; users are its first rows."""
    network = LightGCN(split.users + split.items, config.dimension, config.layers)
    network.convs = nn.ModuleList(SymmetricLGConv() for _ in range(config.layers))
    return network


def train_factors(
    split: Split,
    config: FactorConfig,
    validate: Callable[[Scorers], float],
    *,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[Scorers, Fit]:
    """Train on uniform (user, positive, unseen negative) triples to the best validation value.

    Raises ConfigurationError without the configuration's device.
    """
    require_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = factor_network(split, config).to(config.device)
    interactions, steps = torch.from_numpy(split.interactions.copy()), steps_per_epoch(split, config)
    adjacency = adjacency_of(interactions, split.users, split.items).to(config.device)
    unseen = unseen_of(lists_of_pairs(split.interactions, split.users), split.items)
    loss = BPRLoss(config.regularisation)
    drawable = split.interactions[:, unseen.counts[split.interactions[0]] > 0]

    def objective(_: int, generator: torch.Generator) -> Tensor:
        users, positives, negatives = _triples(drawable, unseen, config.pairs_per_step, generator)
        rows = torch.cat([users, positives + split.users, negatives + split.users]).to(config.device)
        # `embedding` and not `[rows]`, whose gradient is many times slower
        user, positive, negative = functional.embedding(rows, network.get_embedding(adjacency)).chunk(3)
        base = functional.embedding(rows, network.embedding.weight)
        value: Tensor = loss((user * positive).sum(-1), (user * negative).sum(-1), base)
        return value

    loop = LoopConfig(
        steps=config.epochs * steps,
        learning_rate=config.learning_rate,
        weight_decay=0.0,
        validate_every=config.validate_every * steps,
        patience=config.patience,
    )
    ran = fit(
        network,
        objective,
        lambda: validate(factor_scorers(network, adjacency, split.users)),
        config=loop,
        seed=seed,
        checkpoint=checkpoint,
        label="train baseline",
    )
    return factor_scorers(network, adjacency, split.users), ran


@torch.no_grad()
def factor_scorers(network: LightGCN, adjacency: Tensor, users: int) -> Scorers:
    """Inner products of the network's rows as they are now."""
    rows = network.get_embedding(adjacency).cpu().numpy()
    return inner_products(rows[:users], rows[users:])


def popularity_scorers(split: Split) -> Scorers:
    """An item's number of training users, for everyone."""
    counts = np.bincount(split.interactions[1], minlength=split.items).astype(np.float32)
    return Scorers(lambda users: np.tile(counts, (len(users), 1)), lambda _, items: counts[items])


def steps_per_epoch(split: Split, config: FactorConfig) -> int:
    """Steps that draw as many pairs as there are in train."""
    return -(-int(split.interactions.shape[1]) // config.pairs_per_step)


def _triples(pairs: Indices, unseen: Unseen, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Users, one positive of each and one unseen item of each, all uniform; [count] each."""
    uniform = torch.rand(2, count, generator=generator, dtype=torch.float64).numpy()
    users, positives = pairs[:, (uniform[0] * pairs.shape[1]).astype(np.int64)]
    ranks = (uniform[1] * unseen.counts[users]).astype(np.int64)
    negatives = unseen.take(users, ranks[:, None])[:, 0]
    return torch.from_numpy(users), torch.from_numpy(positives), torch.from_numpy(negatives)

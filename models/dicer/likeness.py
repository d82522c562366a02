"""The first half of `dicer_plus`'s training: the likeness alone, against a crowd of items, to its own early stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from models.dicer.collaboration import Collaboration
from models.dicer.evaluation import Scorers, inner_products
from models.dicer.losses import sampled_softmax
from models.dicer.network import Dicer
from models.training import Fit, LoopConfig, fit


def learn_likeness(
    network: Dicer,
    interactions: Tensor,
    *,
    validate: Callable[[Scorers], float],
    seed: int,
    checkpoint: Path | None = None,
) -> Fit:
    """Train its part of the base rows to the step at which `validate` was highest.

    A step takes some of the `interactions` [2, n] out of the graph, and asks each user for the item so taken.
    """
    config, likeness = network.config, _of(network)

    def objective(_: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randperm(interactions.shape[1], generator=generator)[: config.likeness_pairs]
        taken = interactions.index_select(1, drawn.to(interactions.device))
        users, items = likeness(network.user_base, network.item_base, interactions, left_out=taken)
        asking = functional.embedding(taken[0], users)
        wanted = (asking * functional.embedding(taken[1], items)).sum(dim=1, keepdim=True)
        crowd = torch.randint(len(items), (config.shared_negatives,), generator=generator).to(items.device)
        return sampled_softmax(wanted, asking @ items.index_select(0, crowd).T, stands_for=len(items) / len(crowd))

    def judge() -> float:
        users, items = likeness(network.user_base, network.item_base, interactions)
        return validate(inner_products(users.cpu().numpy(), items.cpu().numpy()))

    loop = LoopConfig(
        steps=config.likeness_steps,
        learning_rate=config.likeness_learning_rate,
        weight_decay=0.0,
        validate_every=config.validate_every,
        patience=config.patience,
    )
    ran = fit(network, objective, judge, config=loop, seed=seed, checkpoint=checkpoint, label="train likeness")
    likeness.settle(network.item_base)
    return ran


def _of(network: Dicer) -> Collaboration:
    assert network.collaboration is not None, "a network without a likeness has none to learn"
    return network.collaboration

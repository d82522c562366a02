"""The baselines: PyTorch Geometric's layers and ours agree, triples are what they say, and both models learn."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from torch_geometric.nn.models import LightGCN

from models.dicer.baselines import (
    FactorConfig,
    _triples,
    bpr_grid,
    factor_network,
    lightgcn_grid,
    popularity_scorers,
    train_factors,
)
from models.dicer.collaboration import adjacency_of
from models.dicer.evaluation import Scorers
from models.dicer.histories import lists_of_pairs, unseen_of
from tests.split_worlds import toy_split

CONFIG = FactorConfig(dimension=8, learning_rate=0.05, pairs_per_step=128, epochs=30, validate_every=10)


def test_layers_and_gradients_are_those_of_torch_geometric() -> None:
    split = toy_split(0)
    network = factor_network(split, dataclasses.replace(CONFIG, layers=3))
    plain = LightGCN(split.users + split.items, CONFIG.dimension, 3)
    plain.load_state_dict(network.state_dict())
    users, items = torch.from_numpy(split.interactions)
    edges = torch.stack([torch.cat([users, items + split.users]), torch.cat([items + split.users, users])])
    weights = torch.rand(split.users + split.items, CONFIG.dimension, generator=torch.Generator().manual_seed(1))
    results = []
    adjacency = adjacency_of(torch.from_numpy(split.interactions), split.users, split.items)
    for model, graph in ((network, adjacency), (plain, edges)):
        rows = model.get_embedding(graph)
        (rows * weights).sum().backward()
        results.append((rows.detach(), model.embedding.weight.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_triples_are_a_positive_and_an_unseen_item_uniformly() -> None:
    split = toy_split(1, users=4)
    unseen = unseen_of(lists_of_pairs(split.interactions, 4), 60)
    users, positives, negatives = _triples(split.interactions, unseen, 60_000, torch.Generator().manual_seed(0))
    had = set(map(tuple, split.interactions.T.tolist()))
    assert set(zip(users.tolist(), positives.tolist(), strict=True)) == had
    drawn = Counter(zip(users.tolist(), negatives.tolist(), strict=True))
    assert drawn.keys() == {(user, item) for user in range(4) for item in range(60)} - had
    assert max(drawn.values()) < 1.5 * min(drawn.values())


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("sampled", [False, True])
def test_both_models_learn_what_popularity_cannot_know(layers: int, sampled: bool) -> None:
    split = toy_split(2, sampled=sampled)

    def validate(scorers: Scorers) -> float:
        return split.validation.evaluate(scorers, (10,)).metrics["NDCG@10"]

    scorers, ran = train_factors(split, dataclasses.replace(CONFIG, layers=layers), validate, seed=0)
    popular = split.test.evaluate(popularity_scorers(split), (10,)).metrics["NDCG@10"]
    assert split.test.evaluate(scorers, (10,)).metrics["NDCG@10"] > 1.3 * popular
    assert ran.best_value == pytest.approx(validate(scorers)), "the best weights are kept"
    again, _ = train_factors(split, dataclasses.replace(CONFIG, layers=layers), validate, seed=0)
    users = np.arange(split.users)
    assert np.array_equal(again.every_item(users), scorers.every_item(users))


def test_the_two_ways_to_ask_agree() -> None:
    split = toy_split(3)
    for scorers in (
        popularity_scorers(split),
        train_factors(split, dataclasses.replace(CONFIG, epochs=1), lambda _: 0.0, seed=0)[0],
    ):
        users, items = np.array([5, 0]), np.array([[1, 7], [0, 59]])
        expected = np.take_along_axis(scorers.every_item(users), items, axis=1)
        assert scorers.pairs(users, items) == pytest.approx(expected, abs=1e-6)


def test_grids_are_small_and_of_one_size() -> None:
    for grid, layers in ((bpr_grid(), {0}), (lightgcn_grid(), {2, 3})):
        assert len(grid) == len(set(grid)) <= 4
        assert {config.layers for config in grid} == layers
        assert {config.dimension for config in grid} == {64}
    with pytest.raises(ValueError, match="epochs"):
        FactorConfig(epochs=0)

"""A step on drawn surroundings: all of them are the exact step, some of them are what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dicer.config import DicerConfig, dicer_tiny
from models.dicer.encoder import NeighbourSum, edges_of
from models.dicer.graphs import Graphs, Lists
from models.dicer.neighbourhoods import Neighbourhoods
from models.dicer.network import Dicer
from models.dicer.pairs import Batch, ByExtremes, loss_of, modulated
from models.dicer.training import Sampler, train_dicer
from models.dicer.voices import Voices, drawn
from tests.dicer_worlds import random_world, split_world, training_set


def tiny(**changed: object) -> DicerConfig:
    return dataclasses.replace(dicer_tiny(), layers=2, **changed)  # type: ignore[arg-type]


def sampled_loss(network: Dicer, graphs: Graphs, batch: Batch, config: DicerConfig) -> torch.Tensor:
    near = Neighbourhoods(graphs, config).around(batch, generator=torch.Generator().manual_seed(0))
    h, z = network.encode(network.user_base[near.users], network.item_base[near.items], near.edges)
    return loss_of(network, ByExtremes(network, h, z, near.edges, near.batch, near.heard), near.batch)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), density=st.sampled_from([0.2, 0.5]), social=st.booleans())
def test_hearing_everyone_is_the_exact_step(seed: int, density: float, social: bool) -> None:
    graphs = random_world(seed, users=8, items=7, density=density).graphs()
    if not graphs.interactions.size:
        return
    config = tiny(fanout=100, social=social, users_per_step=5)
    torch.manual_seed(seed)
    network = Dicer(config, graphs.users, graphs.items)
    batch = Sampler(graphs).draw(config, torch.Generator().manual_seed(seed))
    generator, results = torch.Generator().manual_seed(0), []
    exact = modulated(network, edges_of(graphs), batch, Voices(graphs, social=social), generator=generator)
    for loss in (loss_of(network, exact, batch), sampled_loss(network, graphs, batch, config)):
        network.zero_grad()
        loss.backward()
        results.append((loss.detach(), [w.grad.clone() for w in network.parameters() if w.grad is not None]))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_a_drawn_sum_is_the_whole_one_on_average() -> None:
    graphs = random_world(3, users=12, items=4, density=0.7).graphs()
    layer, x = NeighbourSum(), torch.randn(graphs.users, 3, generator=torch.Generator().manual_seed(0))
    surroundings = Neighbourhoods(graphs, tiny(fanout=2))
    batch, total = Batch(torch.arange(12), torch.zeros(12, 1, dtype=torch.long), 0), torch.zeros(12, 3)
    for seed in range(600):
        near = surroundings.around(batch, generator=torch.Generator().manual_seed(seed))
        assert near.edges.friends.shape[1] <= 2 * 12
        total[near.users] += layer(x[near.users], near.edges.friends, near.edges.shares[0]) / 600
    torch.testing.assert_close(total, layer(x, edges_of(graphs).friends), atol=0.8, rtol=0.0)


def test_draws_are_without_repetition_from_the_own_list() -> None:
    lists = Lists(np.array([0, 3, 3, 8]), np.array([4, 5, 6, 1, 2, 3, 4, 9]))
    for seed in range(20):
        found = drawn(lists, np.array([2, 0, 1, 2]), 2, torch.Generator().manual_seed(seed))
        assert found.lengths.tolist() == [2, 2, 0, 2]
        for place, node in enumerate((2, 0, 1, 2)):
            assert set(found.of(place).tolist()) <= set(lists.of(node).tolist())
            assert len(set(found.of(place).tolist())) == len(found.of(place))


@pytest.mark.parametrize("fanout", [1, 3])
def test_it_learns_from_samples_too(fanout: int) -> None:
    config = tiny(fanout=fanout, steps=60, validate_every=20)
    metrics = train_dicer(training_set(*split_world()), config, seed=3).metrics
    assert metrics["test"]["model"]["NDCG@10"] > 1.2 * metrics["test"]["popularity"]["NDCG@10"]

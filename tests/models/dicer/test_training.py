"""Training learns, is repeatable, resumes exactly, and draws what it says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from models.dicer.config import DicerConfig, dicer_tiny
from models.dicer.encoder import edges_of
from models.dicer.network import Dicer
from models.dicer.scorers import scorers_of
from models.dicer.scoring import friend_ends, score, tables
from models.dicer.training import Sampler, TrainedDicer, cold_rows, train_dicer
from tests.dicer_worlds import World, random_world, split_world, training_set

CONFIG = dataclasses.replace(dicer_tiny(), steps=60, validate_every=20)


def toy(config: DicerConfig, *, checkpoint: Path | None = None) -> TrainedDicer:
    return train_dicer(training_set(*split_world()), config, seed=3, checkpoint=checkpoint)


def same_weights(one: TrainedDicer, other: TrainedDicer) -> bool:
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_it_learns_tastes_that_popularity_cannot_know(loss: str) -> None:
    metrics = toy(dataclasses.replace(CONFIG, loss=loss)).metrics  # type: ignore[arg-type]
    for window in ("validation", "test"):
        assert metrics[window]["model"]["NDCG@10"] > 1.3 * metrics[window]["popularity"]["NDCG@10"]
    assert metrics["social_alignment"]["lift"] > 1.2
    assert 0 < metrics["best_step"] <= metrics["steps"] <= CONFIG.steps


def test_a_seed_decides_everything_and_the_callers_randomness_nothing() -> None:
    short = dataclasses.replace(CONFIG, steps=4, validate_every=2, dropout=0.3)
    one = toy(short)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert same_weights(one, toy(short))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_that_stopped_half_way_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = dataclasses.replace(CONFIG, steps=8, validate_every=4, dropout=0.3)
    toy(dataclasses.replace(whole, steps=4), checkpoint=tmp_path / "run")
    resumed = toy(whole, checkpoint=tmp_path / "run")
    assert same_weights(resumed, toy(whole))
    assert resumed.metrics == toy(whole).metrics


def test_a_world_without_interactions_is_refused() -> None:
    world = World([[], []], [[], []], [[]], [[], []])
    with pytest.raises(ValueError, match="interactions"):
        train_dicer(training_set(world, []), CONFIG, seed=0)


def test_draws_are_positives_then_unseen_items_uniformly() -> None:
    world = random_world(2, users=5, items=6, density=0.4)
    sampler = Sampler(world.graphs())
    config = dataclasses.replace(CONFIG, users_per_step=4000, positives_per_user=2, negatives=3)
    batch = sampler.draw(config, torch.Generator().manual_seed(0))
    users, items, labels = batch.users, batch.items, batch.labels
    assert items.shape == labels.shape == (4000, 8)
    assert labels.sum() == 8000
    taken = [[bool(i in world.histories[u]) for i in range(world.items)] for u in range(5)]
    assert torch.tensor(taken)[users[:, None], items].equal(labels.bool())
    lengths = np.array([len(listed) for listed in world.histories])
    shares = np.bincount(users.numpy(), minlength=5) / 4000
    assert shares == pytest.approx(lengths / lengths.sum(), abs=0.03), "a user is drawn as often as it acted"
    user = int(lengths.argmax())
    drawn = np.bincount(items[users == user][:, 2:].ravel().numpy(), minlength=world.items)
    unseen = [item for item in range(world.items) if item not in world.histories[user]]
    assert drawn[unseen] / drawn.sum() == pytest.approx(np.full(len(unseen), 1 / len(unseen)), abs=0.03)


def test_who_has_had_everything_is_not_drawn() -> None:
    world = World([[], []], [[], []], [[], []], [[0, 1], [0]])
    batch = Sampler(world.graphs()).draw(CONFIG, torch.Generator().manual_seed(0))
    assert batch.users.unique().tolist() == [1]


def test_the_better_variant_learns_and_takes_an_unknown_item_for_the_least_popular() -> None:
    config = dataclasses.replace(CONFIG, collaborative_layers=2, shared_negatives=10)
    trained = toy(config)
    assert trained.metrics["test"]["model"]["NDCG@10"] > 1.3 * trained.metrics["test"]["popularity"]["NDCG@10"]
    popularity = trained.network.item_base[:, -1]
    assert popularity.min() == 0
    assert popularity.max() > 0
    assert trained.network.collaboration is not None
    assert trained.network.collaboration.least_popular < 0


def test_targets_are_not_heard_by_the_better_variant() -> None:
    graphs = random_world(2, users=6, items=5, density=0.6).graphs()
    network = Dicer(dataclasses.replace(CONFIG, collaborative_layers=1), graphs.users, graphs.items)
    assert network.collaboration is not None
    pairs = torch.from_numpy(graphs.interactions)
    with torch.no_grad():
        bases = network.user_base, network.item_base
        training = network.train().collaboration(*bases, pairs)
        torch.testing.assert_close(training, network.eval().collaboration(*bases, pairs))
        lonely, _ = network.train().collaboration(*bases, pairs, left_out=pairs[:, pairs[0] == 0])
    own = network.user_base[0, network.config.dimension :]
    expected = torch.nn.functional.normalize(own, dim=0) / network.config.temperature
    torch.testing.assert_close(lonely[0, :-1], expected.detach())
    assert not torch.allclose(training[0][0], lonely[0])
    assert torch.allclose(training[0][1:, -1], lonely[1:, -1])


def test_a_node_unknown_to_training_has_a_row_of_zeros() -> None:
    base = torch.ones(2, 3)
    assert cold_rows(base, np.array([1, -1])).tolist() == [[1, 1, 1], [0, 0, 0]]


@torch.no_grad()
def test_heads_that_say_nothing_cost_nothing_to_judge_and_change_no_order() -> None:
    graphs = random_world(5, users=7, items=6, density=0.5).graphs()
    network = Dicer(dataclasses.replace(CONFIG, collaborative_layers=1), graphs.users, graphs.items).eval()
    bases, users = (network.user_base, network.item_base), np.arange(graphs.users)
    assert not network.is_silent
    network.silence_heads()
    assert network.is_silent
    fast = scorers_of(network, bases, edges_of(graphs), graphs)
    user_rows, item_rows = tables(network, *bases, edges_of(graphs))
    index, real = (torch.from_numpy(array) for array in graphs.heard_friends().padded(users))
    scores = score(network, user_rows, item_rows, friend_ends(user_rows, index, real))
    every = fast.every_item(users)
    np.testing.assert_allclose(torch.sigmoid(torch.from_numpy(every)).numpy(), scores.numpy(), atol=1e-6)
    np.testing.assert_allclose(fast.pairs(users, np.tile([4, 1], (len(users), 1))), every[:, [4, 1]], atol=1e-6)

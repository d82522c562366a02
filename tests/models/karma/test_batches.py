"""Batches: what a step is given follows from its generator, and every position has the right target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.karma.batches import Sampler
from models.karma.config import karma_tiny
from models.karma.text import EOS, GEN, INT, PAD, QUERY, REC, History
from models.karma.training import World, prepare, read_world
from tests.karma_world import catalogue, histories, training_set

CONFIG = karma_tiny()


@pytest.fixture(scope="module")
def world() -> World:
    features = training_set().train
    return read_world(features, prepare(features, CONFIG))


def sampler(world: World, config: object = CONFIG) -> Sampler:
    assert isinstance(config, type(CONFIG))
    return Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, config)


def test_a_batch_is_a_function_of_its_generator(world: World) -> None:
    first, again, other = (sampler(world).draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.input_ids, again.input_ids)
    assert torch.equal(first.candidates, again.candidates)
    assert first.input_ids.shape != other.input_ids.shape or not torch.equal(first.input_ids, other.input_ids)


def test_every_interest_is_a_position_and_its_target_is_what_the_user_took_next(world: World) -> None:
    drawn = sampler(world, replace(CONFIG, query_dropout=0.0))
    batch = drawn.draw(torch.Generator().manual_seed(0))
    assert (batch.input_ids[batch.rows, batch.positions] == INT).all()
    assert len(batch.positions) == int((batch.input_ids == INT).sum())
    taken = {tuple(history.items.tolist()) for history in world.histories.values()}
    for row in range(CONFIG.batch):
        targets = tuple(batch.candidates[batch.targets[batch.rows == row]].tolist())
        assert any(targets == items[start : start + len(targets)] for items in taken for start in range(len(items)))
        owned = tuple(item for item in batch.owned[row].tolist() if item >= 0)
        assert owned in taken
        assert set(targets) <= set(owned)


def test_decoded_texts_belong_to_their_positions(world: World) -> None:
    batch = sampler(world).draw(torch.Generator().manual_seed(3))
    assert batch.decoded.shape == (CONFIG.batch, CONFIG.decoded_positions)
    for row in range(CONFIG.batch):
        for g in range(CONFIG.decoded_positions):
            position = int(batch.decoded[row, g])
            assert int(batch.rows[position]) == row
            item = int(batch.candidates[batch.targets[position]])
            text = world.catalogue.tokens[item].tolist()
            for segments, expected in (
                (batch.generation_segments, [GEN, *text]),
                (batch.reconstruction_segments, [REC, *text]),
                (batch.decoded_texts, [*text, EOS]),
            ):
                assert [token for token in segments[row, g].tolist() if token != PAD] == expected


def test_rare_targets_are_not_learned_from(world: World) -> None:
    counts = np.zeros(len(world.catalogue), int)
    for history in world.histories.values():
        counts[np.unique(history.items)] += 1
    batch = sampler(world, replace(CONFIG, target_min_users=5)).draw(torch.Generator().manual_seed(0))
    expected = counts[batch.candidates[batch.targets].numpy()] >= 5
    assert batch.learned.tolist() == expected.tolist()
    assert 0 < expected.sum() < len(expected)


def test_query_and_id_dropout(world: World) -> None:
    nothing = sampler(world, replace(CONFIG, query_dropout=1.0, id_dropout=1.0)).draw(torch.Generator().manual_seed(0))
    everything = sampler(world, replace(CONFIG, query_dropout=0.0, id_dropout=0.0)).draw(
        torch.Generator().manual_seed(0)
    )
    assert not (nothing.input_ids == QUERY).any()
    assert (everything.input_ids == QUERY).any()
    assert not nothing.candidate_inputs["id_index"].any()
    assert everything.candidate_inputs["id_index"].any()


def test_shares_are_the_chances_of_the_draws(world: World) -> None:
    drawn = sampler(world)
    assert np.allclose(drawn.shares.sum(axis=1), 1.0)
    rng, counts = np.random.default_rng(0), np.zeros((3, len(world.catalogue)))
    targets = np.concatenate([history.items for history in drawn.histories])
    for _ in range(400):
        popular, akin = drawn._negatives(targets, rng)
        np.add.at(counts[1], popular, 1)
        np.add.at(counts[2], akin, 1)
    for source in (1, 2):
        assert np.abs(counts[source] / counts[source].sum() - drawn.shares[source]).max() < 0.02


def test_old_events_are_learned_from_too() -> None:
    """A history far longer than the budget gives windows that end at different events."""
    long = training_set()
    features = {"item_catalog": catalogue(), "user_history": histories({"u": list(range(30))})}
    preparation = prepare(long.train, CONFIG)
    world = read_world(features, preparation)
    drawn = sampler(world)
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(100):
        sequence, targets = drawn._sequence(0, rng)
        assert len(sequence.tokens) <= CONFIG.sequence_tokens
        assert len(sequence.interests) == len(targets)
        seen.update(targets.tolist())
    assert len(seen) == 30


@pytest.mark.parametrize("compressed", [False, True])
def test_a_target_is_drawn_as_often_as_its_share_says(world: World, compressed: bool) -> None:
    """Log q is of these shares: old, new and middle events alike, of histories that fit and of such that do not."""
    config = replace(CONFIG, query_dropout=0.0, history="compressed" if compressed else "tokens")
    config = replace(config, compressed_sequence_tokens=12)
    items = {"short": [1, 2], "long": list(range(3, 20)), "twice": [1, *range(20, 34), 1]}
    asked = {user: ["red shirt" if n % 3 == 0 else "" for n in range(len(of))] for user, of in items.items()}
    table = {"item_catalog": catalogue(), "user_history": histories(items, asked)}
    drawn = sampler(read_world(table, prepare(training_set().train, config)), config)
    rng, counts = np.random.default_rng(0), np.zeros(len(drawn.catalogue))
    stretches, longest = 6_000, 0
    for _ in range(stretches):
        _, targets = drawn._sequence(int(rng.integers(len(items))), rng)
        np.add.at(counts, targets, 1)
        longest = max(longest, len(targets))
    assert longest < 14, "the long ones do not fit"
    assert np.abs(counts / counts.sum() - drawn.shares[0]).max() < 0.004
    of_long = counts[[drawn.catalogue.ids.index(name) for name in (f"i{item:03}" for item in range(3, 20))]]
    assert of_long.min() > 0.6 * of_long.mean(), "neither the first nor the last event is left out"


def test_histories_without_events_cannot_be_learned_from(world: World) -> None:
    with pytest.raises(ValueError, match="histories with events"):
        Sampler.of(
            world.catalogue, world.categories, world.event_count, {"u": History(np.empty(0, np.int64), [])}, CONFIG
        )

"""Evaluation: who is judged on what, and ranks against a reference that sorts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.karma.config import karma_tiny
from models.karma.evaluation import (
    Targets,
    figures,
    held_out_targets,
    model_ranks,
    popularity_ranks,
    ranks,
    smooth_gain,
)
from models.karma.text import EMPTY, History, Preparation, decode
from models.karma.training import World, prepare, read_world
from tests.karma_world import catalogue, histories, labels, training_set


@pytest.fixture(scope="module")
def preparation() -> Preparation:
    return prepare(training_set().train, karma_tiny())


@pytest.fixture(scope="module")
def world(preparation: Preparation) -> World:
    features = {"item_catalog": catalogue(), "user_history": histories({"u": [0, 2], "v": [3], "w": [4]})}
    return read_world(features, preparation)


def test_targets_are_the_first_new_items_that_the_catalogue_knows(world: World, preparation: Preparation) -> None:
    taken = [
        ("new", "i009", ""),
        ("u", "gone", ""),
        ("u", "i002", ""),
        ("u", "i005", "red"),
        ("u", "i006", ""),
        ("v", "i003", ""),
        ("w", "i001", ""),
    ]
    targets = held_out_targets(labels(taken), world.histories, world.row_of, preparation)
    assert [world.catalogue.ids[row] for row in targets.items] == ["i009", "i005", "i001"]
    assert [history.items.tolist() for history in targets.histories] == [[], [0, 2], [4]]
    assert [decode(preparation.tokenizer, query) for query in targets.queries] == ["", "red", ""]
    assert (targets.unknown_items, targets.seen_items) == (1, 2)


def test_several_targets_of_a_user_are_different_items(world: World, preparation: Preparation) -> None:
    taken = [("u", "i005", ""), ("u", "i005", "red"), ("u", "i006", ""), ("u", "i007", ""), ("v", "i001", "")]
    targets = held_out_targets(labels(taken), world.histories, world.row_of, preparation, per_user=2)
    assert list(zip(targets.users, targets.items.tolist(), strict=True)) == [("u", 5), ("u", 6), ("v", 1)]
    once, first, of_user = targets.by_user()
    assert (once.items.tolist(), first.tolist(), of_user.tolist()) == ([5, 1], [0, 2], [0, 0, 1])


def test_a_window_without_a_target_gives_no_rows(world: World, preparation: Preparation) -> None:
    targets = held_out_targets(labels([("v", "i003", "")]), world.histories, world.row_of, preparation)
    assert len(targets) == 0
    assert figures(popularity_ranks(targets, world.event_count))["HR@10"] == 0.0


def some_targets(rng: np.random.Generator, users: int, items: int) -> Targets:
    past = [History(rng.permutation(items)[: rng.integers(4)].astype(np.int64), []) for _ in range(users)]
    wanted = np.array([rng.choice(np.setdiff1d(np.arange(items), history.items)) for history in past], np.int64)
    return Targets([f"u{u}" for u in range(users)], past, wanted, [EMPTY] * users, 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_leave_seen_items_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, scores = some_targets(rng, 11, 8), rng.integers(4, size=(11, 8)).astype(float)
    expected = []
    for row, history in enumerate(targets.histories):
        left = [item for item in range(8) if item not in history.items]
        order = sorted(left, key=lambda item: (-scores[row, item], item))
        expected.append(1 + order.index(int(targets.items[row])))
    assert ranks(targets, lambda part: scores[part].copy(), rows=4).tolist() == expected


def test_model_ranks_are_by_inner_product() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)
    targets = some_targets(rng, 5, 9)
    assert model_ranks(users, items, targets).tolist() == ranks(targets, lambda part: users[part] @ items.T).tolist()


def test_popularity_shows_everybody_the_same() -> None:
    targets = replace(some_targets(np.random.default_rng(0), 2, 4), histories=[History(EMPTY, [])] * 2)
    found = popularity_ranks(replace(targets, items=np.array([0, 3])), np.array([5, 1, 9, 7]))
    assert found.tolist() == [3, 2]


def test_smooth_gain_prefers_better_ranks() -> None:
    assert smooth_gain(np.array([1, 1])) == 1.0
    assert smooth_gain(np.array([1, 100])) > smooth_gain(np.array([1, 101])) > smooth_gain(np.array([2, 101]))
    assert smooth_gain(np.empty(0, np.int64)) == 0.0

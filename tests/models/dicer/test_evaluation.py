"""Held-out rankings by hand, and a social graph that belongs to other people."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.dicer.evaluation import HeldOut, evaluate, held_out, popularity_scorer, social_alignment
from tests.dicer_worlds import World, item_ids, split_world, user_ids

WORLD = World([[1], [0], []], [[], [], []], [[], [], [], []], [[0], [0, 1], [0, 1, 2]])


def test_held_out_is_what_is_new_and_known() -> None:
    labels = pa.table(
        {
            "user_id": [*user_ids([0, 0, 0, 1, 1]), "stranger", "u0000"],
            "item_id": [*item_ids([0, 2, 2, 3, 2]), "i0001", "new"],
        }
    )
    truth = held_out(labels, WORLD.graphs())
    assert truth.users.tolist() == [0, 1]
    assert truth.positives == (frozenset({2}), frozenset({2, 3}))
    assert truth.unknown == 2


def test_popularity_ranks_unseen_items_by_consumers() -> None:
    graphs = WORLD.graphs()
    truth = HeldOut(np.array([0, 1]), (frozenset({1}), frozenset({3})), 0)
    metrics = evaluate(popularity_scorer(graphs), truth, graphs, graphs.histories())
    # User 0 is shown items 1, 2, 3 and took the first; user 1 is shown 2, 3 and took the second.
    assert metrics["NDCG@10"] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert (metrics["Recall@10"], metrics["HR@10"]) == (1.0, 1.0)


def test_no_labels_is_no_hits() -> None:
    graphs = WORLD.graphs()
    empty = held_out(pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}), graphs)
    assert set(evaluate(popularity_scorer(graphs), empty, graphs, graphs.histories()).values()) == {0.0}


def test_a_sample_is_some_of_the_users_and_always_the_same() -> None:
    truth = HeldOut(np.arange(10), tuple(frozenset({n}) for n in range(10)), 0)
    sample = truth.sample(4, seed=1)
    assert sample.users.tolist() == truth.sample(4, seed=1).users.tolist()
    assert [min(wanted) for wanted in sample.positives] == sample.users.tolist()
    assert truth.sample(10, seed=1) is truth


def test_friends_of_one_taste_lift_and_strangers_warn() -> None:
    world, _ = split_world(users=40, items=30)
    aligned = social_alignment(world.graphs())
    assert aligned["lift"] > 1.5
    assert aligned["warning"] is None
    assert aligned["pairs"] == len({frozenset((u, f)) for u, listed in enumerate(world.friends) for f in listed})
    others = np.random.default_rng(0).permutation(40)
    moved = World([[int(others[f]) for f in world.friends[u]] for u in range(40)], *dataclass_rest(world))
    assert "expected at least 1.2" in str(social_alignment(moved.graphs())["warning"])


def test_lift_of_nothing_is_nothing() -> None:
    lonely = World([[], []], [[], []], [[]], [[0], []])
    assert social_alignment(lonely.graphs())["lift"] is None


def test_shared_items_are_counted_exactly() -> None:
    # The one pair shares item 0; its shuffle is itself.
    assert social_alignment(WORLD.graphs())["lift"] == 1.0


def dataclass_rest(world: World) -> tuple[list[list[int]], ...]:
    return world.similar_users, world.similar_items, world.histories  # type: ignore[return-value]

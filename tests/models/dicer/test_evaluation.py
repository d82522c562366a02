"""Held-out rankings by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.dicer.evaluation import HeldOut, evaluate, held_out, popularity_scorer
from tests.dicer_worlds import World, item_ids, user_ids

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

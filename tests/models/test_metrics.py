"""Metrics against ten-line references, and the laws they keep."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.metrics import (
    hit_rate,
    mean_reciprocal_rank,
    ndcg,
    ndcg_of_lists,
    rank_of_target,
    recall_of_lists,
)

SCORES = arrays(np.float64, (4, 7), elements=st.integers(-3, 3).map(float))
TARGETS = arrays(np.int64, 4, elements=st.integers(0, 6))


@given(SCORES, TARGETS)
@settings(max_examples=50, deadline=None)
def test_rank_is_the_place_in_a_stable_sort(scores: np.ndarray, targets: np.ndarray) -> None:
    ranks = rank_of_target(scores, targets)
    for row, target in enumerate(targets):
        order = sorted(range(7), key=lambda item: (-scores[row, item], item))
        assert ranks[row] == order.index(target) + 1


@given(SCORES, TARGETS, st.permutations(range(4)), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_metrics_are_bounded_and_blind_to_row_order(
    scores: np.ndarray, targets: np.ndarray, order: list[int], k: int
) -> None:
    ranks, shuffled = rank_of_target(scores, targets), rank_of_target(scores[order], targets[order])
    for metric in (lambda r: hit_rate(r, k), lambda r: ndcg(r, k), mean_reciprocal_rank):
        assert 0.0 <= metric(ranks) <= 1.0
        assert math.isclose(metric(ranks), metric(shuffled))


def test_a_known_list() -> None:
    lists, positives = [[3, 1, 2], [0, 1, 2]], [frozenset({1, 9}), frozenset({0})]
    assert recall_of_lists(lists, positives, 2) == (0.5 + 1.0) / 2
    ideal = 1.0 + 1.0 / math.log2(3)
    assert math.isclose(ndcg_of_lists(lists, positives, 2), ((1 / math.log2(3)) / ideal + 1.0) / 2)


def test_rows_without_positives_do_not_count() -> None:
    assert recall_of_lists([[1], [1]], [frozenset(), frozenset({1})], 1) == 1.0
    assert recall_of_lists([[1]], [frozenset()], 1) == 0.0
    assert ndcg_of_lists([], [], 5) == 0.0
    assert hit_rate(np.array([], dtype=np.int64), 10) == 0.0

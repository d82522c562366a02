"""Metrics against ten-line references, and the laws they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.metrics import (
    Interval,
    bootstrap_weights,
    hit_rate,
    mean_reciprocal_rank,
    metrics_of_hits,
    ndcg,
    paired_bootstrap,
    rank_of_target,
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


def test_what_is_not_a_number_stands_against_the_model() -> None:
    nan, inf = math.nan, math.inf
    scores = np.array([[nan] * 4, [1.0, 2.0, nan, 0.0], [nan, 2.0, 3.0, 0.0], [nan, -inf, -inf, nan]])
    assert rank_of_target(scores, np.array([1, 1, 0, 2])).tolist() == [4, 2, 4, 4]
    assert hit_rate(rank_of_target(np.full((3, 100), nan), np.array([5, 50, 99])), 50) == 0.0


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
    # Row 0: 3 positives, the second place holds one. Row 1: 1 positive, the first place holds it.
    metrics = metrics_of_hits(np.array([[False, True, False], [True, False, False]]), np.array([3, 1]), (2,))
    ideal = 1.0 + 1.0 / math.log2(3)
    assert metrics["Recall@2"].tolist() == [1 / 3, 1.0]
    assert metrics["CappedRecall@2"].tolist() == [1 / 2, 1.0]
    assert np.allclose(metrics["NDCG@2"], [(1 / math.log2(3)) / ideal, 1.0])
    assert metrics["Precision@2"].tolist() == [0.5, 0.5]
    assert metrics["MRR@2"].tolist() == [0.5, 1.0]
    assert metrics["HR@2"].tolist() == [1.0, 1.0]


def test_a_list_shorter_than_the_cut_off_has_no_hits_beyond() -> None:
    metrics = metrics_of_hits(np.array([[True]]), np.array([2]), (1, 5))
    assert (metrics["Recall@5"][0], metrics["CappedRecall@1"][0], metrics["CappedRecall@5"][0]) == (0.5, 1.0, 0.5)


def test_rows_without_positives_and_cut_offs_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 positive"):
        metrics_of_hits(np.zeros((1, 3), bool), np.array([0]), (1,))
    with pytest.raises(ValueError, match="cut-offs"):
        metrics_of_hits(np.zeros((1, 3), bool), np.array([1]), (0,))
    assert hit_rate(np.array([], dtype=np.int64), 10) == 0.0


def test_a_paired_bootstrap_resamples_whole_units() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(50), 20)
    of_unit = rng.normal(0.1, 0.3, size=50)
    differences = of_unit[units]  # rows of a unit say the same: they are worth one
    found = paired_bootstrap(differences, units + 7)
    error = of_unit.std() / 50**0.5
    assert found.mean == pytest.approx(of_unit.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.3 * error)
    alone = paired_bootstrap(differences, np.arange(1000))
    assert alone.high - alone.low < (found.high - found.low) / 3
    with pytest.raises(ValueError, match="got none"):
        paired_bootstrap(np.empty(0), np.empty(0, np.int64))


def test_an_interval_excludes_zero_on_either_side() -> None:
    assert Interval(1.0, 0.5, 2.0).excludes_zero
    assert Interval(-1.0, -1.5, -0.1).excludes_zero
    assert not Interval(0.1, -0.1, 0.3).excludes_zero


def test_bootstrap_weights_draw_as_many_as_there_are() -> None:
    weights = bootstrap_weights(30, draws=5, seed=1)
    assert weights.shape == (5, 30)
    assert set(weights.sum(axis=1)) == {30}
    assert np.array_equal(weights, bootstrap_weights(30, draws=5, seed=1))

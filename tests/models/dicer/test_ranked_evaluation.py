"""Both rankings against a ten-line reference, ties, short lists and both Recalls included."""

from __future__ import annotations

import math
import time
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dicer.evaluation import HeldOut, evaluate_full, evaluate_sampled
from models.dicer.graphs import Lists

CUTOFFS = (1, 3, 10)


def reference(scores: np.ndarray, candidates: Collection[int], wanted: Collection[int], k: int) -> dict[str, float]:
    """One user: sort the candidates by (-score, item), then count."""
    ranked = sorted(candidates, key=lambda item: (-scores[item], item))[:k]
    places = [place for place, item in enumerate(ranked, start=1) if item in wanted]
    ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, len(wanted)) + 1))
    return {
        f"Recall@{k}": len(places) / len(wanted),
        f"CappedRecall@{k}": len(places) / min(len(wanted), k),
        f"NDCG@{k}": sum(1 / math.log2(1 + place) for place in places) / ideal,
        f"Precision@{k}": len(places) / k,
        f"HR@{k}": float(bool(places)),
        f"MRR@{k}": 1 / places[0] if places else 0.0,
    }


def lists(values: list[list[int]]) -> Lists:
    lengths = [len(listed) for listed in values]
    flat = [value for listed in values for value in listed]
    return Lists(np.cumsum([0, *lengths]), np.array(flat, np.int64))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, HeldOut, list[list[int]], list[list[int]]]:
    """Scores with many ties, truth, what is excluded, and sampled candidates; some users have no positive."""
    users, items = draw(st.integers(1, 5)), draw(st.integers(1, 14))
    scores = np.array(
        draw(st.lists(st.lists(st.integers(-2, 2), min_size=items, max_size=items), min_size=users, max_size=users))
    )
    some = st.sets(st.integers(0, items - 1))
    judged = sorted(draw(st.sets(st.integers(0, users - 1))))
    positives = [draw(some) for _ in judged]
    excluded = [draw(some) for _ in range(users)]
    for user, wanted in zip(judged, positives, strict=True):
        excluded[user] -= wanted
    candidates = [sorted(wanted | draw(some)) for wanted in positives]
    truth = HeldOut(np.array(judged, np.int64), tuple(frozenset(wanted) for wanted in positives), 0)
    return scores.astype(np.float32), truth, [sorted(listed) for listed in excluded], candidates


@given(worlds(), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_both_rankings_are_the_reference(
    world: tuple[np.ndarray, HeldOut, list[list[int]], list[list[int]]], block: int
) -> None:
    scores, truth, excluded, candidates = world
    full = evaluate_full(lambda users: scores[users], truth, lists(excluded), cutoffs=CUTOFFS, block=block)
    sampled = evaluate_sampled(
        lambda users, items: scores[users[:, None], items], truth, lists(candidates), cutoffs=CUTOFFS, block=block
    )
    everything = set(range(scores.shape[1]))
    ranked = [
        (full, [everything.difference(excluded[user]) for user in truth.users]),
        (sampled, [set(listed) for listed in candidates]),
    ]
    for evaluation, allowed in ranked:
        judged = [(u, wanted, a) for u, wanted, a in zip(truth.users, truth.positives, allowed, strict=True) if wanted]
        assert (evaluation.users, evaluation.left_out) == (len(judged), len(truth.users) - len(judged))
        for k in CUTOFFS:
            expected = [reference(scores[user], a, wanted, k) for user, wanted, a in judged]
            for name in expected[0] if expected else ():
                assert evaluation.metrics[name] == pytest.approx(np.mean([metrics[name] for metrics in expected]))
    assert set(full.metrics) == set(sampled.metrics)


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_users_and_the_scale_of_scores_change_nothing(world: tuple, random: object) -> None:
    scores, truth, excluded, _ = world
    order = np.arange(len(truth.users))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = HeldOut(truth.users[order], tuple(truth.positives[k] for k in order), 0)
    one = evaluate_full(lambda users: scores[users], truth, lists(excluded), cutoffs=CUTOFFS)
    other = evaluate_full(lambda users: 3 * scores[users] + 1, shuffled, lists(excluded), cutoffs=CUTOFFS)
    assert one.metrics == pytest.approx(other.metrics)


def test_scoring_all_items_equally_gains_nothing() -> None:
    # 1 positive among 1,000: item rows decide, so a positive is among the first 10 with probability 1 in 100.
    generator = np.random.default_rng(0)
    chosen = [np.sort(generator.choice(5_000, 1000, replace=False)).tolist() for _ in range(2000)]
    positives = tuple(frozenset({int(generator.choice(listed))}) for listed in chosen)
    truth = HeldOut(np.arange(2000), positives, 0)
    evaluation = evaluate_sampled(
        lambda _, items: np.ones(items.shape, np.float32), truth, lists(chosen), cutoffs=(10,)
    )
    assert evaluation.metrics["Recall@10"] == pytest.approx(0.01, abs=0.007)


def test_a_user_with_fewer_candidates_than_k_is_judged_on_them() -> None:
    truth = HeldOut(np.array([0]), (frozenset({2}),), 0)
    full = evaluate_full(lambda users: np.array([[3.0, 2.0, 1.0]], np.float32), truth, lists([[0]]), cutoffs=(10,))
    assert full.metrics["Recall@10"] == 1.0
    assert full.metrics["NDCG@10"] == pytest.approx(1 / math.log2(3))
    assert full.metrics["Precision@10"] == 0.1


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused(wrong: float) -> None:
    truth = HeldOut(np.array([4]), (frozenset({1}),), 0)
    scores = np.array([[0.0, wrong]], np.float32)
    with pytest.raises(ValueError, match=r"finite scores.*user row 4"):
        evaluate_full(lambda users: scores.copy(), truth, lists([[]] * 5), cutoffs=(1,))
    with pytest.raises(ValueError, match=r"finite scores.*user row 4"):
        evaluate_sampled(lambda users, items: scores.copy(), truth, lists([[0, 1]]), cutoffs=(1,))


@pytest.mark.parametrize(("candidates", "message"), [([1, 0], "ascending"), ([1, 1], "ascending"), ([0], "item row 1")])
def test_candidates_that_could_cheat_are_refused(candidates: list[int], message: str) -> None:
    truth = HeldOut(np.array([0]), (frozenset({1}),), 0)
    with pytest.raises(ValueError, match=message):
        evaluate_sampled(
            lambda users, items: np.zeros(items.shape, np.float32), truth, lists([candidates]), cutoffs=(1,)
        )


def test_a_catalogue_is_ranked_in_seconds() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random((512, 11_000), np.float32)
    truth = HeldOut(np.arange(2048), tuple(frozenset(generator.choice(11_000, 3).tolist()) for _ in range(2048)), 0)
    excluded = lists([generator.choice(11_000, 16, replace=False).tolist() for _ in range(2048)])
    started = time.process_time()
    evaluate_full(lambda users: scores[users % 512], truth, excluded, cutoffs=(10, 50, 100))
    assert time.process_time() - started < 15, "7,000 users must take well under a minute"

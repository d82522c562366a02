"""Item-to-item against counting by hand; SASRec sees the past only, learns, and moves to a newer catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from models.karma.baselines import (
    Neighbours,
    Sasrec,
    SasrecConfig,
    cosine_neighbours,
    moved,
    neighbours_score,
    sasrec_score,
    train_sasrec,
)
from models.karma.evaluation import Targets, popularity_score, score_ranks
from models.karma.text import EMPTY, History

TINY = SasrecConfig(
    hidden=16,
    heads=2,
    layers=1,
    history_length=6,
    batch=16,
    learning_rate=1e-2,
    dropout=0.0,
    steps=150,
    validate_every=25,
)


def targets_of(histories: list[list[int]], wanted: list[int]) -> Targets:
    pasts = [History(np.array(items, np.int64), [EMPTY] * len(items)) for items in histories]
    users = [f"u{row}" for row in range(len(pasts))]
    return Targets(users, pasts, np.array(wanted, np.int64), [EMPTY] * len(pasts), 0, 0)


def test_neighbours_are_the_cosines_of_audiences() -> None:
    rng = np.random.default_rng(0)
    histories = [rng.integers(6, size=rng.integers(1, 6)) for _ in range(20)]
    found = cosine_neighbours(histories, 7).toarray()
    audiences = [{user for user, items in enumerate(histories) if item in items} for item in range(7)]
    for one in range(7):
        for other in range(7):
            sizes = (len(audiences[one]) * len(audiences[other])) ** 0.5
            expected = len(audiences[one] & audiences[other]) / sizes if sizes else 0.0
            np.testing.assert_allclose(found[one, other], expected)


def test_neighbours_sum_over_the_latest_items() -> None:
    likeness = cosine_neighbours([np.array([0, 1, 2]), np.array([1, 3]), np.array([2, 3])], 4)
    targets, dense = targets_of([[0, 1, 0, 2], [3]], [3, 0]), likeness.toarray()
    for window, latest in ((0, [0, 1, 2]), (2, [0, 2]), (1, [2])):
        scores = neighbours_score(likeness, Neighbours(window))(targets, slice(0, 2))
        np.testing.assert_allclose(scores[0], dense[latest].sum(axis=0))
        np.testing.assert_allclose(scores[1], dense[3])


def test_sasrec_states_do_not_see_what_follows_nor_padding() -> None:
    torch.manual_seed(0)
    network = Sasrec(TINY, items=9).eval()
    whole = network(torch.tensor([[1, 5, 2, 7]]))
    part = network(torch.tensor([[1, 5, 0, 0], [3, 4, 5, 6]]))
    torch.testing.assert_close(part[0, :2], whole[0, :2])


def test_sasrec_learns_a_cycle_and_knows_it_on_a_newer_catalogue() -> None:
    rng = np.random.default_rng(0)
    starts = rng.integers(8, size=60)
    histories = [(start + np.arange(rng.integers(2, 6))) % 8 for start in starts]
    judged = targets_of([[0, 1, 2], [6], [5, 6, 7]], [3, 7, 0])
    network, ran = train_sasrec(histories, 8, judged, TINY, seed=0)
    score = sasrec_score(network, TINY)
    assert score_ranks(judged, score).tolist() == [1, 1, 1]
    assert ran.best_value == 1.0
    to_new = np.array([3, 1, 4, 0, 5, 9, 2, 6])  # ten items now, in another order; 7 and 8 are new
    newer = targets_of([[3, 1, 8, 4], [2], [7]], [0, 6, 8])
    ranks = score_ranks(newer, moved(score, to_new, 10))
    assert ranks[:2].tolist() == [1, 1]
    assert ranks[2] >= 9, "an item that came later is found by nobody"


def test_sasrec_repeats_itself_with_the_same_seed() -> None:
    histories = [np.array([0, 1, 2, 3])] * 5
    judged, short = targets_of([[0]], [1]), replace(TINY, steps=10, dropout=0.3)
    (one, _), (other, _) = (train_sasrec(histories, 5, judged, short, seed=3) for _ in range(2))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])


def test_popularity_is_the_same_for_everyone() -> None:
    found = score_ranks(targets_of([[1], [0]], [2, 1]), popularity_score(np.array([5, 9, 7])))
    assert found.tolist() == [1, 1]

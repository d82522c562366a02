"""Impressions, features and AUC against slow references; and a ranker gains from an embedding that knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from models.karma.baselines import cosine_neighbours
from models.karma.config import karma_tiny
from models.karma.downstream import (
    BASE_FEATURES,
    Stage,
    auc,
    contest_of,
    features,
    grouped_auc,
    impressions,
    judge_rankers,
)
from models.karma.positions import every_position
from models.karma.text import EMPTY, History
from models.karma.training import prepare, read_world
from tests.karma_world import training_set


@pytest.fixture(scope="module")
def stage() -> Stage:
    data = training_set(users=120)
    preparation = prepare(data.train, karma_tiny())
    world = read_world(data.train, preparation)
    positions = every_position(data.test, world, preparation, trained_on=data.train["item_catalog"])
    _, codes = np.unique(world.categories, return_inverse=True)
    likeness = cosine_neighbours([history.items for history in world.histories.values()], len(world.catalogue))
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(len(world.catalogue), 8)).astype(np.float32)
    interests = rng.normal(size=(len(positions), 8)).astype(np.float32)
    return Stage(positions, world.catalogue, codes, world.event_count, likeness, interests, embeddings)


def test_impressions_show_the_target_and_distinct_items_not_had(stage: Stage) -> None:
    rows = np.arange(len(stage.positions))
    shown = impressions(stage, rows, count=10, seed=1)
    for row, items in zip(rows, shown, strict=True):
        targets = stage.positions.targets
        assert items[0] == targets.items[row]
        assert len(set(items.tolist())) == 11
        assert not set(items.tolist()) & set(targets.histories[row].items.tolist())
        assert (stage.categories[items[1:]] == stage.categories[items[0]]).sum() >= 5
    assert np.array_equal(shown, impressions(stage, rows, count=10, seed=1))
    popular, rare = (np.isin(shown[:, 6:], np.flatnonzero(mask)).mean() / mask.mean() for mask in _halves(stage))
    assert popular > rare
    with pytest.raises(ValueError, match="at least"):
        impressions(stage, rows, count=40, seed=1)


def test_users_who_have_had_nearly_all_are_shown_what_is_new_to_them(stage: Stage) -> None:
    worn = had_all_but(stage, 3)
    contest = contest_of(worn, worn, seed=0, positions=20, pre_ranked=10)
    for shown in (contest.learned, contest.judged, contest.pre_ranked):
        assert shown.items.shape[1] == 1 + 3, "the target and all that is left"
        for row, items in zip(shown.rows.tolist(), shown.items, strict=True):
            assert len(set(items.tolist())) == 4
            assert not set(items.tolist()) & set(worn.positions.targets.histories[row].items.tolist())


def had_all_but(stage: Stage, left: int) -> Stage:
    """Users who had every item but their target and `left` more."""
    targets, items = stage.positions.targets, len(stage.catalogue)
    others = [np.setdiff1d(np.arange(items), [target])[: items - 1 - left] for target in targets.items.tolist()]
    histories = [History(had, [EMPTY] * len(had)) for had in others]
    return replace(stage, positions=replace(stage.positions, targets=replace(targets, histories=histories)))


def _halves(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    middle = np.median(stage.event_count)
    return stage.event_count > middle, stage.event_count < middle


def test_features_are_what_they_are_called(stage: Stage) -> None:
    rows = np.array([0, 3])
    shown = impressions(stage, rows, count=4, seed=0)
    table = features(stage, rows, shown).reshape(2, 5, len(BASE_FEATURES))
    likeness = stage.likeness.toarray()
    words = [set(stage.catalogue.tokens[item].tolist()) for item in range(len(stage.catalogue))]
    for line, row in enumerate(rows):
        past = stage.positions.targets.histories[row].items
        query = stage.positions.targets.queries[row].tolist()
        for column, item in enumerate(shown[line]):
            expected = [
                np.log1p(stage.event_count[item]),
                np.log1p(len(past)),
                sum(likeness[old, item] for old in set(past.tolist())),
                likeness[past[-1], item],
                np.mean([stage.categories[old] == stage.categories[item] for old in past]),
                sum(len(words[old] & words[item]) for old in past) / len(past),
                sum(token in words[item] for token in set(query)) / len(query) if query else 0.0,
            ]
            np.testing.assert_allclose(table[line, column], expected, rtol=1e-6)


@given(seed=st.integers(0, 100))
def test_auc_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, counts = rng.integers(6, size=(7, 4)).astype(float), rng.integers(0, 3, size=7)
    counts[0] = 1
    truth = np.zeros(scores.shape)
    truth[:, 0] = 1
    weight = np.repeat(counts, 4)
    assert auc(scores, counts.astype(float)) == pytest.approx(
        roc_auc_score(truth.ravel(), scores.ravel(), sample_weight=weight)
    )
    lines = [roc_auc_score(truth[row], scores[row]) for row in range(7)]
    np.testing.assert_allclose(grouped_auc(scores), lines)


def test_a_ranker_gains_from_an_embedding_that_knows_and_not_from_noise(stage: Stage) -> None:
    contest = contest_of(stage, stage, seed=0, positions=200, pre_ranked=50)

    def gain(given: Stage) -> float:
        judged = judge_rankers(contest, given, given)
        everyone = np.ones(len(judged.user))
        return auc(judged.auc_scores["with_score"], everyone) - auc(judged.auc_scores["base"], everyone)

    knowing = replace(stage, interests=stage.embeddings[stage.positions.targets.items])
    judged = judge_rankers(contest, knowing, knowing)
    assert judged.pre_ranked["with_score"].mean() >= judged.pre_ranked["base"].mean()
    assert len(judged.pre_rows) == 50
    assert gain(knowing) > gain(stage)
    assert auc(judged.auc_scores["with_score"], np.ones(len(judged.user))) > 0.99

"""Figures of one release and of two, each against a slow reference that looks at everything at once."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from export import audit_comparison as comparison
from export.audit_figures import SCORE_BINS, TableFigures, _VectorSums, measure, score_bins, spread
from features.releases import STAGING, Release, open_release
from tests.scored_nights import configuration_at, stage_night, tables

NIGHT = dt.date(2026, 3, 1)
USERS, ITEMS, LISTS = "karma_user_interest", "karma_item_embedding", "dicer_user_attraction"
counts = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 50))


def staged(folder: Path, columns: dict[str, Any]) -> Release:
    configuration = configuration_at(folder)
    return open_release(configuration.releases / STAGING / stage_night(configuration, NIGHT, columns))


def measured(release: Release, view: str) -> TableFigures:
    return measure(release.tables[view], catalogue=release.tables[ITEMS], sample=1000, seed=0)


def test_vectors_against_all_rows_at_once(tmp_path: Path) -> None:
    columns = tables(users=300)
    rows = np.stack(columns[USERS]["interest_embedding"])
    rows[3, 2], rows[7], rows[11], rows[13, 0] = math.nan, 0.0, 0.25, math.inf
    columns[USERS]["interest_embedding"] = list(rows)
    found = measured(staged(tmp_path, columns), USERS).vectors["interest_embedding"]
    kept = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    norms = np.linalg.norm(kept, axis=1)
    assert (found.not_finite, found.zero, found.constant) == (2, 1, 1)
    assert found.norm_error == pytest.approx(np.abs(norms - 1).max())
    assert found.mean_norm == pytest.approx(norms.mean())
    np.testing.assert_allclose(found.mean, kept.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.std, kept.std(axis=0), atol=1e-12)


@given(
    rows=hnp.arrays(np.float32, (23, 3), elements=st.floats(-1e3, 1e3, width=32)),
    cuts=st.lists(st.integers(0, 23), max_size=5),
)
def test_mean_and_deviation_do_not_depend_on_the_batches(rows: NDArray[np.float32], cuts: list[int]) -> None:
    sums = _VectorSums(3)
    for part in np.split(rows, sorted(cuts)):
        sums.add(part)
    figures = sums.figures(0.0, 0.0)
    np.testing.assert_allclose(figures.mean, rows.astype(np.float64).mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(figures.std, rows.astype(np.float64).std(axis=0), atol=1e-6)


def test_lists_against_python(tmp_path: Path) -> None:
    columns = tables(users=300)
    generator = np.random.default_rng(5)
    lists = [[f"item {n}" for n in generator.choice(14, generator.integers(1, 6), replace=False)] for _ in range(300)]
    scores = [sorted(generator.random(len(one)).astype(np.float32).tolist(), reverse=True) for one in lists]
    scores[9], lists[9] = [0.5, math.nan], ["item 1", "item 1"]
    columns[LISTS] |= {"item_ids": lists, "scores": scores}
    found = measured(release := staged(tmp_path, columns), LISTS).lists
    assert found is not None
    named = Counter(item for one in lists for item in one)
    catalogue = [row["item_id"] for batch in release.tables[ITEMS] for row in batch.to_pylist()]
    assert found.exposure.tolist() == [named[item] for item in catalogue]
    assert found.places == sum(named.values())
    assert found.unknown == named["item 12"] + named["item 13"] > 0
    assert (found.not_finite, found.repeated, found.uneven, found.out_of_order) == (1, 1, 0, 0)
    assert found.scores.sum() == sum(math.isfinite(score) for one in scores for score in one)


def test_spread_against_every_pair() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [units[i] @ units[j] for i in range(40) for j in range(40) if i != j]
    mean_cosine, smallest_std = spread(rows)
    assert mean_cosine == pytest.approx(np.mean(pairs), abs=1e-6)
    assert smallest_std == pytest.approx(units.std(axis=0).min(), rel=1e-5)
    assert all(math.isnan(value) for value in spread(rows[:1]))


@given(hnp.arrays(np.float32, 50, elements=st.floats(0, 1, width=32)))
def test_score_bins_rise_with_the_score_and_stay_in_range(scores: NDArray[np.float32]) -> None:
    bins = score_bins(np.sort(scores))
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < SCORE_BINS


@given(counts)
def test_gini_against_every_pair_of_items(exposure: NDArray[np.int64]) -> None:
    found = comparison.gini(exposure)
    if not exposure.sum():
        assert math.isnan(found)
        return
    pairs = np.abs(exposure[:, None] - exposure[None, :]).sum()
    assert found == pytest.approx(pairs / (2 * len(exposure) ** 2 * exposure.mean()), abs=1e-12)
    assert comparison.gini(exposure[::-1]) == found


def test_gini_and_top_share_of_known_spreads() -> None:
    assert comparison.gini(np.full(100, 7)) == pytest.approx(0)
    assert comparison.gini(np.eye(1, 100, dtype=np.int64)[0]) == pytest.approx(0.99)
    assert comparison.top_items_share(np.arange(1, 201)) == pytest.approx((199 + 200) / np.arange(1, 201).sum())
    assert comparison.top_items_share(np.array([3, 1])) == pytest.approx(0.75)
    assert math.isnan(comparison.top_items_share(np.zeros(5, np.int64)))


def test_population_stability_against_deciles_of_the_scores() -> None:
    generator = np.random.default_rng(1)
    before, now = generator.beta(2, 5, 50_000), generator.beta(3, 5, 50_000)
    edges = np.quantile(before, np.linspace(0, 1, 11)[1:-1])
    p, q = (np.bincount(np.searchsorted(edges, x), minlength=10) / len(x) for x in (now, before))
    slow = ((p - q) * np.log(p / q)).sum()
    histograms = [np.bincount(score_bins(x), minlength=SCORE_BINS) for x in (now, before)]
    assert comparison.population_stability(*histograms) == pytest.approx(slow, rel=0.05)
    assert comparison.population_stability(histograms[1], histograms[1]) == 0
    assert math.isnan(comparison.population_stability(histograms[0], np.zeros(SCORE_BINS, np.int64)))


def test_drift_and_overlap_against_python(tmp_path: Path) -> None:
    columns, later = tables(users=30, seed=1), tables(users=34, seed=2)
    generator = np.random.default_rng(3)
    for one in (columns, later):
        users = len(one[LISTS]["user_id"])
        one[LISTS]["item_ids"] = [
            [f"item {n}" for n in generator.choice(12, generator.integers(1, 6), replace=False)] for _ in range(users)
        ]
        one[LISTS]["scores"] = [[0.5] * len(items) for items in one[LISTS]["item_ids"]]
    before, now = staged(tmp_path / "before", columns), staged(tmp_path / "now", later)

    old, new = (dict(zip(one[LISTS]["user_id"], one[LISTS]["item_ids"], strict=True)) for one in (columns, later))
    shares = [len({*old[user]} & {*new[user]}) / max(len(old[user]), len(new[user])) for user in old]
    overlap = comparison.list_overlap(now.tables[LISTS], before.tables[LISTS], sample=100, seed=0)
    assert overlap == pytest.approx(np.mean(shares))

    left, right = (np.stack(one[USERS]["interest_embedding"])[:30] for one in (later, columns))
    cosine = comparison.live_cosine(now.tables[USERS], before.tables[USERS], "interest_embedding", sample=100, seed=0)
    assert cosine == pytest.approx((left * right).sum(axis=1).mean(), abs=1e-6)

    then, today = (measured(release, USERS).vectors["interest_embedding"] for release in (before, now))
    moved = np.abs(np.stack(later[USERS]["interest_embedding"]).mean(axis=0) - right.mean(axis=0)) / right.std(axis=0)
    assert comparison.dimension_drift(today, then) == pytest.approx(moved.max(), rel=1e-4)
    assert comparison.norm_drift(today, then) == pytest.approx(0, abs=1e-6)


def test_a_sample_of_users_is_near_to_all_of_them(tmp_path: Path) -> None:
    columns, later = tables(users=400, seed=1), tables(users=400, seed=2)
    before, now = staged(tmp_path / "before", columns), staged(tmp_path / "now", later)
    whole, part = (
        comparison.live_cosine(now.tables[USERS], before.tables[USERS], "interest_embedding", sample=sample, seed=0)
        for sample in (400, 100)
    )
    assert part == pytest.approx(whole, abs=0.01)


def test_nobody_in_common_is_no_figure(tmp_path: Path) -> None:
    columns, others = tables(), tables()
    others[USERS]["user_id"] = [f"stranger {n}" for n in range(20)]
    others[LISTS]["user_id"] = [f"stranger {n}" for n in range(20)]
    before, now = staged(tmp_path / "before", columns), staged(tmp_path / "now", others)
    overlap = comparison.list_overlap(now.tables[LISTS], before.tables[LISTS], sample=100, seed=0)
    cosine = comparison.live_cosine(now.tables[USERS], before.tables[USERS], "interest_embedding", sample=100, seed=0)
    assert math.isnan(overlap)
    assert math.isnan(cosine)

"""What `attractor diff` says of two releases, against slow references that follow the definitions word by word."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.interest_drift import Activity, cosines, drift_by_segment
from export.list_changes import average_overlap, list_changes
from export.look_back import INTEREST, LISTS, difference
from features.configuration import Configuration
from features.releases import STAGING, Release, open_release
from tests.scored_nights import configuration_at, stage_night, tables, unit_vectors

NIGHT = dt.date(2026, 3, 10)
DAY = dt.timedelta(days=1)
ITEMS = st.lists(st.sampled_from([f"item {number}" for number in range(8)]), max_size=6, unique=True)


def slow_overlap(ours: list[str], theirs: list[str]) -> float:
    """The sum over depths as the papers have it."""
    longest = max(len(ours), len(theirs))
    if not longest:
        return 1.0
    return sum(len(set(ours[:d]) & set(theirs[:d])) / d for d in range(1, longest + 1)) / longest


def opened(configuration: Configuration, date: dt.date, columns: dict[str, dict[str, Any]], space: str) -> Release:
    return open_release(configuration.releases / STAGING / stage_night(configuration, date, columns, space_id=space))


def a_night(seed: int, *, users: int, first_user: int = 0) -> dict[str, dict[str, Any]]:
    """A night whose users have lists of two to nine of thirty items, drawn with `seed`."""
    generator = np.random.default_rng(seed)
    columns = tables(users=users, items=30, seed=seed)
    ids = [f"user {number:03d}" for number in range(first_user, first_user + users)]
    columns["karma_user_interest"]["user_id"] = ids
    columns["karma_user_interest"]["interest_embedding"] = list(unit_vectors(users, seed=seed))
    picked = [generator.permutation(30)[: generator.integers(2, 10)] for _ in ids]
    columns["dicer_user_attraction"] = {
        "user_id": ids,
        "item_ids": [[f"item {number}" for number in chosen] for chosen in picked],
        "scores": [list(np.linspace(0.9, 0.1, len(chosen)).astype(np.float32)) for chosen in picked],
    }
    return columns


@pytest.fixture
def nights(tmp_path: Path) -> tuple[Release, Release]:
    """Sixty users, of whom ten leave, and ten who join."""
    configuration = configuration_at(tmp_path)
    return (
        opened(configuration, NIGHT, a_night(1, users=60), "space-1"),
        opened(configuration, NIGHT + DAY, a_night(2, users=60, first_user=10), "space-1"),
    )


def lists_of(release: Release) -> dict[str, list[str]]:
    return {row["user_id"]: row["item_ids"] for batch in release.tables[LISTS] for row in batch.to_pylist()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ITEMS, ITEMS), max_size=5))
def test_average_overlap_is_the_mean_over_depths(pairs: list[tuple[list[str], list[str]]]) -> None:
    ours, theirs = (pa.array([pair[side] for pair in pairs], pa.list_(pa.string())) for side in (0, 1))
    assert average_overlap(ours, theirs).tolist() == pytest.approx([slow_overlap(*pair) for pair in pairs], abs=1e-12)
    assert average_overlap(theirs, ours).tolist() == pytest.approx(average_overlap(ours, theirs).tolist(), abs=1e-12)
    assert average_overlap(ours, ours).tolist() == pytest.approx([1.0] * len(pairs), abs=1e-12)


def test_average_overlap_weighs_the_top_most_and_takes_slices() -> None:
    kind = pa.list_(pa.string())
    before = pa.array([["skipped"], ["a", "b", "c"]], kind)[1:]
    top, end = pa.array([["x", "b", "c"]], kind), pa.array([["a", "b", "x"]], kind)
    assert average_overlap(top, before)[0] < average_overlap(end, before)[0] < 1
    twice = pa.array([["a", "a", "b"]], kind)
    assert average_overlap(twice, pa.array([["b", "a", "c"]], kind))[0] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_lists_and_exposure_against_a_slow_reference(nights: tuple[Release, Release]) -> None:
    before, now = nights
    changes = list_changes(before.tables[LISTS], now.tables[LISTS])
    then, today = lists_of(before), lists_of(now)
    shared = sorted(then.keys() & today.keys())
    assert now.tables[LISTS].column("user_id", changes.rows).to_pylist() == shared
    assert changes.agreement.tolist() == pytest.approx([slow_overlap(today[user], then[user]) for user in shared])
    for counted, lists in ((changes.exposure, today), (changes.exposure_before, then)):
        expected = Counter(item for chosen in lists.values() for item in chosen)
        assert dict(zip(*(column.to_pylist() for column in counted.columns), strict=True)) == expected


def test_the_difference_names_who_and_what_changed_most(nights: tuple[Release, Release]) -> None:
    before, now = nights
    told = difference(before, now, activity=None, most=5)
    then, today = lists_of(before), lists_of(now)
    assert told.rows[LISTS] == {"before": 60, "now": 60, "joined": 10, "left": 10}
    agreement = {user: slow_overlap(today[user], then[user]) for user in then.keys() & today.keys()}
    expected = sorted(agreement, key=lambda user: (round(agreement[user], 12), user))[:5]
    assert [change.user_id for change in told.most_changed] == expected
    for change in told.most_changed:
        assert set(change.entered) == set(today[change.user_id]) - set(then[change.user_id])
        assert set(change.left) == set(then[change.user_id]) - set(today[change.user_id])
    counts = [Counter(item for chosen in lists.values() for item in chosen) for lists in (then, today)]
    shares = {
        item: counts[1][item] / counts[1].total() - counts[0][item] / counts[0].total()
        for item in counts[0] | counts[1]
    }
    ranked = sorted(shares, key=lambda item: (-shares[item], item))
    assert [change.item_id for change in told.gained] == ranked[:5]
    assert told.gained[0].share_change == pytest.approx(shares[ranked[0]])
    assert [change.item_id for change in told.lost] == sorted(shares, key=lambda item: (shares[item], item))[:5]
    assert told.remarks
    assert "user_history" in told.remarks[0]


def test_a_release_does_not_differ_from_itself(nights: tuple[Release, Release]) -> None:
    told = difference(nights[0], nights[0], activity=None, most=5)
    assert told.lists["unchanged"] == told.lists["users"] == 60
    assert told.lists["mean_agreement"] == pytest.approx(1)
    assert told.most_changed == told.gained == told.lost == told.models_changed == ()
    assert told.drift[0].low_cosine == pytest.approx(1, abs=1e-6)


def test_an_item_that_was_never_shown_before_gained_all_it_has(tmp_path: Path) -> None:
    columns = a_night(1, users=10)
    later = a_night(1, users=10)
    later["dicer_user_attraction"]["item_ids"] = [["new item", *one[1:]] for one in columns[LISTS]["item_ids"]]
    configuration = configuration_at(tmp_path)
    before, now = (opened(configuration, NIGHT, one, "space-1") for one in (columns, later))
    gained = difference(before, now, activity=None, most=1).gained
    assert [(change.item_id, change.before, change.now) for change in gained] == [("new item", 0, 10)]


def test_drift_by_segment_against_a_slow_reference(nights: tuple[Release, Release]) -> None:
    before, now = nights
    users = [row["user_id"] for batch in now.tables[INTEREST] for row in batch.to_pylist()]
    generator = np.random.default_rng(3)
    earlier_events = dict(zip(users, generator.integers(0, 6, len(users)).tolist(), strict=True))
    events = {user: count + int(generator.integers(0, 2)) for user, count in earlier_events.items()}
    activity = Activity.of(now.tables[INTEREST], _history(events), _history(earlier_events))
    assert activity.now.tolist() == [events[user] for user in users]

    cosine = cosines(before.tables[INTEREST], now.tables[INTEREST], "interest_embedding")
    vectors = [
        {
            row["user_id"]: np.array(row["interest_embedding"])
            for batch in one.tables[INTEREST]
            for row in batch.to_pylist()
        }
        for one in nights
    ]
    expected = {user: float(vectors[0][user] @ vectors[1][user]) for user in users if user in vectors[0]}
    assert [user for user, value in zip(users, cosine, strict=True) if np.isfinite(value)] == list(expected)
    told = {segment.segment: segment for segment in drift_by_segment(cosine, activity)}
    assert told["all"].users == len(expected) == 50
    assert told["all"].mean_cosine == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    for name, members in (
        ("returning", [user for user in expected if events[user] > earlier_events[user]]),
        ("idle", [user for user in expected if events[user] == earlier_events[user]]),
    ):
        assert told[name].users == len(members)
        assert told[name].mean_cosine == pytest.approx(np.mean([expected[user] for user in members]), abs=1e-6)
        assert told[name].low_cosine == pytest.approx(np.quantile([expected[u] for u in members], 0.05), abs=1e-6)
    quarters = [segment for name, segment in told.items() if name.startswith("activity quarter")]
    assert sum(segment.users for segment in quarters) == len(expected)
    cuts = sorted(events[user] for user in expected)
    assert quarters[0].users == sum(count <= cuts[int(0.25 * (len(cuts) - 1))] for count in cuts)


def _history(events: dict[str, int]) -> pa.Table:
    known = {user: count for user, count in events.items() if count}
    return pa.table({"user_id": list(known), "user_event_count": pa.array(list(known.values()), pa.int64())})


def test_interests_of_two_spaces_are_not_compared(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    before, now = (
        opened(configuration, NIGHT + number * DAY, a_night(1, users=5), f"space-{number}") for number in range(2)
    )
    told = difference(before, now, activity=None, most=5)
    assert told.drift == ()
    assert "two spaces" in told.remarks[0]

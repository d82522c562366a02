"""FRESH, STALE, MISSING: the age of the data against what was declared, whatever was published when; and fallbacks."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export import release
from export.audit import audit
from export.composition import compose
from features.configuration import Configuration, load
from features.errors import ArtifactCorrupt, ConfigurationError
from features.files import read_sealed_json, write_json, write_sealed_json
from features.freshness import (
    Answer,
    Fallback,
    FreshnessConfig,
    FreshReader,
    State,
    duration,
    in_words,
    judge,
    open_reader,
)
from features.releases import (
    POINTER,
    POPULAR,
    READY,
    RELEASES,
    Release,
    ReleaseStore,
    open_releases,
    verify,
)
from features.store import open_store, register
from features.windows import midnight
from tests.command_line import attractor, told
from tests.scored_nights import MIDDAY, about, configuration_at, publish_night, stage_night, tables, write_scored
from tests.tiny_world import write_world

NIGHT = dt.date(2026, 3, 10)
DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
END = midnight(NIGHT)
DECLARED = FreshnessConfig(max_age="36h")
POPULAR_ITEMS = ("item 0", "item 1", "item 10")


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def read(configuration: Configuration, *, now: dt.datetime, fallback: Fallback = "none") -> Answer:
    return FreshReader(ReleaseStore(configuration.releases), FreshnessConfig("36h", fallback)).read(now=now)


def state(configuration: Configuration, *, now: dt.datetime) -> State:
    return read(configuration, now=now).freshness.state


def test_a_read_tells_release_window_end_publication_and_both_ages(configuration: Configuration) -> None:
    release_id = publish_night(configuration, NIGHT)
    answer = read(configuration, now=END + 20 * HOUR)
    told = answer.freshness
    assert (told.state, told.release_id, told.window_end) == (State.FRESH, release_id, END)
    assert told.published_at == dt.datetime.combine(NIGHT, MIDDAY)
    assert (told.age, told.published_age) == (20 * HOUR, 8 * HOUR)
    assert answer.release is not None
    assert (answer.source, answer.release.release_id) == ("live", release_id)
    assert answer.record()["age_seconds"] == 72_000


def test_data_are_stale_from_the_first_moment_beyond_the_declared_age(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    assert state(configuration, now=END + 36 * HOUR) == State.FRESH
    late = read(configuration, now=END + 36 * HOUR + dt.timedelta(microseconds=1))
    assert (late.freshness.state, late.source) == (State.STALE, "live")
    assert "1 d 12 h" in late.freshness.sentence


def test_nothing_published_is_missing(configuration: Configuration) -> None:
    for fallback in ("none", "previous", "popularity"):
        answer = read(configuration, now=END, fallback=fallback)
        assert (answer.freshness.state, answer.source, answer.release) == (State.MISSING, "none", None)
        assert "no release is published" in answer.freshness.sentence


def test_nobody_calls_data_fresh_that_no_age_was_declared_for(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    answer = FreshReader(ReleaseStore(configuration.releases), FreshnessConfig()).read(now=END + 400 * DAY)
    assert (answer.freshness.state, answer.source) == (State.UNDECLARED, "live")
    assert answer.freshness.age == 400 * DAY


@pytest.mark.parametrize("way", ["rolled back to", "published late", "published again"])
def test_an_old_night_stays_old_however_lately_it_went_live(configuration: Configuration, way: str) -> None:
    now = END + 10 * DAY
    old = stage_night(configuration, NIGHT)
    if way == "published late":
        release.publish(configuration, old, published_at=now)
    else:
        release.publish(configuration, old, published_at=END + HOUR)
        publish_night(configuration, NIGHT + 9 * DAY)
        release.rollback(configuration, published_at=now, to=old)
        if way == "published again":
            release.publish(configuration, old, published_at=now)
    told = read(configuration, now=now + HOUR).freshness
    assert (told.state, told.release_id, told.published_age) == (State.STALE, old, HOUR)
    assert told.age == 10 * DAY + HOUR


def test_a_part_that_stands_in_ages_the_whole_release(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    columns = tables(seed=99)
    columns["dicer_user_attraction"]["scores"] = [row[::-1] for row in columns["dicer_user_attraction"]["scores"]]
    later = NIGHT + 2 * DAY
    staged = stage_night(configuration, later, columns)
    composed = compose(configuration, audit(configuration, staged))
    assert composed is not None
    release.publish(configuration, composed, published_at=midnight(later) + HOUR, force_reason="of this test")
    told = read(configuration, now=midnight(later) + 2 * HOUR).freshness
    assert (told.state, told.release_id, told.window_end) == (State.STALE, composed, END)


def test_a_night_made_before_its_window_ended_knows_nothing_after_it_was_made(configuration: Configuration) -> None:
    made = END - 20 * DAY
    early = stage_night(configuration, NIGHT)
    release.publish(configuration, early, published_at=made)
    assert state(configuration, now=made + HOUR) == State.STALE  # from the future
    told = read(configuration, now=END + HOUR).freshness
    assert (told.state, told.window_end) == (State.STALE, made)
    publish_night(configuration, NIGHT + DAY)
    release.rollback(configuration, published_at=END + DAY, to=early)  # does not make it younger
    assert state(configuration, now=END + HOUR) == State.STALE


def test_a_release_from_the_future_is_stale_because_a_clock_is_wrong(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)  # live since midday
    midday = dt.datetime.combine(NIGHT, MIDDAY)
    assert state(configuration, now=midday - dt.timedelta(minutes=5)) == State.FRESH  # as clocks may differ
    for now in (midday - dt.timedelta(minutes=6), END - 2 * DAY):
        told = read(configuration, now=now).freshness
        assert told.state == State.STALE
        assert "a clock is wrong" in told.sentence


def test_a_clock_that_runs_backwards_never_makes_a_stale_night_fresh(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    late = stage_night(configuration, NIGHT + DAY)
    release.publish(configuration, late, published_at=END + 9 * DAY)
    assert state(configuration, now=END + 9 * DAY) == State.STALE
    for back in (HOUR, DAY, 8 * DAY, 30 * DAY):  # the reader's clock falls behind the publisher's
        assert state(configuration, now=END + 9 * DAY - back) == State.STALE


@given(st.integers(-3000, 3000), st.integers(0, 3000), st.integers(0, 100))
def test_fresh_means_within_the_age_and_never_returns(published: int, waited: int, later: int) -> None:
    """Hours of publication after the window's end, of reading after that, and of reading once more."""
    at = END + published * HOUR
    one = Release(Path(), {"release_id": "x", "date": str(NIGHT), "contracts": {}}, at, {}, admitted_at=at)
    first, second = (judge(one, DECLARED, now=at + hours * HOUR) for hours in (waited, waited + later))
    assert (first.state == State.FRESH) == (min(published, 0) * HOUR + END + 36 * HOUR >= at + waited * HOUR >= END)
    if first.state == State.STALE and published >= 0:
        assert second.state == State.STALE
    assert first.age is not None
    assert first.published_age == waited * HOUR
    assert first.age >= waited * HOUR


def test_an_instant_without_a_zone_is_refused(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    with pytest.raises(ValueError, match="time zone"):
        read(configuration, now=dt.datetime(2026, 3, 10))  # noqa: DTZ001


def test_the_release_before_stands_in_where_the_live_one_cannot_be_read(configuration: Configuration) -> None:
    before, live = (publish_night(configuration, NIGHT + n * DAY) for n in range(2))
    now = END + 30 * HOUR
    (configuration.releases / RELEASES / live / "karma_user_interest" / "rows.arrow").write_bytes(b"no longer")
    assert read(configuration, now=now).source == "none"
    reader = FreshReader(ReleaseStore(configuration.releases), FreshnessConfig("36h", "previous"))
    answer = reader.read(now=now)
    assert answer.release is not None
    assert (answer.source, answer.release.release_id, answer.freshness.state) == ("previous", before, State.FRESH)
    assert answer.freshness.published_at == dt.datetime.combine(NIGHT, MIDDAY)
    assert "stands in" in answer.freshness.sentence
    assert live in answer.freshness.sentence
    assert reader.read(now=now).release is answer.release  # opened once
    assert reader.read(now=END + 3 * DAY).freshness.state == State.STALE  # it is told its own age
    shutil.rmtree(configuration.releases / RELEASES / before)
    assert read(configuration, now=now, fallback="previous").freshness.state == State.MISSING


def test_the_release_before_stands_in_for_a_stale_one_only_if_it_is_fresh(configuration: Configuration) -> None:
    old, young = (publish_night(configuration, NIGHT + n * DAY) for n in range(2))
    now = END + 2 * DAY
    assert read(configuration, now=now, fallback="previous").source == "live"
    late = stage_night(configuration, NIGHT + 2 * DAY)
    release.publish(configuration, late, published_at=now + DAY)  # by a clock that is a day ahead
    answer = read(configuration, now=now, fallback="previous")
    assert answer.release is not None
    assert (answer.source, answer.release.release_id) == ("previous", young)
    far = read(configuration, now=now + 9 * DAY, fallback="previous")
    assert far.release is not None
    assert (far.source, far.release.release_id, far.freshness.state) == ("live", late, State.STALE)
    assert old != young


def test_the_popularity_list_that_the_release_carries_stands_in(configuration: Configuration) -> None:
    before, live = (publish_night(configuration, NIGHT + n * DAY) for n in range(2))
    fresh = read(configuration, now=END + DAY + 12 * HOUR, fallback="popularity")
    assert (fresh.source, fresh.popular_items) == ("live", ())
    assert fresh.release is not None
    assert fresh.release.popular_items == POPULAR_ITEMS  # for a user who has no list
    stale = read(configuration, now=END + 9 * DAY, fallback="popularity")
    assert (stale.source, stale.release, stale.popular_items) == ("popularity", None, POPULAR_ITEMS)
    assert stale.freshness.state == State.STALE
    (configuration.releases / RELEASES / live / READY).unlink()
    missing = read(configuration, now=END + DAY, fallback="popularity")
    assert (missing.freshness.state, missing.source) == (State.MISSING, "popularity")
    assert missing.popular_items == POPULAR_ITEMS
    shutil.rmtree(configuration.releases / RELEASES / before)
    assert read(configuration, now=END + DAY, fallback="popularity").source == "none"


def test_a_release_without_a_popularity_list_gives_none(configuration: Configuration) -> None:
    columns = tables()
    note = about(NIGHT, columns)
    del note["popular_items"]  # as an earlier version scored it
    scored = write_scored(configuration.scored / str(NIGHT), columns)
    release.publish(configuration, release.stage(configuration, NIGHT, scored, note), published_at=END + HOUR)
    assert open_releases(configuration.releases).current().popular_items == ()
    assert read(configuration, now=END + 9 * DAY, fallback="popularity").source == "none"


@pytest.mark.parametrize("broken", [{"item_ids": "item 1"}, {"item_ids": [1]}, {}])
def test_a_popularity_list_that_is_none_is_corrupt(configuration: Configuration, broken: dict[str, object]) -> None:
    release_id = publish_night(configuration, NIGHT)
    directory = configuration.releases / RELEASES / release_id
    (directory / POPULAR).write_bytes((directory / POPULAR).read_bytes().replace(b"item 0", b"item 9"))
    with pytest.raises(ArtifactCorrupt):
        verify(open_releases(configuration.releases).current())
    write_json(directory / POPULAR, broken)
    with pytest.raises(ArtifactCorrupt):
        open_releases(configuration.releases).current()


def test_a_pointer_that_cannot_be_read_is_missing(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    (configuration.releases / POINTER).write_text("{}")
    for fallback in ("none", "previous", "popularity"):
        assert read(configuration, now=END, fallback=fallback).freshness.state == State.MISSING


@pytest.mark.parametrize("broken", [{}, {"admitted_at": "noon"}, {"admitted_at": "2026-03-10T12:00:00"}])
def test_a_release_that_cannot_say_when_it_was_admitted_is_corrupt(
    configuration: Configuration, broken: dict[str, str]
) -> None:
    release_id = publish_night(configuration, NIGHT)
    ready = configuration.releases / RELEASES / release_id / READY
    write_sealed_json(ready, {**{k: v for k, v in read_sealed_json(ready).items() if k != "admitted_at"}, **broken})
    with pytest.raises(ArtifactCorrupt, match="READY"):
        open_releases(configuration.releases).current()


def test_every_view_tells_release_publication_and_window_end_through_feast(configuration: Configuration) -> None:
    release_id = publish_night(configuration, NIGHT)
    register(configuration)
    store = open_store(configuration)
    wanted = {
        "user_id": ["karma_user_interest:release_id", "karma_user_interest:published_at"]
        + [f"dicer_user_attraction:attraction_{name}" for name in ("release_id", "published_at")],
        "item_id": [f"karma_item_embedding:item_{name}" for name in ("release_id", "published_at")],
    }
    for key, features in wanted.items():
        answer = store.get_online_features(features=features, entity_rows=[{key: f"{key[:4]} 1"}])
        values = [value for name, (value,) in answer.to_dict().items() if name != key]
        assert len(values) == len(features)
        assert set(values) == {release_id, dt.datetime.combine(NIGHT, MIDDAY)}
        stamps = [stamp.ToDatetime(dt.UTC) for vector in answer.proto.results[1:] for stamp in vector.event_timestamps]
        assert stamps == [END] * len(features)


@pytest.mark.parametrize(("text", "span"), [("90m", 1.5 * HOUR), ("36h", 36 * HOUR), ("3d", 3 * DAY)])
def test_durations(text: str, span: dt.timedelta) -> None:
    assert duration(text) == span


@pytest.mark.parametrize("text", ["", "36", "0h", "1.5h", "-1h", "36 h", "1w", "9999999d"])
def test_what_is_no_duration_is_refused(tmp_path: Path, text: str) -> None:
    file = write_world(tmp_path, freshness={"max_age": text})
    with pytest.raises(ConfigurationError, match="freshness"):
        open_reader(load(file))


@pytest.mark.parametrize(
    ("span", "words"),
    [(dt.timedelta(0), "0 min"), (DAY + 3 * HOUR, "1 d 3 h"), (-HOUR, "-1 h"), (dt.timedelta(minutes=61), "1 h 1 min")],
)
def test_spans_in_words(span: dt.timedelta, words: str) -> None:
    assert in_words(span) == words


def test_status_says_it_and_exits_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the machine's clock, as the command line reads it: the nights here are far behind it."""
    file = str(write_world(tmp_path))
    assert attractor("status", "--config", file) == 4
    assert "MISSING" in capsys.readouterr().out
    publish_night(load(Path(file)), NIGHT)
    assert told(capsys, "status", "--config", file)["freshness"]["state"] == "UNDECLARED"
    write_world(tmp_path, freshness={"max_age": "36h", "fallback": "popularity"})
    assert attractor("status", "--config", file) == 4
    assert "STALE" in capsys.readouterr().out
    assert attractor("status", "--json", "--config", file) == 4
    said = capsys.readouterr().out
    assert '"source": "popularity"' in said
    assert '"item 10"' in said
    write_world(tmp_path, freshness={"max_age": "999999d"})
    fresh = told(capsys, "status", "--config", file)["freshness"]
    assert (fresh["state"], fresh["window_end"]) == ("FRESH", END.isoformat())


def test_the_reader_of_a_found_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_world(tmp_path, freshness={"max_age": "36h"})
    publish_night(load(file), NIGHT)
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(file))
    assert open_reader().read(now=END + 20 * HOUR).freshness.state == State.FRESH
    assert replace(DECLARED, max_age=None) == FreshnessConfig()

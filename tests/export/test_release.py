"""Publication, rollback and retention: atomic, idempotent, never backwards, and complete after a kill at any step."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from export import release, retention
from export.audit import audit
from export.drafts import DRAFTS, drafting
from features.configuration import Configuration
from features.errors import GateFailed, MissingInput
from features.files import read_json
from features.releases import (
    AUDIT,
    MANIFEST,
    POINTER,
    READY,
    RELEASES,
    REPORT,
    STAGING,
    open_releases,
    read_pointer,
    verify,
)
from tests.scored_nights import configuration_at, publish_night, stage_night, tables, write_scored

NIGHT = dt.date(2026, 3, 10)
DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def live(configuration: Configuration) -> str:
    return open_releases(configuration.releases).current().release_id


def states(configuration: Configuration) -> dict[str, str]:
    return {entry["release_id"]: entry["state"] for entry in release.releases(configuration)}


def empty_items(configuration: Configuration, date: dt.date) -> str:
    return stage_night(configuration, date, tables(items=0, users=3))


def test_a_published_night_is_served_and_left_with_its_report(configuration: Configuration) -> None:
    release_id = stage_night(configuration, NIGHT)
    publication = release.publish(configuration, release_id, published_at=NOON)
    assert (publication.live, publication.previous) == (True, None)
    opened = open_releases(configuration.releases).current()
    assert (opened.release_id, opened.published_at) == (release_id, NOON)
    verify(opened)
    assert release_id in (opened.directory / REPORT).read_text()
    assert read_json(opened.directory / READY)["refused_gates"] == []
    assert not (configuration.releases / STAGING / release_id).exists()


def test_publishing_again_changes_nothing(configuration: Configuration) -> None:
    release_id = publish_night(configuration, NIGHT)
    before = {path: path.stat().st_mtime_ns for path in configuration.state.rglob("*") if path.is_file()}
    again = stage_night(configuration, NIGHT)
    assert again == release_id
    assert audit(configuration, release_id).refused == []
    publication = release.publish(configuration, release_id, published_at=NOON + DAY)
    assert publication.published_at == NOON.isoformat()
    kept = {path: path.stat().st_mtime_ns for path in before if "scored" not in path.parts and ".lock" not in path.name}
    assert kept == {path: before[path] for path in kept}


def test_a_refused_night_leaves_what_is_served_and_can_be_looked_at(configuration: Configuration) -> None:
    served = publish_night(configuration, NIGHT)
    refused = empty_items(configuration, NIGHT + DAY)
    with pytest.raises(GateFailed, match="karma_item_embedding"):
        release.publish(configuration, refused, published_at=NOON + DAY)
    assert live(configuration) == served
    assert read_json(configuration.releases / STAGING / refused / AUDIT)["decision"] == "refused"
    assert states(configuration) == {served: "live", refused: "refused"}
    assert release.status(configuration)["waiting"] == [refused]


def test_a_reason_puts_a_refused_night_live_and_is_recorded(configuration: Configuration) -> None:
    refused = empty_items(configuration, NIGHT)
    release.publish(configuration, refused, published_at=NOON, force_reason="catalogue is being moved")
    assert live(configuration) == refused
    ready = read_json(configuration.releases / RELEASES / refused / READY)
    assert ready["force_reason"] == "catalogue is being moved"
    assert ready["refused_gates"]
    forced = read_json(configuration.releases / RELEASES / refused / MANIFEST)["forced"]
    assert forced == {"reason": "catalogue is being moved", "refused": ready["refused_gates"]}
    verify(open_releases(configuration.releases).current())
    pointer = read_pointer(configuration.releases)
    assert pointer is not None
    assert pointer.history[-1]["reason"] == "catalogue is being moved"


def test_a_reason_must_say_something_and_is_kept_only_where_it_was_needed(configuration: Configuration) -> None:
    refused = empty_items(configuration, NIGHT)
    with pytest.raises(ValueError, match="reason"):
        release.publish(configuration, refused, published_at=NOON, force_reason="  ")
    assert states(configuration) == {refused: "staged"}
    good = stage_night(configuration, NIGHT)
    release.publish(configuration, good, published_at=NOON, force_reason="to be on the safe side")
    assert "forced" not in read_json(configuration.releases / RELEASES / good / MANIFEST)


def test_an_earlier_night_never_moves_what_is_served_backwards(configuration: Configuration) -> None:
    served = publish_night(configuration, NIGHT)
    earlier = stage_night(configuration, NIGHT - DAY)
    for reason in (None, "a backfill"):
        publication = release.publish(configuration, earlier, published_at=NOON + DAY, force_reason=reason)
        assert not publication.live
        assert "later night" in publication.sentence
    assert live(configuration) == served
    assert states(configuration) == {served: "live", earlier: "kept"}
    assert not (configuration.published / "karma_user_interest" / f"date={NIGHT - DAY}.parquet").exists()


def test_a_corrected_night_replaces_its_own_date(configuration: Configuration) -> None:
    first = publish_night(configuration, NIGHT)
    second = publish_night(configuration, NIGHT, tables(seed=99))
    assert first != second
    assert live(configuration) == second
    file = configuration.published / "karma_user_interest" / f"date={NIGHT}.parquet"
    assert set(pq.read_table(file).column("release_id").to_pylist()) == {second}


def test_history_holds_the_rows_with_their_provenance(configuration: Configuration) -> None:
    columns = tables(users=5)
    release_id = publish_night(configuration, NIGHT, columns)
    file = configuration.published / "dicer_user_attraction" / f"date={NIGHT}.parquet"
    rows = {row["user_id"]: row for row in pq.read_table(file, partitioning=None).to_pylist()}
    assert list(rows) == sorted(columns["dicer_user_attraction"]["user_id"])
    assert rows["user 4"]["item_ids"] == columns["dicer_user_attraction"]["item_ids"][0]
    assert rows["user 4"]["attraction_release_id"] == release_id
    assert rows["user 4"]["event_timestamp"] == dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
    for view, instant in {
        "karma_user_interest": "published_at",
        "karma_item_embedding": "item_published_at",
        "dicer_user_attraction": "attraction_published_at",
    }.items():
        file = configuration.published / view / f"date={NIGHT}.parquet"
        assert set(pq.read_table(file, partitioning=None).column(instant).to_pylist()) == {NOON}


def test_rollback_goes_back_and_stays_back(configuration: Configuration) -> None:
    first, second, third = (publish_night(configuration, NIGHT + number * DAY) for number in range(3))
    back = release.rollback(configuration, published_at=NOON + 3 * DAY)
    assert (back.release_id, back.previous, live(configuration)) == (second, first, second)
    rerun = release.publish(configuration, third, published_at=NOON + 3 * DAY)
    assert not rerun.live
    assert "rolled back" in rerun.sentence
    assert release.rollback(configuration, published_at=NOON + 3 * DAY).release_id == first
    assert not release.publish(configuration, second, published_at=NOON + 3 * DAY).live
    with pytest.raises(MissingInput, match="no release before"):
        release.rollback(configuration, published_at=NOON + 3 * DAY)
    assert release.rollback(configuration, published_at=NOON + 3 * DAY, to=third).live
    newer = publish_night(configuration, NIGHT + 4 * DAY)
    assert live(configuration) == newer
    assert [entry["action"] for entry in read_json(configuration.releases / POINTER)["history"]] == [
        *["publish"] * 3, *["rollback"] * 3, "publish"
    ]  # fmt: skip


def test_a_rolled_back_night_comes_back_with_a_reason(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    second = publish_night(configuration, NIGHT + DAY)
    release.rollback(configuration, published_at=NOON + DAY)
    assert release.publish(configuration, second, published_at=NOON + DAY, force_reason="it was not its fault").live


def test_rolling_back_without_anything_is_an_error(configuration: Configuration) -> None:
    with pytest.raises(MissingInput, match="nothing to roll back"):
        release.rollback(configuration, published_at=NOON)
    release_id = publish_night(configuration, NIGHT)
    with pytest.raises(MissingInput, match="2026-01-01"):
        release.rollback(configuration, published_at=NOON, to="2026-01-01-000000000000")
    assert "already" in release.rollback(configuration, published_at=NOON, to=release_id).sentence
    with pytest.raises(MissingInput, match="attractor stage"):
        release.publish(configuration, "2026-01-01-000000000000", published_at=NOON)


def test_old_releases_are_retired_but_not_the_live_one_nor_the_one_before(configuration: Configuration) -> None:
    nights = [publish_night(configuration, NIGHT + number * DAY) for number in range(retention.KEEP_RELEASES + 1)]
    assert nights[0] not in states(configuration)
    release.rollback(configuration, published_at=NOON, to=nights[1])
    for number in range(2):
        stale = stage_night(configuration, NIGHT + (20 + number) * DAY)
        release.publish(configuration, stale, published_at=NOON + (20 + number) * DAY)
        if number == 0:
            assert states(configuration)[nights[1]] == "previous"
    assert nights[1] not in states(configuration)
    assert len([state for state in states(configuration).values() if state in {"live", "previous", "kept"}]) >= 3


def test_staged_nights_are_retired_only_when_nobody_touched_them_for_a_day(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    staging = configuration.releases / STAGING
    waiting = [stage_night(configuration, NIGHT + number * DAY) for number in range(1, retention.KEEP_STAGED + 3)]
    at = dt.datetime.fromtimestamp(max((staging / name).stat().st_mtime for name in waiting), dt.UTC)
    retention.collect(configuration, keep=3, now=at + retention.STAGED_TIME / 2)
    assert sorted(path.name for path in staging.iterdir()) == waiting
    retention.collect(configuration, keep=3, now=at + retention.STAGED_TIME + dt.timedelta(seconds=1))
    assert sorted(path.name for path in staging.iterdir()) == waiting[2:]


def test_the_next_night_completes_the_history_of_a_killed_one(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    file = configuration.published / "karma_user_interest" / f"date={NIGHT}.parquet"
    file.unlink()  # as a kill after the pointer's move leaves it
    publish_night(configuration, NIGHT + DAY)
    assert file.is_file()


def test_what_killed_writers_left_is_removed_and_never_listed(configuration: Configuration) -> None:
    release_id = publish_night(configuration, NIGHT)
    store = configuration.releases
    left = [store / RELEASES / ".tmp-2026-03-01-aaaaaaaaaaaa-1", store / DRAFTS / "draft-1"]
    for directory in left:
        write_scored(directory, tables())
        (directory / "manifest.json").write_text("{}")
    for folder in (store, store / RELEASES / release_id, configuration.published / "karma_user_interest"):
        (folder / ".tmp-current.json-1").write_text("half")
    assert len(release.releases(configuration)) == 1
    publish_night(configuration, NIGHT + DAY)
    assert not [path for path in configuration.state.rglob("*") if path.name.startswith(".tmp-") or path in left]


def test_a_draft_of_a_living_process_is_not_removed_by_another_writer(configuration: Configuration) -> None:
    with drafting(configuration.releases) as draft:
        publish_night(configuration, NIGHT)
        assert draft.is_dir()
    assert not draft.exists()

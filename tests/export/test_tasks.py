"""What a scheduler's tasks add to the stages: a forced night, room on the disk, what killed runs left, freshness."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from export import staging_area, tasks
from export.drafts import DRAFTS
from export.ledger import open_ledger
from export.ledger_models import State
from features.configuration import Configuration, load
from features.errors import DiskFailed, GateFailed, MissingInput
from features.files import read_json, write_json
from features.releases import MANIFEST, RELEASES, STAGING, read_pointer
from tests.scored_nights import about, publish_night, tables, write_scored
from tests.tiny_world import NIGHT, write_world

YESTERDAY = NIGHT - dt.timedelta(days=1)
AT = f"{NIGHT}T02:00:00+00:00"
REASON = "the catalogue halved by intent"


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """Yesterday is live, tonight is scored."""
    file = write_world(tmp_path, freshness={"max_age": "36h"})
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(file))
    configuration = load()
    publish_night(configuration, YESTERDAY)
    score(configuration, users=20)
    return configuration


def score(configuration: Configuration, *, users: int) -> None:
    columns = tables(users=users, seed=1)
    write_scored(configuration.scored / str(NIGHT), columns)
    write_json(configuration.scored / str(NIGHT) / "scored.json", about(NIGHT, columns))


def live(configuration: Configuration) -> str:
    pointer = read_pointer(configuration.releases)
    assert pointer is not None
    return pointer.release_id


def test_a_refused_night_goes_live_with_a_reason_that_is_kept_and_not_without_one(configuration: Configuration) -> None:
    score(configuration, users=4)  # of 20 yesterday
    release_id = tasks.stage(str(NIGHT))
    for nothing in ("", "   "):
        with pytest.raises(GateFailed, match=r"row floor: rows_ratio 0.2"):
            tasks.audit(release_id, force=nothing)
    assert live(configuration).startswith(str(YESTERDAY))
    published = tasks.publish(tasks.audit(release_id, force=REASON), AT, force=REASON)
    assert published["live"]
    assert live(configuration) == release_id
    forced = read_json(configuration.releases / RELEASES / release_id / MANIFEST)["forced"]
    assert forced["reason"] == REASON
    runs = open_ledger(configuration).runs(limit=2)
    assert [(run.stage, run.state) for run in runs] == [("publish", State.DONE), ("audit", State.REFUSED)]
    assert runs[0].inputs["force_reason"] == REASON


def test_what_consumers_are_told_is_the_release_its_window_and_no_more(configuration: Configuration) -> None:
    release_id = tasks.audit(tasks.stage(str(NIGHT)), force="")
    told = tasks.publish(release_id, AT, force="")
    assert told.keys() == {"release_id", "date", "window_end", "published_at", "live", "sentence"}
    assert (told["release_id"], told["date"], told["window_end"]) == (release_id, str(NIGHT), f"{NIGHT}T00:00:00+00:00")
    assert dt.datetime.fromisoformat(told["published_at"]) == dt.datetime.fromisoformat(AT)


def test_staging_begins_without_what_killed_runs_left_and_ends_so(configuration: Configuration) -> None:
    left = configuration.releases / DRAFTS / "draft-of-a-killed-run"
    for sweep in (lambda: tasks.open_staging(str(NIGHT)), tasks.close_staging):
        left.mkdir()
        (left / "rows.arrow").write_bytes(b"half a night")
        sweep()
        assert not left.exists()
    tasks.stage(str(NIGHT))
    assert tasks.close_staging() == []
    assert [path.name[:10] for path in (configuration.releases / STAGING).iterdir()] == [str(NIGHT)]


def test_a_night_for_which_the_disk_has_no_room_is_not_begun(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = tasks.open_staging(str(NIGHT))
    assert needed == 2 * sum(file.stat().st_size for file in (configuration.scored / str(NIGHT)).iterdir())
    monkeypatch.setattr(staging_area, "free_bytes", lambda path: needed - 1)
    with pytest.raises(DiskFailed, match=f"needs {needed:,} bytes, {needed - 1:,} are free"):
        tasks.open_staging(str(NIGHT))
    with pytest.raises(MissingInput, match="was not scored"):
        tasks.open_staging("2026-02-01")


def test_freshness_is_silent_until_the_declared_age_and_then_refuses(configuration: Configuration) -> None:
    assert "max_age is 36h" in tasks.freshness(f"{YESTERDAY}T12:00:00+00:00")
    with pytest.raises(GateFailed, match=r"STALE: .* ago"):
        tasks.freshness("2026-01-22T12:00:00+00:00")


def test_retention_deletes_what_is_superfluous_and_never_what_is_live(configuration: Configuration) -> None:
    for days in range(2, 12):
        publish_night(configuration, NIGHT + dt.timedelta(days=days))
    released = configuration.releases / RELEASES
    before = {path.name for path in released.iterdir()}
    deleted = tasks.retention("2026-02-10T00:00:00+00:00")
    assert {path.name for path in released.iterdir()} == before - set(deleted)
    assert live(configuration) in before - set(deleted)

"""One model's part is refused: the other's goes live beside what stood, and says so wherever it is read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from export import release, stages
from export.audit import audit
from export.composition import compose
from export.gates import PARTS
from features.configuration import Configuration
from features.errors import GateFailed
from features.files import read_json
from features.releases import (
    AUDIT,
    MANIFEST,
    RELEASES,
    REPORT,
    STAGING,
    Release,
    open_release,
    open_releases,
    verify,
)
from features.windows import midnight
from tests.scored_nights import MIDDAY, about, configuration_at, publish_night, stage_night, tables, write_scored

NIGHT = dt.date(2026, 3, 10)
DAY = dt.timedelta(days=1)
USERS, ITEMS, LISTS = "karma_user_interest", "karma_item_embedding", "dicer_user_attraction"
Columns = dict[str, dict[str, Any]]


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def bad_vectors(columns: Columns) -> None:
    columns[USERS]["interest_embedding"] = [-row for row in columns[USERS]["interest_embedding"]]


def bad_lists(columns: Columns) -> None:
    columns[LISTS]["scores"] = [row[::-1] for row in columns[LISTS]["scores"]]


def staged(
    configuration: Configuration, date: dt.date, *spoilt: Callable[[Columns], None], space: str = "space-1"
) -> str:
    """A night of later models than the first one's, spoilt."""
    columns = tables(seed=date.toordinal())
    note = about(date, columns, space_id=space)
    note["models"] = {"karma": "karma-2", "dicer": "dicer-2"}
    for told in note["evidence"].values():
        told["quality"] = {"mean": 0.01, "low": -0.01, "high": 0.02}
    for spoil in spoilt:
        spoil(columns)
    return release.stage(configuration, date, write_scored(configuration.scored / str(date), columns), note)


def published(configuration: Configuration, release_id: str, date: dt.date) -> Release:
    """Audit and publish as a night does; what is live then."""
    passed = stages.audit(configuration, release_id)["release_id"]
    stages.publish(configuration, passed, published_at=dt.datetime.combine(date, MIDDAY))
    return open_releases(configuration.releases).current()


def rows(opened: Release, view: str) -> list[dict[str, Any]]:
    return [row for batch in opened.tables[view] for row in batch.to_pylist()]


@pytest.mark.parametrize(("spoil", "stands"), [(bad_vectors, "karma"), (bad_lists, "dicer")])
def test_the_sound_part_goes_live_beside_the_standing_one(
    configuration: Configuration, spoil: Callable[[Columns], None], stands: str
) -> None:
    before = open_releases(configuration.releases).open(publish_night(configuration, NIGHT))
    refused = staged(configuration, NIGHT + DAY, spoil)
    live = published(configuration, refused, NIGHT + DAY)
    verify(live)
    assert live.release_id not in (before.release_id, refused)
    new = open_release(configuration.releases / STAGING / refused)
    for part, views in PARTS.items():
        source = before if part == stands else new
        assert live.manifest["models"][part] == source.manifest["models"][part]
        for view in views:
            assert str(rows(live, view)) == str(rows(source, view))
            assert live.as_of_view(view) == midnight(NIGHT if part == stands else NIGHT + DAY)
    assert live.date == NIGHT + DAY
    assert live.manifest["standing"] == {
        "part": stands, "views": list(PARTS[stands]), "release_id": before.release_id, "date": str(NIGHT)
    }  # fmt: skip
    told = live.manifest["refused"]
    assert told["release_id"] == refused
    assert all(why.startswith(PARTS[stands]) for why in told["why"])
    assert f"The part of {stands} is the night of {NIGHT}" in (live.directory / REPORT).read_text()


def test_the_refused_night_stays_to_be_looked_at_and_running_again_changes_nothing(
    configuration: Configuration,
) -> None:
    publish_night(configuration, NIGHT)
    refused = staged(configuration, NIGHT + DAY, bad_vectors)
    live = published(configuration, refused, NIGHT + DAY)
    assert read_json(configuration.releases / STAGING / refused / AUDIT)["decision"] == "refused"
    files = {path: path.stat().st_mtime_ns for path in (configuration.releases / RELEASES).rglob("*")}
    again = staged(configuration, NIGHT + DAY, bad_vectors)
    assert again == refused
    assert published(configuration, again, NIGHT + DAY).release_id == live.release_id
    assert {path: path.stat().st_mtime_ns for path in files} == files
    listed = {entry["release_id"]: entry for entry in release.releases(configuration)}
    assert (listed[live.release_id]["state"], listed[refused]["state"]) == ("live", "refused")
    assert listed[live.release_id]["standing"]["part"] == "karma"


def test_a_standing_space_stays_one_space(configuration: Configuration) -> None:
    before = open_releases(configuration.releases).open(publish_night(configuration, NIGHT))

    def zeros(columns: Columns) -> None:
        columns[ITEMS]["item_embedding"][2][:] = 0

    live = published(configuration, staged(configuration, NIGHT + DAY, zeros, space="space-2"), NIGHT + DAY)
    assert live.space_id == before.space_id == "space-1"
    for view, column in ((USERS, "interest_embedding"), (ITEMS, "item_embedding")):
        everything = np.arange(live.tables[view].row_count)
        assert (live.tables[view].vectors(column, everything) == before.tables[view].vectors(column, everything)).all()


def test_a_part_may_stand_in_for_some_nights_and_keeps_its_own_date(configuration: Configuration) -> None:
    first = publish_night(configuration, NIGHT)
    for days in (1, 2, 3):
        date = NIGHT + days * DAY
        live = published(configuration, staged(configuration, date, bad_vectors), date)
        assert live.manifest["standing"]["release_id"] == first
        assert live.as_of_view(USERS) == midnight(NIGHT)
        assert live.provenance["release_date"] == str(NIGHT)
    with pytest.raises(GateFailed):
        published(configuration, staged(configuration, NIGHT + 4 * DAY, bad_vectors), NIGHT + 4 * DAY)
    assert open_releases(configuration.releases).current().date == NIGHT + 3 * DAY
    recovered = published(configuration, staged(configuration, NIGHT + 5 * DAY), NIGHT + 5 * DAY)
    assert "standing" not in recovered.manifest


def test_history_has_the_new_part_and_keeps_the_standing_one_of_its_own_night(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    live = published(configuration, staged(configuration, NIGHT + DAY, bad_vectors), NIGHT + DAY)
    assert not (configuration.published / USERS / f"date={NIGHT + DAY}.parquet").exists()
    lists = pq.read_table(configuration.published / LISTS / f"date={NIGHT + DAY}.parquet", partitioning=None)
    assert set(lists["attraction_release_id"].to_pylist()) == {live.release_id}


@pytest.mark.parametrize("spoilt", [(bad_vectors, bad_lists)], ids=["both parts"])
def test_nothing_is_composed_of_two_refused_parts(configuration: Configuration, spoilt: Any) -> None:
    served = publish_night(configuration, NIGHT)
    with pytest.raises(GateFailed) as refusal:
        stages.audit(configuration, staged(configuration, NIGHT + DAY, *spoilt))
    assert {sentence.split(",")[0] for sentence in refusal.value.verdicts} == {USERS, LISTS}
    assert open_releases(configuration.releases).current().release_id == served


def test_nothing_is_composed_without_a_live_release_or_against_the_configuration(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    columns = tables()
    bad_lists(columns)
    with pytest.raises(GateFailed):
        stages.audit(configuration, stage_night(configuration, NIGHT, columns))
    forbidding = configuration_at(tmp_path, audit={"compose": False})
    publish_night(forbidding, NIGHT)
    with pytest.raises(GateFailed):
        stages.audit(forbidding, staged(forbidding, NIGHT + DAY, bad_lists))


def test_a_night_published_all_the_same_is_not_composed_afterwards(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    refused = staged(configuration, NIGHT + DAY, bad_lists)
    at = dt.datetime.combine(NIGHT + DAY, MIDDAY)
    stages.publish(configuration, refused, published_at=at, force_reason="scores rise on purpose")
    assert compose(configuration, audit(configuration, refused)) is None
    manifest = read_json(configuration.releases / RELEASES / refused / MANIFEST)
    assert manifest["forced"]["reason"] == "scores rise on purpose"

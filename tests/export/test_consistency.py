"""Online against offline, through Feast on both sides: alike after a publication, and what differs is named."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from export import release, tasks
from export.consistency import Comparison, ConsistencyConfig, ViewComparison, compare
from export.history import partition
from export.stages import register
from features.configuration import Configuration
from features.contracts import PUBLISHED
from features.errors import ConfigurationError, GateFailed, MissingInput
from features.windows import midnight
from tests.command_line import attractor, told
from tests.scored_nights import configuration_at, publish_night
from tests.tiny_world import NIGHT

INTEREST = "karma_user_interest"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """Two nights published; the second is live."""
    configuration = configuration_at(tmp_path_factory.mktemp("served"))
    configuration.file.write_text('state = "state"\n[source]\nkind = "synthetic"\n')
    register(configuration)
    for days in (1, 0):
        publish_night(configuration, NIGHT - dt.timedelta(days=days))
    return configuration


def compared(configuration: Configuration, *, sample: int = 50) -> dict[str, ViewComparison]:
    return {view.view: view for view in compare(configuration, sample=sample, seed=0).views}


def rewritten(configuration: Configuration, change: Callable[[pa.Table], pa.Table]) -> bytes:
    """Change the live night's offline history of interests; what it was before."""
    file = partition(configuration, INTEREST, NIGHT)
    before, rows = file.read_bytes(), pq.read_table(file)
    pq.write_table(change(rows), file)
    return before


def test_what_is_served_is_what_the_offline_store_holds(served: Configuration) -> None:
    found = compared(served)
    assert {view: (one.compared, one.mismatches) for view, one in found.items()} == {
        "karma_user_interest": (20, 0),
        "karma_item_embedding": (12, 0),
        "dicer_user_attraction": (20, 0),
    }
    assert found.keys() == PUBLISHED.keys()


@pytest.mark.parametrize(
    ("change", "mismatches", "compared_rows"),
    [
        (lambda rows: rows.slice(1), 1, 20),
        (lambda rows: rows.set_column(rows.schema.get_field_index("release_id"), "release_id",
            pc.replace_substring(rows["release_id"], "2026", "2025")), 20, 20),
        (lambda rows: pa.concat_tables([rows, rows.slice(0, 1).set_column(0, rows.schema.field(0),
            pa.array(["user who left"]))]), 1, 21),
    ],
    ids=["a row that is only online", "another release", "a row that is only offline"],
)  # fmt: skip
def test_rows_that_differ_are_counted_and_named(
    served: Configuration, change: Callable[[pa.Table], pa.Table], mismatches: int, compared_rows: int
) -> None:
    before = rewritten(served, change)
    try:
        found = compared(served)[INTEREST]
    finally:
        partition(served, INTEREST, NIGHT).write_bytes(before)
    assert (found.compared, found.mismatches) == (compared_rows, mismatches)
    assert all(example.startswith("user ") for example in found.examples)
    assert len(found.examples) == min(mismatches, 5)


def test_the_task_and_the_command_refuse_with_the_figures(
    served: Configuration, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(served.file))
    at = "2026-01-21T02:00:00+00:00"
    assert "0 of 20" in tasks.consistency(at)
    assert told(capsys, "consistency")["views"][0]["mismatch_rate"] == 0.0
    before = rewritten(served, lambda rows: rows.slice(1))
    try:
        with pytest.raises(GateFailed, match=r"mismatch_rate 0.05, at most 0 asked .*1 of 20 rows, such as user "):
            tasks.consistency(at)
        assert attractor("consistency") == 3
    finally:
        partition(served, INTEREST, NIGHT).write_bytes(before)


def test_after_a_rollback_the_earlier_night_is_compared_with_its_own_history(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    register(configuration)
    earlier = publish_night(configuration, NIGHT - dt.timedelta(days=1))
    publish_night(configuration, NIGHT)
    release.rollback(configuration, published_at=midnight(NIGHT) + dt.timedelta(hours=13))
    comparison = compare(configuration, sample=5, seed=1)
    assert comparison.release_id == earlier
    assert comparison.refused(ConsistencyConfig()) == []


def test_a_view_of_which_nothing_could_be_compared_is_refused() -> None:
    nothing = Comparison("2026-01-21-0123456789ab", (ViewComparison(INTEREST, 0, 0, ()),))
    (sentence,) = nothing.refused(ConsistencyConfig(max_mismatch_rate=0.5))
    assert "mismatch_rate nan" in sentence
    assert json.loads(json.dumps(nothing.record(), allow_nan=False))["views"][0]["mismatch_rate"] is None


def test_nothing_published_and_settings_out_of_bounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        compare(configuration_at(tmp_path), sample=1, seed=0)
    for section in ({"sample": 0}, {"max_mismatch_rate": 1.0}, {"max_mismatch_rate": -0.1}):
        with pytest.raises(ConfigurationError, match="consistency"):
            configuration_at(tmp_path, consistency=section).section("consistency", ConsistencyConfig)

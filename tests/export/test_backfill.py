"""Thirty nights built and published in any order: every stage once, and what is served never goes back."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from pathlib import Path

import pytest

from export import tasks
from export.ledger import open_ledger
from export.ledger_models import State
from features.configuration import Configuration, load
from features.contracts import FEATURES
from features.files import sha256_of_file, write_json
from features.partitions import partition_path
from features.releases import read_pointer
from tests.scored_nights import about, tables, write_scored
from tests.tiny_world import NIGHT, write_world

NIGHTS = [NIGHT + dt.timedelta(days=days) for days in range(30)]
ONCE = ("land", "build", "stage")
AT_ONCE = 10
"""Runs of one backfill at once where Airflow is not told otherwise; it does the first tasks of all of them first."""


def laid_out(configuration: Configuration, date: dt.date) -> str:
    """The night as its tasks run it up to the staged release's id, with vectors by hand instead of a model's."""
    tasks.land(str(date))
    tasks.build(str(date))
    scored, columns = configuration.scored / str(date), tables(seed=date.toordinal())
    if not scored.exists():
        write_scored(scored, columns)
        write_json(scored / "scored.json", about(date, columns))
    tasks.open_staging(str(date))
    return tasks.stage(str(date))


def went_live(staged: str) -> bool:
    return bool(tasks.publish(staged, f"{NIGHTS[-1]}T12:00:00+00:00", force="")["live"])


def served(configuration: Configuration) -> str:
    pointer = read_pointer(configuration.releases)
    assert pointer is not None
    return pointer.release_id[:10]


def partitions(configuration: Configuration) -> dict[tuple[str, dt.date], str]:
    return {
        (view, date): sha256_of_file(partition_path(configuration, view, date)) for view in FEATURES for date in NIGHTS
    }


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    file = write_world(tmp_path, source={"kind": "synthetic", "users": 100, "items": 40, "days": 50})
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(file))
    return load()


def test_a_backfill_in_any_order_builds_each_night_once_and_never_moves_what_is_served_back(
    configuration: Configuration,
) -> None:
    order = random.Random(30).sample(NIGHTS, len(NIGHTS))
    newest = ""
    for begin in range(0, len(order), AT_ONCE):
        together = order[begin : begin + AT_ONCE]
        staged = [tasks.audit(laid_out(configuration, date), force="") for date in together]
        for release_id in staged:
            assert went_live(release_id) == (release_id[:10] > newest)
            newest = max(newest, release_id[:10])
            assert served(configuration) == newest
    assert served(configuration) == str(NIGHTS[-1])
    runs = open_ledger(configuration).runs()
    assert {run.state for run in runs} == {State.DONE}
    for stage in ONCE:
        assert Counter(run.subject for run in runs if run.stage == stage) == {str(date): 1 for date in NIGHTS}
    built = partitions(configuration)

    for date in (order[0], NIGHTS[-1]):
        assert went_live(tasks.audit(laid_out(configuration, date), force="")) == (date == NIGHTS[-1])
    again = [run for run in open_ledger(configuration).runs() if run.stage in ONCE and run.attempt > 1]
    # Of an early night retention deleted the release: that one is laid out again, to the same id, and nothing else.
    assert {(run.stage, run.reason) for run in again} <= {("stage", "what it made is gone")}
    assert served(configuration) == str(NIGHTS[-1])
    assert partitions(configuration) == built

"""What a night should come to, counted from feature tables of three users and two items."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.audit_subjects import EXPECTED
from export.expectations import expectations
from features.configuration import Configuration
from features.errors import MissingInput
from features.partitions import partition_path

NIGHT = dt.date(2026, 3, 1)


def test_a_night_should_come_to(tmp_path: Path) -> None:
    configuration = Configuration(tmp_path / "attractor.toml", tmp_path / "state", {})
    with pytest.raises(MissingInput, match="user_history"):
        expectations(configuration, NIGHT)
    early, newest = (dt.datetime(2026, 2, day, 22, 30, 5, 7, tzinfo=dt.UTC) for day in (3, 28))
    tables = {
        "user_history": {"user_id": ["all", "one"], "event_times": [[early, newest], [early]]},
        "item_catalog": {"item_id": ["a", "b"]},
        "social_graph": {"user_id": ["all", "none", "one"]},
        "item_audience": {"item_id": ["a", "b"], "consumer_ids": [["all", "one", "gone"], ["all", "gone"]]},
    }
    for view, columns in tables.items():
        path = partition_path(configuration, view, NIGHT)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path)
    figures = expectations(configuration, NIGHT)
    assert figures == {
        "users_expected": 2,
        "items_expected": 2,
        "users_known": 3,
        "attraction_users_expected": 2,
        "newest_event": "2026-02-28T22:30:05.000007+00:00",
    }
    assert set(EXPECTED.values()) < set(figures)

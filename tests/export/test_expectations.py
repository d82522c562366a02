"""What a night should come to, counted from feature tables of three users and two items."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.audit import EXPECTED
from export.expectations import expected_rows
from features.configuration import Configuration
from features.errors import MissingInput
from features.partitions import partition_path

NIGHT = dt.date(2026, 3, 1)


def test_expected_rows(tmp_path: Path) -> None:
    configuration = Configuration(tmp_path / "attractor.toml", tmp_path / "state", {})
    with pytest.raises(MissingInput, match="user_history"):
        expected_rows(configuration, NIGHT)
    tables = {
        "user_history": {"user_id": ["all", "one"]},
        "item_catalog": {"item_id": ["a", "b"]},
        "social_graph": {"user_id": ["all", "none", "one"]},
        "item_audience": {"item_id": ["a", "b"], "consumer_ids": [["all", "one", "gone"], ["all", "gone"]]},
    }
    for view, columns in tables.items():
        path = partition_path(configuration, view, NIGHT)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path)
    figures = expected_rows(configuration, NIGHT)
    assert figures == {"users_expected": 2, "items_expected": 2, "attraction_users_expected": 2}
    assert set(figures) == set(EXPECTED.values())

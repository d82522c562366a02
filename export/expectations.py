"""What a night should come to, counted from the feature tables and not from what scoring wrote."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from features.configuration import Configuration
from features.errors import MissingInput
from features.partitions import partition_path
from features.windows import EPOCH

_WITH_EVERYTHING = """
SELECT count(*)
FROM (
    SELECT consumer
    FROM (SELECT unnest(consumer_ids) AS consumer FROM read_parquet($audience))
    WHERE consumer IN (SELECT user_id FROM read_parquet($users))
    GROUP BY consumer
    HAVING count(*) >= $items
)
"""


_NEWEST = "SELECT max(epoch_us(list_max(event_times))) FROM read_parquet($histories)"


def expectations(configuration: Configuration, date: dt.date) -> dict[str, int | str | None]:
    """Rows that each table should have (`audit_subjects.EXPECTED`), users known, and the instant of the newest event.

    Should have one: users with a history, items, users with an item left to recommend. Raises MissingInput if the
    feature tables of `date` were not built.
    """
    views = ("user_history", "item_catalog", "social_graph", "item_audience")
    paths = {view: partition_path(configuration, view, date) for view in views}
    for view, path in paths.items():
        if not path.is_file():
            raise MissingInput(f"no {view} of {date} at {path}; run `attractor build --date {date}`")
    newest = _one(_NEWEST, {"histories": str(paths["user_history"])})
    rows = {view: int(pq.read_metadata(path).num_rows) for view, path in paths.items()}
    return {
        "users_expected": rows["user_history"],
        "items_expected": rows["item_catalog"],
        "users_known": rows["social_graph"],
        "attraction_users_expected": rows["social_graph"]
        - (_one(_WITH_EVERYTHING, _bound(paths, rows["item_audience"])) or 0),
        "newest_event": (EPOCH + dt.timedelta(microseconds=newest)).isoformat() if newest is not None else None,
    }


def _bound(paths: Mapping[str, Path], items: int) -> dict[str, str | int]:
    return {"audience": str(paths["item_audience"]), "users": str(paths["social_graph"]), "items": items}


def _one(query: str, bound: Mapping[str, str | int]) -> int | None:
    """The one number that a query gives."""
    with duckdb.connect() as connection:
        found = connection.execute(query, dict(bound)).fetchone()
    assert found is not None
    return None if found[0] is None else int(found[0])

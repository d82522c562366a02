"""How many rows a night should come to, counted from the feature tables and not from what scoring wrote."""

from __future__ import annotations

import datetime as dt

import duckdb
import pyarrow.parquet as pq

from features.configuration import Configuration
from features.errors import MissingInput
from features.partitions import partition_path

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


def expected_rows(configuration: Configuration, date: dt.date) -> dict[str, int]:
    """The figures that `audit.EXPECTED` names: users with a history, items, users with an item left to recommend.

    Raises MissingInput if the feature tables of `date` were not built.
    """
    views = ("user_history", "item_catalog", "social_graph", "item_audience")
    paths = {view: partition_path(configuration, view, date) for view in views}
    for view, path in paths.items():
        if not path.is_file():
            raise MissingInput(f"no {view} of {date} at {path}; run `attractor build --date {date}`")
    rows = {view: int(pq.read_metadata(path).num_rows) for view, path in paths.items()}
    return {
        "users_expected": rows["user_history"],
        "items_expected": rows["item_catalog"],
        "attraction_users_expected": rows["social_graph"]
        - _users_with_everything(str(paths["item_audience"]), str(paths["social_graph"]), rows["item_audience"]),
    }


def _users_with_everything(audience: str, users: str, items: int) -> int:
    with duckdb.connect() as connection:
        bound = {"audience": audience, "users": users, "items": items}
        found = connection.execute(_WITH_EVERYTHING, bound).fetchone()
    assert found is not None
    return int(found[0])

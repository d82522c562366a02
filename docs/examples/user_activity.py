"""A feature of one's own that rankers read online, from the same release as everything else.

[further]
views = ["docs.examples.user_activity:UserActivity"]
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from features.configuration import Configuration
from features.contracts import USER_ID, Column, Table
from features.partitions import read_partition
from features.windows import midnight

WEEK = dt.timedelta(days=7)


class UserActivity:
    """How much a user did of late, from the history that the night built."""

    table = Table(
        "user_activity",
        "one row per user with a history",
        ("user_id",),
        (
            USER_ID,
            Column("user_event_count_7d", pa.int64(), "listed events of the last seven days", at_least=0),
            Column("user_days_since_event", pa.int64(), "whole days from the last event to the night", at_least=0),
        ),
    )

    def rows(self, configuration: Configuration, date: dt.date) -> Iterator[pa.RecordBatch]:
        night, history = midnight(date), read_partition(configuration, "user_history", date, ["user_id", "event_times"])
        times = pl.col("event_times")
        activity = pl.DataFrame(history).select(
            "user_id",
            user_event_count_7d=times.list.eval(pl.element() >= night - WEEK).list.sum().cast(pl.Int64),
            user_days_since_event=(pl.lit(night) - times.list.last()).dt.total_days(),
        )
        yield from activity.to_arrow().cast(self.table.schema).to_batches()

"""Rows of `user_history` by hand: user k has the items 0 to k, and ten events more than are listed."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from features.contracts import FEATURES


def histories(users: int, instant: dt.datetime) -> pa.RecordBatch:
    """Those of `users` users, at most ten so that their ids rise, as of `instant`."""
    rows = [
        {
            "user_id": f"user {number}",
            "event_timestamp": instant,
            "item_ids": [f"item {item}" for item in range(number + 1)],
            "queries": ["red dress", *[""] * number],
            "event_times": [instant - dt.timedelta(hours=number + 1 - item) for item in range(number + 1)],
            "history_length": number + 1,
            "user_event_count": number + 11,
        }
        for number in range(users)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=FEATURES["user_history"].schema)

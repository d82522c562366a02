"""How far users' interest embeddings moved between two nights, by segment of users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from features.release_table import ReleasedTable

QUARTERS = 4
ALL, RETURNING, IDLE = "all", "returning", "idle"


@dataclass(frozen=True)
class SegmentDrift:
    """Users of one segment, and the cosine of their vector now and before; None where there is nobody."""

    segment: str
    meaning: str
    users: int
    mean_cosine: float | None
    median_cosine: float | None
    low_cosine: float | None  # 5 % of the segment's users moved further than this


@dataclass(frozen=True, eq=False)
class Activity:
    """Events of each row of a table [rows] until its night and until the one before; 0 for who had none."""

    now: NDArray[np.int64]
    before: NDArray[np.int64]

    @classmethod
    def of(cls, table: ReleasedTable, now: pa.Table, before: pa.Table) -> Activity:
        """From the `user_id` and `user_event_count` of two nights' `user_history`."""
        return cls(_counts(table, now), _counts(table, before))


def cosines(before: ReleasedTable, now: ReleasedTable, column: str) -> NDArray[np.float32]:
    """Of each row of `now` the cosine with its vector before, NaN for a key that `before` has not [rows].

    One pass; memory holds a batch and 4 bytes a row.
    """
    parts = []
    for batch in tqdm(now, total=len(now.batches), desc="compare vectors", disable=None, leave=False):
        found = before.locate([batch.column(name) for name in now.table.key])
        part = np.full(len(batch), np.nan, np.float32)
        (shared,) = (found >= 0).nonzero()
        vectors = batch.column(column).flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)[shared]
        earlier = before.vectors(column, found[shared])
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(earlier, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # a vector of zeros has no cosine
            part[shared] = np.einsum("ij,ij->i", vectors, earlier) / norms
        parts.append(part)
    return np.concatenate(parts)


def drift_by_segment(cosine: NDArray[np.float32], activity: Activity | None) -> list[SegmentDrift]:
    """Drift of all users that both nights know and, where their activity is known, of each segment of them.

    `returning` users had events between the two nights and `idle` ones had none; the quarters are of the number of
    events, cut at its quartiles, so that equal numbers fall into one quarter.
    """
    compared = np.isfinite(cosine)
    segments = [_segment(ALL, "in both nights", cosine[compared])]
    if activity is None:
        return segments
    returned = activity.now > activity.before
    segments.append(_segment(RETURNING, "with events between the two nights", cosine[compared & returned]))
    segments.append(_segment(IDLE, "without events between the two nights", cosine[compared & ~returned]))
    segments.extend(_quarters(cosine[compared], activity.now[compared]))
    return segments


def _quarters(cosine: NDArray[np.float32], events: NDArray[np.int64]) -> Iterator[SegmentDrift]:
    if not len(events):
        return
    cuts = np.quantile(events, np.arange(1, QUARTERS) / QUARTERS, method="lower")
    quarter = np.searchsorted(cuts, events, side="left")
    for number in range(QUARTERS):
        members = quarter == number
        if members.any():
            fewest, most = events[members].min(), events[members].max()
            yield _segment(f"activity quarter {number + 1}", f"{fewest:,} to {most:,} events", cosine[members])


def _segment(name: str, meaning: str, cosine: NDArray[np.float32]) -> SegmentDrift:
    if not len(cosine):
        return SegmentDrift(name, meaning, 0, None, None, None)
    low, median = np.quantile(cosine, [0.05, 0.5])
    mean = float(cosine.mean(dtype=np.float64))
    return SegmentDrift(name, meaning, len(cosine), mean, float(median), float(low))


def _counts(table: ReleasedTable, history: pa.Table) -> NDArray[np.int64]:
    counts = np.zeros(table.row_count, np.int64)
    for batch in history.to_batches():
        rows = table.locate([batch.column("user_id")])
        counts[rows[rows >= 0]] = batch.column("user_event_count").to_numpy()[rows >= 0]
    return counts

"""Ciao as distributed (J. Tang, Michigan State University): MATLAB matrices of ratings and of trust.

Every rating is an event, whatever its value: the 34 of 0, below the scale of 1 to 5, are reviews like the others, and
a pair that occurs again was rated again. `rating.mat` holds the same 284,086 ratings as `rating_with_timestamp.mat`,
in another order and without their time points. Ciao knows no titles; items have the number of their category.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from features.errors import ConfigurationError
from features.sources.matlab import read_matrix
from features.sources.source import BATCH_ROWS, Reader, Rows, fingerprint_of, numbered
from features.windows import Window

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]

DATED, UNDATED, TRUST = "rating_with_timestamp.mat", "rating.mat", "trustnetwork.mat"
RATING_COLUMNS = ("user", "item", "category", "rating", "helpfulness", "time point")
TRUST_COLUMNS = ("user", "trusted user")
_TRUST_VARIABLES = ("trustnetwork", "trust")  # the second in copies of the file
_FIRST_TIME_POINT = 959_670_000  # 2000-05-30 07:00 UTC, of the earliest rating


class CiaoSource:
    """The directory of the .mat files; without `rating_with_timestamp.mat`, `rating.mat` is read.

    Ratings without time points are all dated 2000-05-30, the archive's first day: histories and graphs are whole,
    and nothing can be held out by date. Raises ConfigurationError naming the file that is missing or cannot be read.
    """

    closed = dt.date(2011, 6, 1)  # the last rating is of 2011-04-12

    def __init__(self, directory: Path) -> None:
        self.dated = (directory / DATED).is_file()
        self.ratings = directory / (DATED if self.dated else UNDATED)
        self.trust = directory / TRUST
        for path, instead in ((self.ratings, f"{DATED} or {UNDATED}"), (self.trust, TRUST)):
            if not path.is_file():
                raise ConfigurationError(f"[source] path: {path} does not exist; expected {instead} of Ciao")

    @property
    def identity(self) -> str:
        return "ciao" if self.dated else "ciao without time points"

    def fingerprint(self) -> str:
        return fingerprint_of([self.ratings, self.trust])

    def reading(self) -> AbstractContextManager[Reader]:
        return nullcontext(self)

    def rows(self, table: str) -> Iterator[Rows]:
        batches = {"users": self._users, "items": self._items, "social_edges": self._social_edges}[table]
        return numbered(iter(batches().to_batches(BATCH_ROWS)))

    def events(self, window: Window) -> Iterator[Rows]:
        return numbered(iter(self._events().to_batches(BATCH_ROWS)))

    def _users(self) -> pa.Table:
        """Everyone who rates, trusts or is trusted."""
        return pa.table({"user_id": np.unique(np.concatenate([self._ratings[:, 0], self._trusts.ravel()]))})

    def _items(self) -> pa.Table:
        """Items that are rated; of several categories the one of most ratings, of equals the lowest number."""
        items, categories = self._ratings[:, 1:3].T
        counted = pl.DataFrame({"item_id": items, "category": categories}).group_by("item_id", "category").len()
        ranked = counted.sort("item_id", "len", "category", descending=[False, True, False])
        chosen = ranked.unique("item_id", keep="first", maintain_order=True)
        return chosen.select("item_id", pl.col("category").cast(pl.String)).to_arrow()

    def _social_edges(self) -> pa.Table:
        user, friend = self._trusts.T
        return pa.table({"user_id": user, "friend_id": friend})

    def _events(self) -> pa.Table:
        ratings = self._ratings
        if not self.dated:
            log.warning("%s has no time points: every rating is dated 2000-05-30", self.ratings)
        seconds = ratings[:, 3] if self.dated else np.full(len(ratings), _FIRST_TIME_POINT)
        times = pa.array(seconds).cast(pa.timestamp("s", tz="UTC"))
        return pa.table({"user_id": ratings[:, 0], "item_id": ratings[:, 1], "event_at": times})

    @cached_property
    def _ratings(self) -> Ints:
        """User, item, category and, where it is known, time point of each."""
        columns = RATING_COLUMNS if self.dated else RATING_COLUMNS[:-1]
        return read_matrix(self.ratings, ("rating",), columns, unread=("rating", "helpfulness"), more=not self.dated)

    @cached_property
    def _trusts(self) -> Ints:
        return read_matrix(self.trust, _TRUST_VARIABLES, TRUST_COLUMNS)

"""Dates and half-open windows, UTC only. Nothing here reads the clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

DAY = dt.timedelta(days=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, order=True)
class Window:
    """The instants `start <= t < end`.

    Raises ValueError if a bound is not UTC, or if the window is empty or reversed.
    """

    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        for name, bound in (("start", self.start), ("end", self.end)):
            if bound.utcoffset() != dt.timedelta(0):
                raise ValueError(f"window {name} must be UTC, got {bound.isoformat()}")
        if self.start >= self.end:
            raise ValueError(
                f"a window must end after it starts, got [{self.start.isoformat()}, {self.end.isoformat()})"
            )


def midnight(date: dt.date) -> dt.datetime:
    """The instant `date` begins, UTC: the night of `date` knows what happened strictly before it."""
    return dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC)


def between(start: dt.date, end: dt.date) -> Window:
    """The window from the beginning of `start` to the beginning of `end`."""
    return Window(midnight(start), midnight(end))


def night_window(date: dt.date) -> Window:
    """The day that the night of `date` adds: `[date - 1 day, date)`."""
    return Window(midnight(date) - DAY, midnight(date))


def parse_date(text: str) -> dt.date:
    """`YYYY-MM-DD` as a date. Raises ValueError naming what came."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"expected a date as YYYY-MM-DD, got {text!r}") from error


def night_of(param: str | None, interval_end: dt.datetime | None, run_after: dt.datetime) -> dt.date:
    """The night that a scheduler's run is for: what was asked, else where its interval ends, else the day it was due.

    An instant within a day means the midnight, UTC, before it: no night knows more than its run may know.
    Raises ValueError if `param` is not `YYYY-MM-DD` or an instant has no time zone.
    """
    if param is not None:
        return parse_date(param)
    moment = interval_end if interval_end is not None else run_after
    if moment.utcoffset() is None:
        raise ValueError(f"expected an instant with a time zone, got {moment.isoformat()}")
    return moment.astimezone(dt.UTC).date()

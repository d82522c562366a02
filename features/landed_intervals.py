"""Where landed events lie: one directory an interval of days, and a later reading of it beside it under a later name.

`raw/events/<start>_<end>/` holds the events of the half-open interval as the night of `end` read them,
`<start>_<end>_<night>/` as a later night did. The latest reading counts; what it replaces is removed by the next
landing, so that whoever reads it meanwhile may finish.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from features.contracts import EVENTS
from features.errors import ArtifactCorrupt
from features.files import is_temporary
from features.windows import DAY, EPOCH, Window, between, parse_date


@dataclass(frozen=True, order=True)
class Interval:
    """Days `start <= day < end` of events, as the night of `read` read them, below `folder`."""

    start: dt.date
    end: dt.date
    read: dt.date
    folder: Path

    @property
    def directory(self) -> Path:
        again = f"_{self.read}" if self.read != self.end else ""
        return self.folder / f"{self.start}_{self.end}{again}"

    @property
    def events(self) -> Path:
        return self.directory / f"{EVENTS.name}.parquet"

    @property
    def window(self) -> Window:
        return between(self.start, self.end)


def intervals(raw: Path) -> list[Interval]:
    """The latest reading of every interval, in order.

    Raises ArtifactCorrupt if they do not follow each other without a gap from the epoch on.
    """
    latest = {(found.start, found.end): found for found in _found(raw)}
    expected = EPOCH.date()
    for interval in latest.values():
        if interval.start != expected:
            raise ArtifactCorrupt(
                f"{interval.folder}: expected an interval from {expected}, got {interval.directory.name}"
            )
        expected = interval.end
    return list(latest.values())


def replaced(raw: Path) -> list[Path]:
    """Directories of readings that a later one replaced."""
    return [found.directory for found in set(_found(raw)) - set(intervals(raw))]


def to_read(
    landed: Sequence[Interval], raw: Path, date: dt.date, *, lateness: dt.timedelta, closed: dt.date | None
) -> list[Interval]:
    """What the night of `date` has to read, in order: intervals that late rows may have changed, and the new days.

    A row may arrive until `lateness` after its own time, so a day is final when a night at least that much after
    its end has read it. Days that are not final yet are intervals of their own; all before them are one. A source that
    is `closed` is read whole, to its end.
    """
    folder = raw / EVENTS.name
    again = [
        Interval(found.start, found.end, date, folder)
        for found in landed
        if found.read < min(date, found.end + math.ceil(lateness / DAY) * DAY)
    ]
    start = landed[-1].end if landed else EPOCH.date()
    if start >= date:
        return again
    if closed is not None:
        end = max(date, closed)
        return [*again, Interval(start, end, end, folder)]
    days = [date - back * DAY for back in range(math.ceil(lateness / DAY), 0, -1)]
    bounds = [start, *(day for day in days if day > start), date]
    return [*again, *(Interval(first, last, date, folder) for first, last in itertools.pairwise(bounds))]


def _found(raw: Path) -> list[Interval]:
    folder = raw / EVENTS.name
    names = [path.name for path in folder.iterdir() if not is_temporary(path)] if folder.is_dir() else []
    dates = [[parse_date(part) for part in name.split("_")] for name in names]
    return sorted(Interval(start, end, read[0] if read else end, folder) for start, end, *read in dates)

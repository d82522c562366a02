"""Landing: raw tables of a source, checked against their contracts and kept as the night of a date knew them.

`raw/<date>/` holds the dimension tables as landed for that night, `raw/events/<start>_<end>/` the events of one
half-open interval, landed once and never changed; the first interval begins at the epoch and takes all older rows.
To land a date anew, remove its directory.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from features.checked_tables import QUARANTINE, Checked, write_checked
from features.configuration import Configuration
from features.contracts import EVENTS, ITEMS, RAW, SOCIAL_EDGES, USERS
from features.errors import ArtifactCorrupt, ConfigurationError, MissingInput
from features.files import is_temporary, read_json, replacing_directory, write_json
from features.landed_alignment import checked_alignment
from features.row_rules import KnownIds
from features.social_alignment import SocialConfig
from features.sources import Source, SourceConfig, open_source
from features.transforms import FeatureConfig
from features.windows import EPOCH, Window, between, midnight, parse_date

log = logging.getLogger(__name__)

_RECORD = "landing.json"
_SOURCE = "source.json"


@dataclass(frozen=True)
class Landing:
    """What the night of `date` reads: rows, rows set aside by table and rule, where they lie, and the events' span.

    Rows of `events` are those before `date`; rows set aside are those of all files that the night reads.
    """

    date: dt.date
    rows: Mapping[str, int]
    new_events: int  # of the interval that ends at `date`
    quarantined: Mapping[str, Mapping[str, int]]
    quarantine_files: tuple[Path, ...]
    first_event: dt.datetime | None
    last_event: dt.datetime | None
    social_alignment: Mapping[str, Any] | None  # figures of landed_alignment.checked_alignment

    def figures(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "rows": dict(self.rows),
            "new_events": self.new_events,
            "quarantined": {table: dict(rules) for table, rules in self.quarantined.items()},
            "quarantine_files": [str(path) for path in self.quarantine_files],
            "first_event": self.first_event.isoformat() if self.first_event else None,
            "last_event": self.last_event.isoformat() if self.last_event else None,
            "social_alignment": dict(self.social_alignment) if self.social_alignment else None,
        }


@dataclass(frozen=True)
class RawTables:
    """Files that the night of a date reads; the last events file may reach past the date: readers filter."""

    users: Path
    items: Path
    social_edges: Path
    events: tuple[Path, ...]


@dataclass(frozen=True, order=True)
class _Interval:
    start: dt.date
    end: dt.date
    directory: Path

    @property
    def events(self) -> Path:
        return self.directory / f"{EVENTS.name}.parquet"


def land(configuration: Configuration, date: dt.date) -> Landing:
    """Land what the night of `date` may know and is not landed yet; a date that is landed is not read again.

    Raises ContractViolation if the source breaks the contract and violations are refused, SocialMisalignment if the
    social graph is misaligned and not accepted: nothing is landed then; ConfigurationError if the source cannot be
    read or is another than the one landed before.
    """
    config = configuration.section("source", SourceConfig)
    source = open_source(config, configuration.file.parent)
    with _sole_landing(configuration.raw):
        _same_source(configuration.raw, source)
        if not is_landed(configuration, date):
            _land(configuration, date, source, refuse=config.violations == "refuse")
    landing = landed(configuration, date)
    for table, rules in landing.quarantined.items():
        log.warning("%s: %d rows in quarantine: %s", table, sum(rules.values()), rules)
    social = landing.social_alignment
    if social and social["pairs"] and social["verdict"] != "aligned":
        tell = log.info if social["accepted"] else log.warning
        tell("social alignment is %s: %s", social["verdict"], social["sentence"])
    return landing


def _land(configuration: Configuration, date: dt.date, source: Source, *, refuse: bool) -> None:
    # The events are renamed into place first, the snapshot last: with it the date counts as landed.
    raw = configuration.raw
    social, limits = configuration.section("social", SocialConfig), configuration.section("features", FeatureConfig)
    with replacing_directory(_snapshot(raw, date)) as snapshot:
        known: dict[str, pl.Series] = {}
        checked: dict[str, Checked] = {}
        for table in (USERS, ITEMS, SOCIAL_EDGES):
            stream = source.rows(table.name)
            checked[table.name] = write_checked(table, stream, snapshot, known=known, refuse=refuse)
            if len(table.key) == 1:
                known[f"{table.name}.{table.key[0]}"] = _ids(snapshot / f"{table.name}.parquet", table.key[0])
        with _landing_events(raw, date, source, known=known, refuse=refuse) as events:
            tables = _tables(snapshot, events)
            alignment = checked_alignment(tables, midnight(date), social, limits, scratch=raw)
        record = {"fingerprint": source.fingerprint(), "social_alignment": alignment, **_record(checked)}
        write_json(snapshot / _RECORD, record)


@contextmanager
def _landing_events(
    raw: Path, date: dt.date, source: Source, *, known: KnownIds, refuse: bool
) -> Iterator[tuple[Path, ...]]:
    """Yield the events files that the night of `date` reads, the new interval not in place yet; it is on success."""
    intervals = _intervals(raw)
    before = tuple(interval.events for interval in intervals if interval.start < date)
    start = intervals[-1].end if intervals else EPOCH.date()
    if start >= date:
        yield before
        return
    end = max(date, source.closed or date)
    window: Window = between(start, end)
    with replacing_directory(raw / EVENTS.name / f"{start}_{end}") as directory:
        stream = source.events(window)
        checked = write_checked(EVENTS, stream, directory, known=known, refuse=refuse, window=window)
        write_json(directory / _RECORD, _record({EVENTS.name: checked}))
        yield (*before, directory / f"{EVENTS.name}.parquet")


def _ids(path: Path, column: str) -> pl.Series:
    return pl.read_parquet(path, columns=[column])[column].implode()


def _record(checked: Mapping[str, Checked]) -> dict[str, Any]:
    return {
        "rows": {name: table.rows for name, table in checked.items()},
        "quarantined": {name: dict(table.quarantined) for name, table in checked.items() if table.quarantined},
    }


def is_landed(configuration: Configuration, date: dt.date) -> bool:
    """Whether everything that the night of `date` may know is landed."""
    intervals = _intervals(configuration.raw)
    return (_snapshot(configuration.raw, date) / _RECORD).is_file() and bool(intervals) and intervals[-1].end >= date


def landed(configuration: Configuration, date: dt.date) -> Landing:
    """The recorded figures of a date that is landed. Raises MissingInput if it is not."""
    tables = raw_tables(configuration, date)
    directories = [tables.users.parent, *(path.parent for path in tables.events)]
    records = [read_json(directory / _RECORD) for directory in directories]
    quarantined: dict[str, Counter[str]] = {}
    for record in records:
        for table, rules in record["quarantined"].items():
            quarantined.setdefault(table, Counter()).update(rules)
    count, first, last = _span(tables.events, date)
    ends_here = tables.events[-1].parent.name.endswith(f"_{date}")
    return Landing(
        date=date,
        rows={name: count if name == EVENTS.name else records[0]["rows"][name] for name in RAW},
        new_events=records[-1]["rows"][EVENTS.name] if ends_here else 0,
        quarantined={table: dict(sorted(rules.items())) for table, rules in quarantined.items()},
        quarantine_files=tuple(
            path for directory in directories for path in sorted((directory / QUARANTINE).glob("*.parquet"))
        ),
        first_event=first,
        last_event=last,
        social_alignment=records[0].get("social_alignment"),  # None: landed before the check existed
    )


def _span(events: tuple[Path, ...], date: dt.date) -> tuple[int, dt.datetime | None, dt.datetime | None]:
    """Number of events before `date`, the first and the last of them."""
    with duckdb.connect() as connection:
        row = connection.execute(
            """
            SELECT count(*), epoch_us(min(event_at)), epoch_us(max(event_at))
            FROM read_parquet($files) WHERE event_at < $end
            """,
            {"files": [str(path) for path in events], "end": midnight(date)},
        ).fetchone()
    assert row is not None
    first, last = (None if at is None else EPOCH + dt.timedelta(microseconds=at) for at in row[1:])
    return row[0], first, last


def raw_tables(configuration: Configuration, date: dt.date) -> RawTables:
    """Where the landed tables of a date lie. Raises MissingInput if the date is not landed."""
    if not is_landed(configuration, date):
        raise MissingInput(f"raw tables of {date} are not landed; run `attractor land --date {date}`")
    before = tuple(interval.events for interval in _intervals(configuration.raw) if interval.start < date)
    return _tables(_snapshot(configuration.raw, date), before)


def _tables(snapshot: Path, events: tuple[Path, ...]) -> RawTables:
    users, items, social_edges = (snapshot / f"{table.name}.parquet" for table in (USERS, ITEMS, SOCIAL_EDGES))
    return RawTables(users, items, social_edges, events)


def _snapshot(raw: Path, date: dt.date) -> Path:
    return raw / date.isoformat()


def _intervals(raw: Path) -> list[_Interval]:
    """Landed intervals of events, in order. Raises ArtifactCorrupt if they do not follow each other without a gap."""
    folder = raw / EVENTS.name
    directories = [path for path in folder.iterdir() if not is_temporary(path)] if folder.is_dir() else []
    spans = [(path.name.split("_"), path) for path in directories]
    intervals = sorted(_Interval(parse_date(start), parse_date(end), path) for (start, end), path in spans)
    expected = EPOCH.date()
    for interval in intervals:
        if interval.start != expected:
            raise ArtifactCorrupt(f"{folder}: expected an interval from {expected}, got {interval.directory.name}")
        expected = interval.end
    return intervals


@contextmanager
def _sole_landing(raw: Path) -> Iterator[None]:
    """Wait for another landing into `raw` to end, then remove what a killed one left."""
    raw.mkdir(parents=True, exist_ok=True)
    with (raw / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in (raw, raw / EVENTS.name):
            for path in folder.glob(".tmp-*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield


def _same_source(raw: Path, source: Source) -> None:
    record = raw / _SOURCE
    if not record.is_file():
        write_json(record, {"identity": source.identity})
    elif read_json(record)["identity"] != source.identity:
        raise ConfigurationError(
            f"{raw} holds the raw tables of another source than [source] names; give it a `state` of its own"
        )

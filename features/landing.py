"""Landing: raw tables of a source, checked against their contracts and kept as the night of a date knew them.

`raw/<date>/` holds the dimension tables as landed for that night, `raw/events/` the events of half-open intervals
(`features/landed_intervals.py`); the first begins at the epoch and takes all older rows. An interval changes within
the source's `lateness` only: it is read again, and replaced as a whole where its rows are others. Whoever read them
before can tell by the files' hashes. To land a date anew, remove its directory.
"""

from __future__ import annotations

import datetime as dt
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from features.checked_tables import QUARANTINE, Checked, write_checked
from features.configuration import Configuration
from features.contracts import EVENTS, ITEMS, RAW, SOCIAL_EDGES, USERS
from features.erased_users import ErasedUsers, read_erased
from features.errors import ConfigurationError, MissingInput
from features.files import read_json, remove_temporaries, replacing_directory, write_json
from features.landed_alignment import checked_alignment
from features.landed_intervals import Interval, intervals, replaced, to_read
from features.late_rows import keep_unless_changed
from features.locks import exclusive
from features.row_rules import KnownIds
from features.social_alignment import SocialConfig
from features.sources import Reader, Source, SourceConfig, open_source
from features.transforms import FeatureConfig
from features.windows import EPOCH, midnight

log = logging.getLogger(__name__)

RECORD = "landing.json"
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
    late: Mapping[str, Mapping[str, int]]  # rows added to and gone from intervals that were read again and replaced
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
            "late": {interval: dict(changes) for interval, changes in self.late.items()},
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


def land(configuration: Configuration, date: dt.date) -> Landing:
    """Land what the night of `date` may know and is not landed yet; a date that is landed is not read again.

    Raises ContractViolation if the source breaks the contract and violations are refused, SocialMisalignment if the
    social graph is misaligned and not accepted, SourceLost if the source is lost or changes meanwhile: nothing
    is landed then; ConfigurationError if the source cannot be read or is another than the one landed before.
    """
    config = configuration.section("source", SourceConfig)
    source = open_source(config, configuration.file.parent)
    with _sole_landing(configuration.raw):
        _same_source(configuration.raw, source)
        if not is_landed(configuration, date):
            _land(configuration, date, source, config)
    landing = landed(configuration, date)
    for interval, changes in landing.late.items():
        log.warning("events of %s were landed before and are replaced: %s", interval, dict(changes))
    for table, rules in landing.quarantined.items():
        log.warning("%s: %d rows in quarantine: %s", table, sum(rules.values()), rules)
    social = landing.social_alignment
    # a record from before strangers were counted has none
    if social and (social["pairs"] or social.get("strangers")) and social["verdict"] != "aligned":
        tell = log.info if social["accepted"] else log.warning
        tell("social alignment is %s: %s", social["verdict"], social["sentence"])
    return landing


def _land(configuration: Configuration, date: dt.date, source: Source, config: SourceConfig) -> None:
    # The events are renamed into place first, the snapshot last: with it the date counts as landed.
    raw, refuse, erased = configuration.raw, config.violations == "refuse", read_erased(configuration.state)
    social, limits = configuration.section("social", SocialConfig), configuration.section("features", FeatureConfig)
    landed_before = intervals(raw)
    asked = to_read(landed_before, raw, date, lateness=config.late_by, closed=source.closed)
    with replacing_directory(_snapshot(raw, date)) as snapshot, ExitStack() as in_place:
        late: dict[str, Mapping[str, int]] = {}
        files = {(interval.start, interval.end): interval.events for interval in landed_before if interval.start < date}
        with source.reading() as reader:
            checked, known = _write_dimensions(reader, snapshot, refuse=refuse, erased=erased)
            for interval in reversed(asked):  # so that the oldest is in place first, and a kill leaves no gap
                directory = in_place.enter_context(replacing_directory(interval.directory))
                file = _write_events(reader, interval, directory, known=known, refuse=refuse, erased=erased)
                before = files.get((interval.start, interval.end))
                if before is not None and (changes := keep_unless_changed(before, file, scratch=raw)):
                    late[f"{interval.start}_{interval.end}"] = changes
                files[interval.start, interval.end] = file
        tables, aside = _tables(snapshot, _in_order(files)), checked[SOCIAL_EDGES.name].quarantined
        alignment = checked_alignment(tables, midnight(date), social, limits, quarantined=aside, scratch=raw)
        write_json(raw / _SOURCE, {"identity": source.identity})  # a mapping may be mended until something was landed
        in_place.close()
        record = {"fingerprint": source.fingerprint(), "social_alignment": alignment, "late": late, **_record(checked)}
        write_json(snapshot / RECORD, record)


def _write_dimensions(
    reader: Reader, snapshot: Path, *, refuse: bool, erased: ErasedUsers
) -> tuple[dict[str, Checked], KnownIds]:
    known: dict[str, pl.Series] = {}
    checked: dict[str, Checked] = {}
    for table in (USERS, ITEMS, SOCIAL_EDGES):
        rows = reader.rows(table.name)
        checked[table.name] = write_checked(table, rows, snapshot, known=known, refuse=refuse, erased=erased)
        if len(table.key) == 1:
            known[f"{table.name}.{table.key[0]}"] = _ids(snapshot / f"{table.name}.parquet", table.key[0])
    return checked, known


def _write_events(
    reader: Reader, interval: Interval, directory: Path, *, known: KnownIds, refuse: bool, erased: ErasedUsers
) -> Path:
    stream, window = reader.events(interval.window), interval.window
    checked = write_checked(EVENTS, stream, directory, known=known, refuse=refuse, erased=erased, window=window)
    write_json(directory / RECORD, _record({EVENTS.name: checked}))
    return directory / interval.events.name


def _in_order(files: Mapping[tuple[dt.date, dt.date], Path]) -> tuple[Path, ...]:
    return tuple(path for _, path in sorted(files.items()))


def _ids(path: Path, column: str) -> pl.Series:
    return pl.read_parquet(path, columns=[column])[column].implode()


def _record(checked: Mapping[str, Checked]) -> dict[str, Any]:
    return {
        "rows": {name: table.rows for name, table in checked.items()},
        "quarantined": {name: dict(table.quarantined) for name, table in checked.items() if table.quarantined},
    }


def is_landed(configuration: Configuration, date: dt.date) -> bool:
    """Whether everything that the night of `date` may know is landed."""
    found = intervals(configuration.raw)
    return (_snapshot(configuration.raw, date) / RECORD).is_file() and bool(found) and found[-1].end >= date


def landed(configuration: Configuration, date: dt.date) -> Landing:
    """The recorded figures of a date that is landed. Raises MissingInput if it is not."""
    tables = raw_tables(configuration, date)
    directories = [tables.users.parent, *(path.parent for path in tables.events)]
    records = [read_json(directory / RECORD) for directory in directories]
    quarantined: dict[str, Counter[str]] = {}
    for record in records:
        for table, rules in record["quarantined"].items():
            quarantined.setdefault(table, Counter()).update(rules)
    count, first, last = _span(tables.events, date)
    ends_here = [interval for interval in intervals(configuration.raw) if interval.start < date][-1].end == date
    return Landing(
        date=date,
        rows={name: count if name == EVENTS.name else records[0]["rows"][name] for name in RAW},
        new_events=records[-1]["rows"][EVENTS.name] if ends_here else 0,
        quarantined={table: dict(sorted(rules.items())) for table, rules in quarantined.items()},
        quarantine_files=tuple(
            path for directory in directories for path in sorted((directory / QUARANTINE).glob("*.parquet"))
        ),
        late=records[0].get("late", {}),  # not there: landed before intervals were read again
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
    before = tuple(interval.events for interval in intervals(configuration.raw) if interval.start < date)
    return _tables(_snapshot(configuration.raw, date), before)


def _tables(snapshot: Path, events: tuple[Path, ...]) -> RawTables:
    users, items, social_edges = (snapshot / f"{table.name}.parquet" for table in (USERS, ITEMS, SOCIAL_EDGES))
    return RawTables(users, items, social_edges, events)


def _snapshot(raw: Path, date: dt.date) -> Path:
    return raw / date.isoformat()


@contextmanager
def _sole_landing(raw: Path) -> Iterator[None]:
    """Wait for another landing into `raw` to end, then remove what a killed one left and what a later one replaced."""
    with exclusive(raw / ".lock"):
        for folder in (raw, raw / EVENTS.name):
            remove_temporaries(folder)
        for path in replaced(raw):
            shutil.rmtree(path)
        yield


def _same_source(raw: Path, source: Source) -> None:
    record = raw / _SOURCE
    if record.is_file() and read_json(record)["identity"] != source.identity:
        raise ConfigurationError(
            f"{raw} holds the raw tables of another source than [source] names; give it a `state` of its own"
        )

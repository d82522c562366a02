"""A source of one's own: four tables as JSON Lines, the events of each day in a file of their own.

    [source]
    kind = "custom"
    factory = "docs.examples.json_lines:JsonLines"
    options = { path = "/data/market" }

    /data/market/users.jsonl  items.jsonl  social_edges.jsonl  events/2026-03-01.jsonl …

A line is an object with the columns of the table's contract; times are ISO 8601, in UTC.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow as pa
from pyarrow import json

from features.contracts import EVENTS, RAW
from features.errors import ConfigurationError
from features.sources.source import Reader, Rows, fingerprint_of, numbered
from features.windows import Window, parse_date


class JsonLines:
    """Raises ConfigurationError naming the file that is missing or cannot be read."""

    identity = "json lines"  # not the path: the same data may move
    closed = None  # more may come

    def __init__(self, base: Path, *, path: str) -> None:
        self.directory = base / path
        for name in RAW.keys() - {EVENTS.name}:
            if not (self.directory / f"{name}.jsonl").is_file():
                raise ConfigurationError(f"[source] options: expected {self.directory / name}.jsonl; there is none")

    def fingerprint(self) -> str:
        return fingerprint_of(self.directory.rglob("*.jsonl"))

    def reading(self) -> AbstractContextManager[Reader]:
        return nullcontext(self)  # files that are complete: nothing to begin or to end

    def rows(self, table: str) -> Iterator[Rows]:
        return numbered(_batches(self.directory / f"{table}.jsonl", RAW[table].schema))

    def events(self, window: Window) -> Iterator[Rows]:
        first, last = window.start.date(), (window.end - dt.timedelta(microseconds=1)).date()
        days = sorted((self.directory / "events").glob("*.jsonl"))
        asked = [path for path in days if first <= parse_date(path.stem) <= last]
        return numbered(batch for path in asked for batch in _batches(path, EVENTS.schema))


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    if not path.stat().st_size:
        return  # Arrow takes no columns from an empty file, not even those that it is told
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    try:
        yield from json.open_json(path, parse_options=options)
    except (pa.ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read as JSON Lines: {error}") from error

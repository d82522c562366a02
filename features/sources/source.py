"""The interface between a source and landing: raw tables as numbered batches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from features.files import sha256_of_json
from features.windows import Window

BATCH_ROWS = 65_536
"""Rows that a source hands over at once; what bounds the memory of landing."""


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one table, in the source's own types; `first_row` counts from 0 within the table."""

    batch: pa.RecordBatch
    first_row: int


@runtime_checkable
class Source(Protocol):
    """Where the raw tables of `contracts.RAW` come from."""

    @property
    def identity(self) -> str:
        """What may not change while a state directory lives: other raw tables would be mixed with those landed."""

    @property
    def closed(self) -> dt.date | None:
        """The day from which a finished archive holds nothing more: it is landed whole, once. None: more may come."""

    def fingerprint(self) -> str:
        """Changes when what the source would hand over may have changed."""

    def reading(self) -> AbstractContextManager[Reader]:
        """Hand over one state of the source; on leaving, raises SourceLost if it was not one."""


class Reader(Protocol):
    """The raw tables of a source, streamed."""

    def rows(self, table: str) -> Iterator[Rows]:
        """Every row of `users`, `items` or `social_edges`."""

    def events(self, window: Window) -> Iterator[Rows]:
        """Every event of the window and every undated one; others too where leaving them out costs more."""


def numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[Rows]:
    """Count the rows of a whole table, handed over batch by batch."""
    first_row = 0
    for batch in batches:
        yield Rows(batch, first_row)
        first_row += batch.num_rows


def fingerprint_of(files: Iterable[Path]) -> str:
    """Changes when a file's name, size or time of change does; none is read."""
    stats = [(file, file.stat()) for file in sorted(files)]
    return sha256_of_json([[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats])

"""The HetRec 2011 Last.fm files as distributed (I. Cantador et al., RecSys 2011): tab-separated, CRLF, no quoting.

A tag assignment is an event: artist = item, tag = query. Listen counts carry no date, so they are not read;
their file only tells who the users are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from features.errors import ConfigurationError
from features.sources.source import Reader, Rows, fingerprint_of, numbered
from features.windows import Window

ENCODINGS = {
    "user_artists.dat": "utf8",
    "artists.dat": "utf8",
    "tags.dat": "latin1",
    "user_taggedartists.dat": "utf8",
    "user_friends.dat": "utf8",
}


class LastfmSource:
    """The directory of the .dat files. Raises ConfigurationError naming the file that is missing or cannot be read."""

    identity = "lastfm"
    closed = dt.date(2011, 6, 1)  # published in May 2011

    def __init__(self, directory: Path) -> None:
        self.files = {name: directory / name for name in ENCODINGS}
        for path in self.files.values():
            if not path.is_file():
                raise ConfigurationError(
                    f"[source] path: {path} does not exist; expected the HetRec 2011 Last.fm files"
                )

    def fingerprint(self) -> str:
        return fingerprint_of(self.files.values())

    def reading(self) -> AbstractContextManager[Reader]:
        return nullcontext(self)

    def rows(self, table: str) -> Iterator[Rows]:
        batches = {"users": self._users, "items": self._items, "social_edges": self._social_edges}[table]
        return numbered(batches())

    def events(self, window: Window) -> Iterator[Rows]:
        return numbered(self._tag_assignments())

    def _users(self) -> Iterator[pa.RecordBatch]:
        listeners = pa.chunked_array([batch.column("userID") for batch in self._read("user_artists.dat", "userID")])
        yield pa.record_batch({"user_id": listeners.unique()})

    def _items(self) -> Iterator[pa.RecordBatch]:
        for batch in self._read("artists.dat", "id", "name"):
            yield batch.rename_columns(["item_id", "title"])

    def _social_edges(self) -> Iterator[pa.RecordBatch]:
        for batch in self._read("user_friends.dat", "userID", "friendID"):
            yield batch.rename_columns(["user_id", "friend_id"])

    def _tag_assignments(self) -> Iterator[pa.RecordBatch]:
        tags = pa.Table.from_batches(self._read("tags.dat", "tagID", "tagValue")).combine_chunks()
        names = ("userID", "artistID", "tagID", "day", "month", "year")
        for batch in self._read("user_taggedartists.dat", *names):
            user, artist, tag, *date = batch.columns
            query = tags["tagValue"].take(pc.index_in(tag, tags["tagID"])).combine_chunks()
            yield pa.record_batch({"user_id": user, "item_id": artist, "event_at": _midnight(*date), "query": query})

    def _read(self, name: str, *columns: str) -> Iterator[pa.RecordBatch]:
        """Columns of one file as text, block by block."""
        try:
            with csv.open_csv(
                self.files[name],
                read_options=csv.ReadOptions(encoding=ENCODINGS[name]),
                parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
                convert_options=csv.ConvertOptions(
                    include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
                ),
            ) as reader:
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)  # a header alone has its columns too
                yield from reader
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise ConfigurationError(f"{self.files[name]}: expected columns {', '.join(columns)}: {error}") from error


def _midnight(day: pa.Array, month: pa.Array, year: pa.Array) -> pa.Array:
    """The instant that the day begins, UTC; null where there is no such day, which the contract refuses."""
    text = pl.Series(pc.binary_join_element_wise(year, month, day, "-"))
    # Not Arrow's strptime: it takes 31 February for 3 March.
    return text.str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="UTC", strict=False).to_arrow()

"""The embedded market as raw tables, and as a directory that the `parquet` source reads."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.contracts import EVENTS, ITEMS, RAW, SOCIAL_EDGES, TIMESTAMP, USERS, VECTOR, Table
from features.files import replacing_directory, sha256_of_json
from features.sources.market import (
    BLOCK_USERS,
    CATEGORIES,
    FACETS,
    PICTURE_LENGTH,
    WORDS,
    Catalogue,
    Ints,
    Market,
    actions,
    people,
    ties,
)
from features.sources.source import BATCH_ROWS, Reader, Rows, numbered
from features.windows import DAY, Window, between, midnight

_GENERATION = 1
"""Raise it when the same parameters give another market."""


class SyntheticSource:
    """A market behind the interface of a source."""

    closed = None

    def __init__(self, market: Market) -> None:
        self.market = market

    @property
    def identity(self) -> str:
        return self.fingerprint()

    def fingerprint(self) -> str:
        return sha256_of_json(
            {**asdict(self.market), "start": self.market.start.isoformat(), "generation": _GENERATION}
        )

    def reading(self) -> AbstractContextManager[Reader]:
        return nullcontext(self)

    def rows(self, table: str) -> Iterator[Rows]:
        batches = {"users": _users, "items": _items, "social_edges": _social_edges}[table]
        return numbered(batches(self.market))

    def events(self, window: Window) -> Iterator[Rows]:
        days = -((midnight(self.market.start) - window.end) // DAY)
        return numbered(_events(self.market, days=max(0, days)))


def write_market(market: Market, directory: Path) -> None:
    """Write the four tables as Parquet in the contract's form, streamed, whole or not at all."""
    source = SyntheticSource(market)
    window = between(market.start, market.start + market.days * DAY)
    streams: Mapping[str, Iterator[Rows]] = {
        name: source.events(window) if name == EVENTS.name else source.rows(name) for name in RAW
    }
    with replacing_directory(directory) as temporary:
        for name, stream in streams.items():
            with pq.ParquetWriter(temporary / f"{name}.parquet", RAW[name].schema, compression="zstd") as writer:
                for rows in stream:
                    writer.write_batch(rows.batch)


def _users(market: Market) -> Iterator[pa.RecordBatch]:
    for block in range(market.blocks):
        ids = _user_ids(np.arange(market.block_size(block)) + block * BLOCK_USERS)
        yield _batch(USERS, [ids, _instants(market, people(market, block).joins)])


def _items(market: Market) -> Iterator[pa.RecordBatch]:
    catalogue = market.catalogue
    order = np.argsort(catalogue.number)
    for first in range(0, market.items, BATCH_ROWS):
        chosen = order[first : first + BATCH_ROWS]
        pictures = pa.FixedSizeListArray.from_arrays(catalogue.pictures[chosen].ravel(), PICTURE_LENGTH).cast(VECTOR)
        yield _batch(
            ITEMS,
            [
                _item_ids(catalogue.number[chosen]),
                pa.array([_title(catalogue, item) for item in chosen]),
                pa.array([CATEGORIES[catalogue.category[item]] for item in chosen]),
                pa.array([_attributes(catalogue, item) for item in chosen], pa.list_(pa.string())),
                pictures,
                _instants(market, catalogue.appears[chosen]),
            ],
        )


def _title(catalogue: Catalogue, item: int) -> str:
    named = {
        facet.name: WORDS[code]
        for facet, code, is_named in zip(FACETS, catalogue.codes[item], catalogue.in_title[item], strict=True)
        if is_named
    }
    before = [named[name] for name in ("pattern", "material", "style") if name in named]
    title = " ".join([*before, CATEGORIES[catalogue.category[item]]]).capitalize()
    title += f" by {named['brand']}" if "brand" in named else ""
    return title + (f", {named['colour']}" if "colour" in named else "")


def _attributes(catalogue: Catalogue, item: int) -> list[str]:
    return [WORDS[code] for code in catalogue.codes[item][catalogue.in_attributes[item]]]


def _social_edges(market: Market) -> Iterator[pa.RecordBatch]:
    for block in range(market.blocks):
        pairs = ties(market, block, people(market, block))
        first = _user_ids(pairs.first + block * BLOCK_USERS)
        yield _batch(SOCIAL_EDGES, [first, _user_ids(pairs.second), _instants(market, pairs.since)])


def _events(market: Market, *, days: int) -> Iterator[pa.RecordBatch]:
    catalogue = market.catalogue
    item_ids = _item_ids(catalogue.number)
    queries = pa.array([_query(category, code) for category in CATEGORIES for code in range(-1, len(WORDS))])
    for block in range(market.blocks):
        taken = actions(market, block, days=days)
        user_ids = _user_ids(np.arange(market.block_size(block)) + block * BLOCK_USERS)
        at = taken.query_category * (len(WORDS) + 1) + taken.query_code + 1
        query = queries.take(pa.array(at, mask=taken.query_category < 0))
        times = _microseconds(midnight(market.start)) + taken.time
        yield _batch(
            EVENTS,
            [user_ids.take(pa.array(taken.user)), item_ids.take(pa.array(taken.item)), _timestamps(times), query],
        )


def _query(category: str, code: int) -> str:
    return f"{WORDS[code].lower()} {category}" if code >= 0 else category


def _user_ids(numbers: Ints) -> pa.StringArray:
    return pa.array([f"u{number:07d}" for number in numbers.tolist()], pa.string())


def _item_ids(numbers: Ints) -> pa.StringArray:
    return pa.array([f"i{number:06d}" for number in numbers.tolist()], pa.string())


def _instants(market: Market, days: NDArray[np.float64]) -> pa.TimestampArray:
    """Days since the market's start as timestamps, whole seconds."""
    return _timestamps(_microseconds(midnight(market.start)) + np.floor(days * 86_400).astype(np.int64) * 1_000_000)


def _microseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def _timestamps(microseconds: Ints) -> pa.TimestampArray:
    return pa.array(microseconds, pa.int64()).cast(TIMESTAMP)


def _batch(table: Table, columns: list[pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)

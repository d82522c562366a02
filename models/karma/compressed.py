"""Compressed histories, numpy only: an item and a query stand in a history as a few soft tokens, encoded once.

A history is `[BOS]`, then an event after the other, oldest first: the query's soft tokens where there was a query,
`[INT]`, the item's soft tokens; it ends with a last `[INT]`. It is written in the integers of a history of words: below
`FIRST_SOFT` a special token, from there on a row of a table of soft tokens, the items' rows first, then the queries'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.karma.text import (
    EMPTY,
    QUERY,
    SPECIALS,
    Catalogue,
    History,
    HistorySequence,
    Ragged,
    Rows,
    Tokens,
    history_sequence,
    latest_sequence,
    padded,
)

FIRST_SOFT = len(SPECIALS)


@dataclass(frozen=True)
class SoftRows:
    """Which rows of a table of soft tokens stand for which item and which query."""

    width: int  # rows of each
    items: int  # catalogue rows, which come first
    queries: list[Tokens]  # distinct, none empty
    place: Mapping[bytes, int]  # of each query among them

    @classmethod
    def of(cls, queries: Iterable[Tokens], *, items: int, width: int) -> SoftRows:
        """Rows for `items` items and the distinct ones of `queries`."""
        distinct = {query.tobytes(): query for query in queries if len(query)}
        return cls(width, items, list(distinct.values()), {key: place for place, key in enumerate(distinct)})

    def item(self, row: int) -> Tokens:
        """The soft tokens of a catalogue row, as a history writes them."""
        return self._written(row)

    def query(self, query: Tokens) -> Tokens:
        """The soft tokens of a query, none if it is empty. Raises KeyError if it is not among `queries`."""
        return self._written(self.items + self.place[query.tobytes()]) if len(query) else EMPTY

    def _written(self, row: int) -> Tokens:
        return FIRST_SOFT + row * self.width + np.arange(self.width, dtype=np.int64)


@dataclass(frozen=True)
class UsedRows:
    """Sequences written over the few items and queries that occur in them."""

    sequences: list[Tokens]
    items: Rows  # catalogue rows, rising
    queries: list[Tokens]


def used_rows(sequences: Sequence[Tokens], rows: SoftRows, *, among: Rows | None = None) -> UsedRows:
    """`sequences` over a table of the soft tokens of those items, then those queries, that they name.

    With `among`, rising catalogue rows with all that are named, the table has those items.
    """
    values = np.concatenate([EMPTY, *sequences])
    soft = values >= FIRST_SOFT
    place, within = np.divmod(values[soft] - FIRST_SOFT, rows.width)
    items = np.unique(place[place < rows.items]) if among is None else among
    queries = np.unique(place[place >= rows.items])
    local = np.searchsorted(np.concatenate([items, queries]), place)
    values[soft] = FIRST_SOFT + local * rows.width + within
    ends = np.cumsum([len(sequence) for sequence in sequences])
    return UsedRows(
        np.split(values, ends[:-1]) if len(ends) else [], items, [rows.queries[row] for row in queries - rows.items]
    )


@dataclass(frozen=True)
class Histories:
    """What the history encoder reads of some users, and of which catalogue; `rows` is None where it reads words."""

    sequences: list[Tokens]
    catalogue: Catalogue
    rows: SoftRows | None


def latest_histories(
    histories: Sequence[History], current_queries: Sequence[Tokens], catalogue: Catalogue, *, limit: int
) -> Histories:
    """The sequences whose last `[INT]` is what each user wants next, after a current query or none."""
    rows = None
    if catalogue.soft_tokens:
        queries = (
            query for past, now in zip(histories, current_queries, strict=True) for query in (*past.queries, now)
        )
        rows = SoftRows.of(queries, items=len(catalogue), width=catalogue.soft_tokens)
    sequences = written_histories(histories, current_queries, catalogue.history_tokens, rows, limit=limit)
    return Histories(sequences, catalogue, rows)


def written_histories(
    histories: Sequence[History], current_queries: Sequence[Tokens], words: Ragged, rows: SoftRows | None, *, limit: int
) -> list[Tokens]:
    """Those sequences, of the items' `words`, or where there are `rows` of soft tokens, of these."""
    pairs = zip(histories, current_queries, strict=True)
    if rows is None:
        return [latest_sequence(past, words, limit=limit, current_query=now).tokens for past, now in pairs]
    return [compressed_sequence(past.items, [*past.queries, now], rows, limit=limit).tokens for past, now in pairs]


def compressed_sequence(items: Rows, queries: Sequence[Tokens], rows: SoftRows, *, limit: int) -> HistorySequence:
    """As `history_sequence`, of catalogue rows and queries; the soft tokens of a query need no opening."""
    written = [rows.item(int(item)) for item in items]
    return history_sequence(written, [rows.query(query) for query in queries], limit=limit, opening=())


def query_inputs(
    queries: Sequence[Tokens], *, soft_tokens: int, picture_width: int, closing: int | Rows = QUERY
) -> dict[str, NDArray[Any]]:
    """Inputs of the item encoder for texts without picture or id, each closed by its `closing`, as queries are."""
    ends = np.broadcast_to(closing, len(queries)).repeat(soft_tokens).reshape(-1, soft_tokens)
    token_ids, lengths = padded([np.concatenate(both) for both in zip(queries, ends, strict=True)])
    return {
        "token_ids": token_ids,
        "lengths": lengths,
        "picture": np.zeros((len(queries), picture_width), np.float32),
        "has_picture": np.zeros(len(queries), np.bool_),
        "id_index": np.zeros(len(queries), np.int64),
    }

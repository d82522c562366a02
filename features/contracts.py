"""THE tables: grain, key, columns, types and bounds of everything that Attractor reads, builds and publishes.

Raw tables come from a source; feature tables are built per date and registered in Feast; published
tables are what a release serves. Arrow schemas, Feast schemas and row checks all derive from here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
IDS = pa.list_(pa.string())
VECTOR = pa.list_(pa.float32())

EARLIEST_EVENT = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""Older events are clock faults: the oldest source, Ciao, begins on 2000-05-30."""


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, what it means (with the unit), and the rules each value keeps."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False
    at_least: dt.datetime | int | float | None = None
    max_length: int | None = None
    references: str | None = None
    differs_from: str | None = None


@dataclass(frozen=True)
class Table:
    """One table: what a row is, which columns identify it, and its columns in order."""

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        assert len(set(names)) == len(names), self.name
        assert set(self.key) <= set(names), self.name

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, columns in order, nullability included."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    def column(self, name: str) -> Column:
        """The column of that name; KeyError if there is none."""
        return {column.name: column for column in self.columns}[name]


USER_ID = Column("user_id", pa.string(), "user; any stable identifier as text", max_length=128)
ITEM_ID = Column("item_id", pa.string(), "item; any stable identifier as text", max_length=128)
_AS_OF = Column("event_timestamp", TIMESTAMP, "window end: the row knows what happened strictly before it")

USERS = Table(
    "users",
    "one row per user",
    ("user_id",),
    (USER_ID, Column("created_at", TIMESTAMP, "when the user joined; null: always known", nullable=True)),
)
ITEMS = Table(
    "items",
    "one row per item",
    ("item_id",),
    (
        ITEM_ID,
        Column("title", pa.string(), "readable name", nullable=True, max_length=1000),
        Column("category", pa.string(), "one category", nullable=True, max_length=200),
        Column("attributes", IDS, "readable attributes, such as `red` or `linen`", nullable=True),
        Column("picture", VECTOR, "picture vector, one length for the whole table", nullable=True),
        Column("created_at", TIMESTAMP, "when the item appeared; null: always known", nullable=True),
    ),
)
EVENTS = Table(
    "events",
    "one row per action of a user on an item",
    (),
    (
        Column("user_id", pa.string(), "who acted", references="users.user_id"),
        Column("item_id", pa.string(), "on what", references="items.item_id"),
        Column("event_at", TIMESTAMP, "when, UTC", at_least=EARLIEST_EVENT),
        Column("query", pa.string(), "the search or tag that led there", nullable=True, max_length=500),
    ),
)
SOCIAL_EDGES = Table(
    "social_edges",
    "one row per user and friend; either direction or both, features make it symmetric",
    ("user_id", "friend_id"),
    (
        Column("user_id", pa.string(), "one end", references="users.user_id"),
        Column("friend_id", pa.string(), "the other end", references="users.user_id", differs_from="user_id"),
        Column("created_at", TIMESTAMP, "when they connected; null: always known", nullable=True),
    ),
)
RAW: Mapping[str, Table] = {t.name: t for t in (USERS, ITEMS, EVENTS, SOCIAL_EDGES)}
"""In landing order: what is referenced comes before what refers to it."""

USER_HISTORY = Table(
    "user_history",
    "one row per user and date, for users with at least one event before the date",
    ("user_id", "event_timestamp"),
    (
        USER_ID,
        _AS_OF,
        Column("item_ids", IDS, "items of the last events, oldest first"),
        Column("queries", IDS, "query of each of those events, empty text where there was none"),
        Column("event_times", pa.list_(TIMESTAMP), "time of each of those events"),
        Column("history_length", pa.int64(), "number of events listed", at_least=1),
        Column("user_event_count", pa.int64(), "number of events before the date, listed or not", at_least=1),
    ),
)
ITEM_CATALOG = Table(
    "item_catalog",
    "one row per item and date, for items known before the date",
    ("item_id", "event_timestamp"),
    (
        ITEM_ID,
        _AS_OF,
        Column("title", pa.string(), "readable name, empty if the item has none"),
        Column("category", pa.string(), "category, empty if the item has none"),
        Column("tags", IDS, "attributes, then the most used tags before the date where the source tags by query"),
        Column("text", pa.string(), "semantic text: category and tags first, then the title"),
        Column("picture", VECTOR, "picture vector", nullable=True),
        Column("item_event_count", pa.int64(), "events on the item before the date", at_least=0),
    ),
)
SOCIAL_GRAPH = Table(
    "social_graph",
    "one row per user and date, for users known before the date",
    ("user_id", "event_timestamp"),
    (
        USER_ID,
        _AS_OF,
        Column("friend_ids", IDS, "friends, symmetric, sorted, without the user"),
        Column("similar_user_ids", IDS, "users of cosine overlap >= the threshold (DICER eq. 1), most similar first"),
        Column("friend_count", pa.int64(), "number of friends", at_least=0),
        Column("similar_user_count", pa.int64(), "number of similar users listed", at_least=0),
    ),
)
ITEM_AUDIENCE = Table(
    "item_audience",
    "one row per item and date, for items known before the date",
    ("item_id", "event_timestamp"),
    (
        ITEM_ID,
        _AS_OF,
        Column("consumer_ids", IDS, "every user with an event on the item before the date, sorted"),
        Column("similar_item_ids", IDS, "items of cosine overlap >= the threshold (DICER eq. 1), most similar first"),
        Column("consumer_count", pa.int64(), "number of consumers", at_least=0),
        Column("similar_item_count", pa.int64(), "number of similar items listed", at_least=0),
    ),
)
FEATURES: Mapping[str, Table] = {t.name: t for t in (USER_HISTORY, ITEM_CATALOG, SOCIAL_GRAPH, ITEM_AUDIENCE)}

KARMA_USER_INTEREST = Table(
    "karma_user_interest",
    "one row per user with a history",
    ("user_id",),
    (USER_ID, Column("interest_embedding", VECTOR, "KARMA's next-interest embedding, unit length, float32")),
)
KARMA_ITEM_EMBEDDING = Table(
    "karma_item_embedding",
    "one row per catalogue item",
    ("item_id",),
    (ITEM_ID, Column("item_embedding", VECTOR, "KARMA's item embedding, unit length, same space as the users'")),
)
DICER_USER_ATTRACTION = Table(
    "dicer_user_attraction",
    "one row per user with at least one item left to recommend",
    ("user_id",),
    (
        USER_ID,
        Column("item_ids", IDS, "the K most attractive items that the user has not had, best first"),
        Column("scores", VECTOR, "attraction score of each, in (0, 1), falling"),
    ),
)
PUBLISHED: Mapping[str, Table] = {t.name: t for t in (KARMA_USER_INTEREST, KARMA_ITEM_EMBEDDING, DICER_USER_ATTRACTION)}

USER_COLUMNS = frozenset({"user_id", "friend_id", "friend_ids", "similar_user_ids", "consumer_ids"})
"""Columns that hold ids of users, one or a list of them, wherever they stand: what a user is erased from."""

PROVENANCE: Mapping[str, tuple[Column, ...]] = {
    "karma_user_interest": (
        Column("space_id", pa.string(), "embedding space; only vectors of one space may be compared"),
        Column("model_version", pa.string(), "artifact of the KARMA model"),
        Column("release_id", pa.string(), "release that served the row"),
        Column("release_date", pa.string(), "date of the night, YYYY-MM-DD"),
        Column("published_at", TIMESTAMP, "when the release went live"),
    ),
    "karma_item_embedding": (
        Column("item_space_id", pa.string(), "embedding space; only vectors of one space may be compared"),
        Column("item_release_id", pa.string(), "release that served the row"),
        Column("item_published_at", TIMESTAMP, "when the release went live"),
    ),
    "dicer_user_attraction": (
        Column("attraction_model_version", pa.string(), "artifact of the DICER model"),
        Column("attraction_release_id", pa.string(), "release that served the row"),
        Column("attraction_published_at", TIMESTAMP, "when the release went live"),
    ),
}
"""Columns that are one value for a whole release: kept once in its manifest or pointer, served with every row."""

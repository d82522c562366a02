"""Row rules: the vectorised checks find the rows and reasons that a row-by-row reading of the contract finds."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.contracts import EARLIEST_EVENT, EVENTS, ITEMS, SOCIAL_EDGES, Table
from features.row_rules import NOT_NULL, broken_rows, conform, row_schema

KNOWN_NAMES = ("ada", "bob", "eve")
KNOWN = {name: pl.Series(KNOWN_NAMES).implode() for name in ("users.user_id", "items.item_id")}
NAMES = st.sampled_from([*KNOWN_NAMES, "nobody", "", None])
TIMES = st.one_of(
    st.none(),
    st.datetimes(dt.datetime(1999, 12, 1), dt.datetime(2000, 2, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001
)
VECTORS = st.one_of(st.none(), st.lists(st.sampled_from([0.5, -1.0, math.nan, math.inf, None]), min_size=1, max_size=3))
WORDS = st.one_of(st.none(), st.lists(st.sampled_from(["red", "", None]), max_size=3))
ROWS: dict[Table, st.SearchStrategy[dict[str, Any]]] = {
    EVENTS: st.fixed_dictionaries(
        {
            "user_id": NAMES,
            "item_id": NAMES,
            "event_at": TIMES,
            "query": st.sampled_from(["", "x" * 500, "é" * 501, None]),
        }
    ),
    SOCIAL_EDGES: st.fixed_dictionaries({"user_id": NAMES, "friend_id": NAMES, "created_at": TIMES}),
    ITEMS: st.fixed_dictionaries(
        {"item_id": NAMES, "title": st.none(), "category": st.none(), "attributes": WORDS, "picture": VECTORS}
    ),
}


def first_fault(table: Table, row: dict[str, Any]) -> tuple[str, str] | None:
    """The column and rule that a row breaks first, one value at a time."""
    for column in table.columns:
        value = row.get(column.name)
        if value is None:
            if not column.nullable:
                return column.name, NOT_NULL
            continue
        if isinstance(value, list):
            if None in value:
                return column.name, "no null within the list"
            if column.name == "picture" and not all(math.isfinite(number) for number in value):
                return column.name, "finite numbers"
            if column.name == "picture" and len(value) != 2:
                return column.name, "length 2, as the first of the table has"
        if column.max_length is not None and len(value) > column.max_length:
            return column.name, f"at most {column.max_length} characters"
        if column.at_least is not None and value < EARLIEST_EVENT:
            return column.name, f"at least {EARLIEST_EVENT}"
        if column.differs_from is not None and value == row[column.differs_from]:
            return column.name, f"another value than {column.differs_from}"
        if column.references is not None and value not in KNOWN_NAMES:
            return column.name, f"one of {column.references}"
    return None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_rows_and_reasons_are_those_of_a_reading_row_by_row(data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(list(ROWS)), label="table")
    rows = data.draw(st.lists(ROWS[table], max_size=8))
    batch = pa.RecordBatch.from_pylist(rows, pa.schema([pa.field(c.name, c.type) for c in table.columns]))
    found = broken_rows(row_schema(table, KNOWN, {"picture": 2}), pl.DataFrame(conform(table, batch)))
    faults = [(index, first_fault(table, row)) for index, row in enumerate(rows)]
    assert found.rows() == [(index, *fault) for index, fault in faults if fault is not None]


def test_what_conforms_is_left_as_it_is() -> None:
    row = {"user_id": "ada", "item_id": "bob", "event_at": EARLIEST_EVENT, "query": None}
    batch = pa.RecordBatch.from_pylist([row], pa.schema([pa.field(c.name, c.type) for c in EVENTS.columns]))
    assert conform(EVENTS, batch).equals(batch)

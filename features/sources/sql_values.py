"""What a database's driver hands over, as Arrow columns: one type each, instants in UTC, or an error naming where."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.contracts import TIMESTAMP, Column
from features.errors import ContractViolation
from features.row_rules import identifying
from features.sources.sql_mapping import ColumnMapping
from features.sources.sql_query import TableQuery


def as_batch(query: TableQuery, rows: Sequence[Sequence[Any]], first_row: int) -> pa.RecordBatch:
    """Rows of `query`, of which the first is row `first_row` of all, column by column; nulls only give Arrow's null.

    Raises ContractViolation naming the column here and in the warehouse, the row, and the ids and date in it.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(query.columns)
    arrays = []
    for (name, source), values in zip(query.columns.items(), columns, strict=True):
        try:
            arrays.append(_as_array(query.contract.column(name), source, values))
        except _Unfit as unfit:
            at = unfit.index
            raise ContractViolation(
                query.contract.name,
                name,
                f"{unfit.expected} in {source} of {query.place}",
                row=None if at is None else first_row + at,
                value=unfit.came,
                record={}
                if at is None
                else identifying(query.contract, dict(zip(query.columns, rows[at], strict=True))),
            ) from unfit
    return pa.RecordBatch.from_arrays(arrays, names=list(query.columns))


class _Unfit(Exception):
    """A value, at `index` if that is known, that cannot be what its column holds."""

    def __init__(self, expected: str, came: object, index: int | None = None) -> None:
        self.expected, self.came, self.index = expected, came, index
        super().__init__(expected)


def _as_array(column: Column, source: ColumnMapping, values: Sequence[Any]) -> pa.Array:
    kind = _kind(values)
    if kind is None:
        return pa.nulls(len(values))
    if pa.types.is_timestamp(column.type):
        return _instants(kind, source, values)
    if kind is uuid.UUID:
        values = [None if value is None else str(value) for value in values]
    if pa.types.is_list(column.type):
        return _lists(column, kind, values)
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise _Unfit(f"values of type {column.type}", error) from error


def _kind(values: Sequence[Any]) -> type | None:
    """The one Python type of all values; None where there is none, Arrow's guess at a mixture would be one of them."""
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) < 2:
        return kinds.pop() if kinds else None
    first = next(type(value) for value in values if value is not None)
    other = next(index for index, value in enumerate(values) if value is not None and type(value) is not first)
    raise _Unfit(f"values of one type, {first.__name__} as before,", values[other], other)


def _instants(kind: type, source: ColumnMapping, values: Sequence[Any]) -> pa.Array:
    if source.unit is not None:
        if kind is not int:
            raise _Unfit(f"whole numbers of {source.unit} since 1970", *_first(values))
        return pa.array(values, pa.int64()).cast(pa.timestamp(source.unit, "UTC"))
    if kind is not dt.datetime:
        raise _Unfit("timestamps", *_first(values))
    naive = [value is not None and value.tzinfo is None for value in values]
    if any(naive) and not source.zone:
        at = naive.index(True)
        raise _Unfit('a timestamp with a time zone, or the zone it is in, as zone = "UTC",', values[at], at)
    if source.zone and not all(flag or value is None for flag, value in zip(naive, values, strict=True)):
        at = next(index for index, value in enumerate(values) if value is not None and not naive[index])
        raise _Unfit("timestamps without a time zone, because `zone` names one,", values[at], at)
    instants = pa.array(values)
    if not source.zone:
        return instants.cast(TIMESTAMP)
    try:
        return pc.assume_timezone(instants, source.zone).cast(TIMESTAMP)
    except pa.ArrowInvalid as error:
        raise _Unfit(f"times that {source.zone} has once; `sql` can say which is meant,", error) from error


def _lists(column: Column, kind: type, values: Sequence[Any]) -> pa.Array:
    if kind is str:
        values = [_parsed(value, index) for index, value in enumerate(values)]
    try:
        return pa.array(values, column.type)
    except (pa.ArrowException, TypeError, UnicodeError, OverflowError) as error:
        raise _Unfit(f"lists of type {column.type}", error) from error


def _parsed(text: str | None, index: int) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise _Unfit("text that holds a JSON list", text, index) from error


def _first(values: Sequence[Any]) -> tuple[Any, int]:
    index = next(index for index, value in enumerate(values) if value is not None)
    return values[index], index

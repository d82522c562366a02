"""What is asked of a warehouse: the mapping in `attractor.toml`, checked against its tables, as one SELECT a table."""

from __future__ import annotations

import datetime as dt
import difflib
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.exc import NoSuchTableError

from features.contracts import Column, Table
from features.errors import ConfigurationError
from features.sources.sql_catalogue import table_names
from features.sources.sql_mapping import PER_SECOND, ColumnMapping, TableMapping
from features.windows import DAY, EPOCH, Window

_KINDS = (sa.String, sa.Numeric, sa.Integer, sa.DateTime, sa.Date, sa.Boolean, sa.ARRAY, sa.LargeBinary)
"""Types that either fit or never will."""

Statement = sa.Select[Any] | sa.CompoundSelect[Any]


@dataclass(frozen=True)
class TableQuery:
    """One raw table as a SELECT of its contract's columns, in that order."""

    contract: Table
    place: str
    statement: sa.Select[Any]
    columns: Mapping[str, ColumnMapping]
    may_be_undated: bool

    def within(self, window: Window, *, sqlite: bool) -> Statement:
        """The rows dated in `window`, and undated ones: bounds are bound values, never text of the statement.

        Of SQLite a day more on either side: it compares timestamps as text, in whatever form they were written.
        """
        mapping = self.columns["event_at"]
        at = self.statement.selected_columns["event_at"].element  # below its label
        pad = DAY if sqlite or mapping.zone not in ("", "UTC") else dt.timedelta()  # clocks that are turned back
        inside = at < _bound(window.end + pad, mapping)
        if window.start > EPOCH:
            inside &= at >= _bound(window.start - pad, mapping)
        if not self.may_be_undated:
            return self.statement.where(inside)
        if sqlite:  # for an OR over an index it remembers every row that it gave, in memory
            return sa.union_all(self.statement.where(inside), self.statement.where(at.is_(None)))
        return self.statement.where(sa.or_(inside, at.is_(None)))

    @property
    def carries_lists(self) -> bool:
        """Whether a row may be large."""
        return any(pa.types.is_list(self.contract.column(name).type) for name in self.columns)


def table_query(inspector: Inspector, contract: Table, mapping: TableMapping, *, section: str) -> TableQuery:
    """The SELECT of one table, every name of it checked against what the warehouse has.

    Raises ConfigurationError naming the section of attractor.toml, the table and the column that do not fit.
    """
    known = [column.name for column in contract.columns]
    for name in mapping.columns:
        if name not in known:
            raise ConfigurationError(f"[{section}] has no column {name!r}; it has {', '.join(known)}")
    place = mapping.place(contract)
    found = _reflected(inspector, contract, mapping, section)
    typed = [sa.column(name, column["type"]) for name, column in found.items()]
    table = sa.table(mapping.table or contract.name, *typed, schema=mapping.schema or None)
    chosen = {
        column.name: _chosen(contract, column, mapping, found, f"[{section}] {place}") for column in contract.columns
    }
    columns = {name: source for name, source in chosen.items() if source is not None}
    labelled = [
        (table.c[source.column] if source.column else sa.literal_column(f"({source.sql})")).label(name)
        for name, source in columns.items()
    ]
    statement = sa.select(*labelled).select_from(table)
    if mapping.where:
        statement = statement.where(sa.literal_column(f"({mapping.where})", sa.Boolean()))
    stamp = columns.get("event_at")
    dated = stamp is not None and bool(stamp.column) and not found[stamp.column]["nullable"]
    return TableQuery(contract, place, statement, columns, may_be_undated=not dated)


def _reflected(
    inspector: Inspector, contract: Table, mapping: TableMapping, section: str
) -> dict[str, ReflectedColumn]:
    schema, name = mapping.schema or None, mapping.table or contract.name
    try:
        return {column["name"]: column for column in inspector.get_columns(name, schema=schema)}
    except NoSuchTableError:
        names = [".".join(filter(None, place)) for place in table_names(inspector)]
        raise ConfigurationError(
            f"[{section}] the warehouse has no table {mapping.place(contract)}; it has {_some(names, name)}"
        ) from None


def _chosen(
    contract: Table, column: Column, mapping: TableMapping, found: Mapping[str, ReflectedColumn], where: str
) -> ColumnMapping | None:
    """What a column of the contract is read from; None where it is not there and may be null."""
    given = mapping.columns.get(column.name)
    if given is None:
        given = column.name if column.name in found or not column.nullable else ""
    if given == "":
        if not column.nullable:
            raise ConfigurationError(f"{where}: {column.name} must come from a column or an expression")
        return None
    source = ColumnMapping(column=given) if isinstance(given, str) else given
    if (source.zone or source.unit) and not pa.types.is_timestamp(column.type):
        raise ConfigurationError(f"{where}: {column.name} is not a timestamp; `zone` and `unit` are for those")
    if source.column:
        if source.column not in found:
            raise ConfigurationError(
                f"{where} has no column {source.column!r}, which {column.name} is to come from; "
                f"it has {_some(list(found), source.column)}"
            )
        fits, expected = _fitting(contract, column, source)
        came = found[source.column]["type"]
        if isinstance(came, _KINDS) and not isinstance(came, fits):
            raise ConfigurationError(
                f"{where}: column {source.column} is {came}, but {column.name} needs {expected}; "
                f'an expression may turn it into that: {column.name} = {{ sql = "…" }}'
            )
    return source


def _fitting(contract: Table, column: Column, source: ColumnMapping) -> tuple[tuple[type[Any], ...], str]:
    """SQL types that can become a column of the contract; one that SQLAlchemy does not know is left to the values."""
    if pa.types.is_timestamp(column.type):
        if source.unit:
            return (sa.Integer,), f"whole numbers of {source.unit}"
        return (sa.DateTime,), "timestamps, or whole numbers and their `unit`"
    if pa.types.is_list(column.type):
        return (sa.ARRAY, sa.JSON, sa.String), "arrays, JSON, or text that holds JSON"
    if column.name in contract.key or column.references:
        return (sa.String, sa.Integer, sa.Uuid), "text, whole numbers or UUIDs"
    return (sa.String,), "text"


def _bound(moment: dt.datetime, mapping: ColumnMapping) -> sa.BindParameter[Any]:
    """An instant as a bound value of the kind that the column holds."""
    if mapping.unit is not None:
        microseconds = (moment - EPOCH) // dt.timedelta(microseconds=1)
        return sa.literal(microseconds * PER_SECOND[mapping.unit] // 10**6, sa.BigInteger())
    if mapping.zone:
        local = moment.astimezone(zoneinfo.ZoneInfo(mapping.zone)).replace(tzinfo=None)
        return sa.literal(local, sa.DateTime())
    return sa.literal(moment, sa.DateTime(timezone=True))


def _some(names: list[str], like: str, most: int = 12) -> str:
    """Names that are there, the likest first."""
    likest = difflib.get_close_matches(like, names, n=3, cutoff=0.4)
    listed = [*likest, *sorted(set(names) - set(likest))]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "") or "none"

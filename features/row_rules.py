"""The contract of a raw table as checks: types of whole columns first, then every row against its column's rules."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

import pandera.polars as pandera
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pandera.errors import SchemaErrors

from features.contracts import TIMESTAMP, VECTOR, Column, Table
from features.errors import ContractViolation
from features.windows import EPOCH

KnownIds = Mapping[str, pl.Series]
"""What a reference may name, as one list value: `users.user_id` and `items.item_id`."""
VectorLengths = Mapping[str, int]
"""The length that the first vector of a column set for the whole table."""

NOT_NULL = "a value, not null"

_MICROSECOND = dt.timedelta(microseconds=1)
_FIRST_INSTANT = (dt.datetime.min.replace(tzinfo=dt.UTC) - EPOCH) // _MICROSECOND
_LAST_INSTANT = (dt.datetime.max.replace(tzinfo=dt.UTC) - EPOCH) // _MICROSECOND


def conform(table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in the contract's column order and types; nullable columns that are absent become null.

    Integers become text where the contract has an id; instants are converted to UTC and cut to microseconds.
    Raises ContractViolation for an unknown or missing column, a wrong type, or a timestamp without a time zone.
    """
    names = [column.name for column in table.columns]
    for name in batch.schema.names:
        if name not in names:
            raise ContractViolation(
                table.name, name, f"one of the columns {', '.join(names)}", value="an unknown column"
            )
        if batch.schema.names.count(name) > 1:
            raise ContractViolation(table.name, name, "one column of that name", value="several")
    columns = [_conformed(table, column, batch) for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, names=names)


def _conformed(table: Table, column: Column, batch: pa.RecordBatch) -> pa.Array:
    if column.name not in batch.schema.names:
        if not column.nullable:
            raise ContractViolation(table.name, column.name, f"a column of type {column.type}", value="no such column")
        return pa.nulls(batch.num_rows, column.type)
    values = batch.column(column.name)
    if pa.types.is_timestamp(values.type) and values.type.tz is None and pa.types.is_timestamp(column.type):
        raise ContractViolation(
            table.name, column.name, "a timestamp with a time zone", value=f"{values.type}, which has none"
        )
    is_id = column.name in table.key or column.references is not None
    if not _accepts(column.type, values.type, is_id=is_id):
        raise ContractViolation(table.name, column.name, f"type {column.type}", value=f"type {values.type}")
    finer = pa.types.is_timestamp(values.type) and values.type.unit == "ns"
    try:
        values.validate(full=True)  # Parquet readers do not look whether text is UTF-8
        values = values.cast(column.type, safe=not finer)
    except pa.ArrowInvalid as error:
        raise ContractViolation(table.name, column.name, f"values of type {column.type}", value=str(error)) from error
    if column.type == TIMESTAMP and not _are_years_of_python(values):
        raise ContractViolation(table.name, column.name, "instants of the years 1 to 9999", value="one beyond them")
    return values


def _are_years_of_python(instants: pa.Array) -> bool:
    """Whether every instant can be shown: polars and pyarrow fail on a value that `datetime` cannot hold."""
    span = pc.min_max(instants.cast(pa.int64()))
    low, high = span["min"].as_py(), span["max"].as_py()
    return low is None or (low >= _FIRST_INSTANT and high <= _LAST_INSTANT)


def _accepts(expected: pa.DataType, came: pa.DataType, *, is_id: bool) -> bool:
    if pa.types.is_dictionary(came):
        came = came.value_type
    if pa.types.is_null(came):
        return True
    if pa.types.is_string(expected):
        return _is_text(came) or (is_id and pa.types.is_integer(came))
    if pa.types.is_timestamp(expected):
        return bool(pa.types.is_timestamp(came))
    if not (pa.types.is_list(came) or pa.types.is_large_list(came) or pa.types.is_fixed_size_list(came)):
        return False
    came = came.value_type
    return pa.types.is_null(came) or (pa.types.is_floating(came) if expected == VECTOR else _is_text(came))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def identifying(table: Table, row: Mapping[str, object]) -> dict[str, object]:
    """Ids and times of a row: by what it is found again where its number says nothing, as in a database."""
    ids = [column.name for column in table.columns if column.references or column.name in table.key]
    return {
        column.name: row[column.name]
        for column in table.columns
        if column.name in row and (column.name in ids or column.type == TIMESTAMP)
    }


def row_schema(table: Table, known: KnownIds, lengths: VectorLengths) -> pandera.DataFrameSchema:
    """The rules of a table's rows, each named by the sentence that a violation of it shows."""
    return pandera.DataFrameSchema(
        {
            column.name: pandera.Column(
                nullable=column.nullable, checks=[_check(*rule) for rule in _rules(column, known, lengths)]
            )
            for column in table.columns
        }
    )


def reference_rule(target: str) -> str:
    """What a value that names a row of another table must be; `target` is its table and column, with a dot."""
    return f"one of {target}"


def _rules(column: Column, known: KnownIds, lengths: VectorLengths) -> list[tuple[str, Callable[[pl.Expr], pl.Expr]]]:
    """Name of each rule and whether a value that is not null keeps it."""
    rules: list[tuple[str, Callable[[pl.Expr], pl.Expr]]] = []
    least, longest, other, target = column.at_least, column.max_length, column.differs_from, column.references
    if pa.types.is_list(column.type):
        rules.append(("no null within the list", lambda lists: lists.list.drop_nulls().list.len() == lists.list.len()))
    if column.type == VECTOR:
        rules.append(("at least one number, or null for no vector", lambda lists: lists.list.len() > 0))
        rules.append(("finite numbers", lambda lists: lists.list.eval(pl.element().is_finite()).list.all()))
    if column.name in lengths:
        length = lengths[column.name]
        rules.append((f"length {length}, as the first of the table has", lambda lists: lists.list.len() == length))
    if longest is not None:
        rules.append((f"at most {longest} characters", lambda text: text.str.len_chars() <= longest))
    if least is not None:
        rules.append((f"at least {least}", lambda value: value >= least))
    if other is not None:
        rules.append((f"another value than {other}", lambda value: value != pl.col(other)))
    if target is not None:
        rules.append((reference_rule(target), lambda value: value.is_in(known[target])))
    return rules


def _check(name: str, keeps: Callable[[pl.Expr], pl.Expr]) -> pandera.Check:
    return pandera.Check(lambda data: data.lazyframe.select(keeps(pl.col(data.key))), name=name)


def broken_rows(schema: pandera.DataFrameSchema, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows that break a rule, as (`index`, `column`, `rule`), by index; a row that breaks several counts for the
    first, in the order of the contract's columns and of a column's rules.
    """
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        order = pl.Enum(list(schema.columns))
        cases: pl.DataFrame = error.failure_cases
        return (
            cases.select(
                pl.col("index").cast(pl.Int64),
                pl.col("column").cast(order),
                pl.col("check").replace("not_nullable", NOT_NULL).alias("rule"),
                pl.col("check_number").fill_null(-1),
            )
            .sort("index", "column", "check_number")
            .unique("index", keep="first", maintain_order=True)
            .select("index", pl.col("column").cast(pl.String), "rule")
        )
    return pl.DataFrame(schema={"index": pl.Int64, "column": pl.String, "rule": pl.String})

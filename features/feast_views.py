"""Any feature view of Feast as a table of a release: its contract, and a frame's latest rows laid out by it.

table = table_of(store.get_feature_view("driver_stats"))
pq.write_table(latest_rows(view, frame), scored / f"{table.name}.parquet")
release.stage(configuration, date, scored, about, also=[table])
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
from feast import FeatureView, Field
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Float32, Int32, Int64, String

from features.contracts import TIMESTAMP, Column, Table
from features.errors import ContractViolation
from features.feast_values import native, stored_type
from features.release_table import EVENT_TIMESTAMP

_KEYS = {String: pa.string(), Int32: pa.int64(), Int64: pa.int64()}


def table_of(view: FeatureView) -> Table:
    """The contract of a registered feature view: its join keys, when each row holds, and its features, nullable.

    An `Array(Float32)` whose field declares `vector_length` is an embedding: one length, in every row, read in bulk.
    Raises ContractViolation for a join key that is neither text nor integer.
    """
    keys = []
    for field in sorted(view.entity_columns, key=lambda field: field.name):
        if field.dtype not in _KEYS:
            raise ContractViolation(view.name, field.name, "a String, Int32 or Int64 as join key", value=field.dtype)
        keys.append(Column(field.name, _KEYS[field.dtype], "join key"))
    return Table(
        view.name,
        view.description or f"one row per {', '.join(key.name for key in keys)}",
        tuple(key.name for key in keys),
        (*keys, Column(EVENT_TIMESTAMP, TIMESTAMP, "when the row holds"), *map(_column, view.features)),
    )


def latest_rows(view: FeatureView, frame: pd.DataFrame) -> pa.Table:
    """What Feast would materialise of `frame`: the latest row of each key, as `table_of(view)` has it.

    `frame` has the source's columns: join keys, its timestamp field, features. Values are converted as Feast does.
    """
    table, instant = table_of(view), view.batch_source.timestamp_field
    rows = frame.sort_values(instant, kind="stable")
    if table.key == (DUMMY_ENTITY_ID,):
        rows = rows.assign(**{DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL})
    rows = rows.drop_duplicates(list(table.key), keep="last")
    instants = pd.to_datetime(rows[instant], utc=True).dt.tz_convert("UTC")
    columns = {name: pa.array(rows[name].tolist(), table.column(name).type) for name in table.key}
    columns[EVENT_TIMESTAMP] = pa.Array.from_pandas(instants).cast(TIMESTAMP, safe=False)
    columns |= {field.name: _stored(field, rows[field.name].tolist()) for field in view.features}
    return pa.table([columns[column.name] for column in table.columns], schema=table.schema)


def _column(field: Field) -> Column:
    kind = stored_type(field.dtype)
    if field.vector_length and field.dtype == Array(Float32):
        return Column(field.name, pa.list_(pa.float32(), field.vector_length), field.description)
    return Column(field.name, kind, field.description, nullable=True)


def _stored(field: Field, values: list[object]) -> pa.Array:
    protos = python_values_to_proto_values(values, field.dtype.to_value_type())
    kind = _column(field).type
    return pa.array([native(value) for value in protos], _in_seconds(kind)).cast(kind)


def _in_seconds(kind: pa.DataType) -> pa.DataType:
    """Feast keeps whole seconds."""
    seconds = pa.timestamp("s", "UTC")
    if pa.types.is_timestamp(kind):
        return seconds
    return pa.list_(seconds) if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type) else kind

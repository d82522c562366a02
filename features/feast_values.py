"""Feast's value types in a release: how a column of each is stored in Arrow, and served as Feast's protobuf values.

What Arrow has a type for is stored as such. Maps, structs, nested collections and timestamps with a zone of their own
are stored as the serialised protobuf value: binary, but exactly what Feast would have kept.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import VALUE_TYPE_TO_PROTO_VALUE_MAP
from feast.types import FeastType
from feast.value_type import ValueType
from numpy.typing import NDArray

from features.contracts import TIMESTAMP
from features.release_table import ListRow

SCALARS = {
    "bytes": pa.binary(),
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "float": pa.float32(),
    "bool": pa.bool_(),
    "unix_timestamp": TIMESTAMP,
    "json": pa.string(),
    "uuid": pa.string(),
    "time_uuid": pa.string(),
    "decimal": pa.string(),
}
"""Arrow types of Feast's scalars, by the name of their protobuf field without `_val`."""

WHOLE = pa.binary()
"""The Arrow type of what is stored as a serialised protobuf value."""

_OTHER_FIELDS = {
    ValueType.PDF_BYTES: "bytes_val",
    ValueType.IMAGE_BYTES: "bytes_val",
    ValueType.ZONED_TIMESTAMP: "zoned_timestamp_val",
}
_WIDTHS = {pa.float32(): 4, pa.float64(): 8}
_SECONDS = pa.timestamp("s", "UTC")


def value_field(dtype: FeastType) -> str:
    """The protobuf field of a Feast type, such as `int64_list_val`. Raises ValueError if Feast has none for it."""
    try:
        value_type = dtype.to_value_type()
        field = _OTHER_FIELDS.get(value_type) or VALUE_TYPE_TO_PROTO_VALUE_MAP[value_type]
    except KeyError as error:
        raise ValueError(f"expected a Feast type with a protobuf value, got {dtype}") from error
    return str(field)


def stored_type(dtype: FeastType) -> pa.DataType:
    """The Arrow type that a feature of `dtype` is stored in; embeddings of one declared length are fixed-size lists."""
    name = value_field(dtype).removesuffix("_val")
    if name in SCALARS:
        return SCALARS[name]
    element = SCALARS.get(name.removesuffix("_list").removesuffix("_set"))
    return WHOLE if element is None else pa.list_(element)


@lru_cache(maxsize=1024)
def field_of_stored(dtype: FeastType, stored: pa.DataType) -> str | None:
    """The protobuf field of a Feast type if a column of Arrow type `stored` holds its values, else None."""
    return value_field(dtype) if stored_type(dtype) == stored else None


@lru_cache(maxsize=256)
def is_whole(field: str) -> bool:
    """Whether values of this protobuf field are stored serialised."""
    name = field.removesuffix("_val")
    return name not in SCALARS and name.removesuffix("_list").removesuffix("_set") not in SCALARS


def fill(slots: Sequence[Value], column: pa.Array, field: str) -> None:
    """Set each empty value to its row of `column`, no list; a null stays empty, as Feast has it."""
    if is_whole(field):
        for slot, stored in zip(slots, column.to_pylist(), strict=True):
            if stored is not None:
                slot.MergeFromString(stored)
    else:
        values = _seconds(column) if pa.types.is_timestamp(column.type) else column
        for slot, value in zip(slots, values.to_pylist(), strict=True):
            if value is not None:
                setattr(slot, field, value)


def fill_lists(slots: Sequence[Value], rows: Iterable[ListRow | None], field: str) -> None:
    """Set each empty value to its list; a null stays empty, an empty list does not."""
    for slot, row in zip(slots, rows, strict=True):
        if row is None:
            continue
        elements, packed, begin, end = row
        if elements.type in _WIDTHS:
            width = _WIDTHS[elements.type]
            slot.MergeFromString(_packed_header(field, end - begin, width) + packed[width * begin : width * end])
            continue
        values = elements.slice(begin, end - begin)
        items = getattr(slot, field)
        items.SetInParent()
        items.val.extend((_seconds(values) if pa.types.is_timestamp(values.type) else values).to_pylist())


def fill_vectors(slots: Sequence[Value], block: NDArray[np.float32]) -> None:
    """Set each empty value to a row of `block` [slots, d], wrapped in protobuf's wire format as it lies in memory.

    A packed repeated float is its tag, its length and little-endian floats; the tags are those of a zero vector.
    """
    header = _packed_header("float_list_val", block.shape[1], block.itemsize)
    for slot, vector in zip(slots, block, strict=True):
        slot.MergeFromString(header + vector.tobytes())


def fill_constant(slots: Sequence[Value], value: str | dt.datetime | None) -> None:
    """Set every empty value to the same text or instant."""
    for slot in slots:
        if isinstance(value, dt.datetime):
            slot.unix_timestamp_val = int(value.timestamp())
        elif value is not None:
            slot.string_val = value


def native(value: Value) -> Any:
    """What is stored of a protobuf value: None, a scalar, a list, or the serialised value."""
    field = value.WhichOneof("val")
    if field is None:
        return None
    if is_whole(field):
        return value.SerializeToString()
    content = getattr(value, field)
    return list(content.val) if hasattr(content, "val") else content


@lru_cache(maxsize=4096)
def _packed_header(field: str, length: int, width: int) -> bytes:
    value = Value()
    items = getattr(value, field)
    items.SetInParent()
    items.val.extend([0.0] * length)
    encoded: bytes = value.SerializeToString()
    return encoded[: len(encoded) - width * length]


def _seconds(instants: pa.Array) -> pa.Array:
    return instants.cast(_SECONDS, safe=False).cast(pa.int64())

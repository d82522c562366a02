"""Feast's online store over the release store: every ordinary online read is answered from the live release.

A request resolves the pointer once, so several feature views in it are of one night. Nothing is written through
Feast: a night goes online by publishing a release.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.repo_config import FeastConfigBaseModel

from features.contracts import Table
from features.errors import AttractorError, ContractViolation
from features.key_index import Rows
from features.release_table import ReleasedTable
from features.releases import Release, ReleaseStore, open_releases

FEW_KEYS = 8
"""Up to here one key after the other is quicker than all at once (8 us a key against 55 us, measured)."""

EntityRows = list[dict[str, Any]] | Mapping[str, Sequence[Any]]
OnlineRow = tuple[dt.datetime | None, dict[str, Value] | None]

_request: ContextVar[Release | None] = ContextVar("release of the request", default=None)


class ReadOnly(AttractorError):
    """Feast was asked to write values online; the message says what to do instead."""


class ReleaseOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """`online_store:` of feature_store.yaml. Without `path`, the release store of attractor.toml is read."""

    type: Literal["features.online_store.ReleaseOnlineStore"] = "features.online_store.ReleaseOnlineStore"
    path: str | None = None


class ReleaseOnlineStore(OnlineStore):  # type: ignore[misc]
    """Reads the live release. Raises MissingInput while nothing is published, rather than NOT_FOUND for everything."""

    _versioned_read_supported = False  # known without importing every store that Feast has

    def __init__(self) -> None:
        self._releases: ReleaseStore | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads are of memory maps: quicker in the event loop than handing them to a thread."""
        return SupportedAsyncMethods(read=True, write=False)

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: EntityRows,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Feast's own, with every feature view read from one release."""
        with self._one_release(config):
            return super().get_online_features(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )

    async def get_online_features_async(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: EntityRows,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Feast's own, with every feature view read from one release."""
        with self._one_release(config):
            return await super().get_online_features_async(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[OnlineRow]:
        """One `(event timestamp, values by feature)` a key, `(None, None)` where the release has no row for it.

        Raises ContractViolation if the view or one of its features is not published by releases.
        """
        release = _request.get() or self._live(config)
        released = _released_table(release, table.name)
        rows = _locate(released, entity_keys)
        present = np.flatnonzero(rows >= 0)
        names = requested_features or [field.name for field in table.features]
        answer: list[OnlineRow] = [(None, None)] * len(entity_keys)
        columns = [_values(release, released, name, rows[present]) for name in names]
        for position, values in zip(present.tolist(), zip(*columns, strict=True), strict=True):
            answer[position] = (release.as_of, dict(zip(names, values, strict=True)))
        return answer

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[OnlineRow]:
        """The same; there is nothing to wait for."""
        return self.online_read(config, table, entity_keys, requested_features)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Any],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Always raises ReadOnly: materialize and push have no place between an audit and what is served."""
        raise ReadOnly(
            f"feature view {table.name!r} is served from audited releases and cannot be written row by row: instead "
            "of `feast materialize` or push, run `attractor night --date YYYY-MM-DD`, or `attractor publish RELEASE_ID`"
        )

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Any],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Always raises ReadOnly."""
        self.online_write_batch(config, table, data, progress)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Nothing: `feast apply` registers views, releases bring their tables."""

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Nothing: releases outlive the registration of their views."""

    @contextmanager
    def _one_release(self, config: RepoConfig) -> Iterator[None]:
        token = _request.set(self._live(config))
        try:
            yield
        finally:
            _request.reset(token)

    def _live(self, config: RepoConfig) -> Release:
        if self._releases is None:
            self._releases = open_releases(_path(config))
        return self._releases.current()


def _path(config: RepoConfig) -> Path | None:
    """The configured store, relative to the feature repository if it is relative."""
    given = config.online_store.path
    return None if given is None else Path(config.repo_path or ".", given)


def _released_table(release: Release, view: str) -> ReleasedTable:
    if view not in release.tables:
        raise ContractViolation(view, "*", f"one of the released views {', '.join(release.tables)}", value=view)
    return release.tables[view]


def _locate(released: ReleasedTable, entity_keys: Sequence[EntityKey]) -> Rows:
    columns = _key_columns(released.table, entity_keys)
    if len(entity_keys) <= FEW_KEYS:
        return np.array([released.locate_one(key) for key in zip(*columns, strict=True)], np.int64)
    types = (released.table.column(name).type for name in released.table.key)
    return released.locate([pa.array(values, kind) for values, kind in zip(columns, types, strict=True)])


def _key_columns(table: Table, entity_keys: Sequence[EntityKey]) -> list[list[str | int]]:
    """The join keys as one list per key column; Feast sends one order of names for a whole view."""
    names = list(entity_keys[0].join_keys) if entity_keys else list(table.key)
    if sorted(names) != sorted(table.key):
        raise ContractViolation(table.name, ", ".join(table.key), "exactly these join keys", value=names)
    columns = []
    for name in table.key:
        place = names.index(name)
        columns.append([_native(key.entity_values[place]) for key in entity_keys])
    return columns


def _native(value: Value) -> str | int:
    native: str | int = getattr(value, value.WhichOneof("val") or "string_val")
    return native


def _values(release: Release, released: ReleasedTable, name: str, rows: Rows) -> list[Value]:
    """One protobuf value a row, of the table's own column or of the release's provenance."""
    if name in released.windows:
        return _vector_values(released, name, rows)
    if name in released.names:
        return _column_values(released, name, rows)
    if name not in release.provenance:
        raise ContractViolation(released.table.name, name, "a published or provenance column", value=name)
    return [_constant(release.provenance[name])] * len(rows)


def _vector_values(released: ReleasedTable, name: str, rows: Rows) -> list[Value]:
    """Vectors wrapped in protobuf's wire format as they lie in the map: no float passes through Python.

    A packed repeated float is its tag, its length and little-endian floats; the tags are those of a zero vector.
    """
    block = released.vectors(name, rows)
    header = _float_header(block.shape[1])
    return [Value.FromString(header + vector.tobytes()) for vector in block]


@lru_cache(maxsize=4096)
def _float_header(length: int) -> bytes:
    encoded: bytes = Value(float_list_val=FloatList(val=[0.0] * length)).SerializeToString()
    return encoded[: len(encoded) - 4 * length]


def _column_values(released: ReleasedTable, name: str, rows: Rows) -> list[Value]:
    column = released.column(name, rows)
    if not pa.types.is_list(column.type):
        return [_constant(value) for value in column.to_pylist()]
    offsets = column.offsets.to_numpy()
    first = int(offsets[0])
    elements = column.values.slice(first, int(offsets[-1]) - first)
    spans = pairwise((offsets - first).tolist())
    if pa.types.is_string(column.type.value_type):
        texts = elements.to_pylist()
        return [_text_list(texts[begin:end]) for begin, end in spans]
    packed = memoryview(elements.to_numpy()).cast("B")
    return [Value.FromString(_float_header(end - begin) + packed[4 * begin : 4 * end]) for begin, end in spans]


def _text_list(texts: list[str]) -> Value:
    value = Value()
    value.string_list_val.val.extend(texts)  # in place: a StringList given to Value is copied
    return value


def _constant(value: str | dt.datetime | None) -> Value:
    if value is None:
        return Value()
    if isinstance(value, dt.datetime):
        return Value(unix_timestamp_val=int(value.timestamp()))
    return Value(string_val=value)

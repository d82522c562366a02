"""Feast's online store over the release store: every ordinary online read is answered from the live release.

A request resolves the pointer once, so several feature views in it are of one night. Nothing is written through
Feast: a night goes online by publishing a release.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig, utils
from feast.errors import FeastError
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.metrics import track_feature_statuses
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]  # the stubs cost a dependency

from features.errors import AttractorError, ConfigurationError, ContractViolation, MissingInput
from features.feast_values import field_of_stored, fill, fill_constant, fill_lists, fill_vectors
from features.key_index import Rows
from features.release_cache import ReleasesConfig
from features.release_storage import open_copy
from features.release_table import EVENT_TIMESTAMP, ReleasedTable
from features.releases import Release, ReleaseStore, open_releases

FEW_KEYS = 8
"""Up to here one key after the other is quicker than all at once."""

OnlineRow = tuple[dt.datetime | None, dict[str, Value] | None]

_KEY_FIELDS = {pa.string(): {"string_val"}, pa.int64(): {"int32_val", "int64_val"}}
_NO_INSTANT = Timestamp()


class ReadOnly(AttractorError, FeastError):  # type: ignore[misc]
    """Feast was asked to write values online; the message says what to do instead. HTTP 405."""

    def http_status_code(self) -> int:
        """For Feast's server."""
        return 405


class ReadRefused(ContractViolation, FeastError):  # type: ignore[misc]
    """A read that releases cannot answer: other views, features or keys than they have. HTTP 422."""

    def http_status_code(self) -> int:
        """For Feast's server, which says 500 of an error that is not Feast's."""
        return 422


class NothingPublished(MissingInput, FeastError):  # type: ignore[misc]
    """A read before the first publication. HTTP 503."""

    def http_status_code(self) -> int:
        """For Feast's server."""
        return 503


class ReleaseOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """`online_store:` of feature_store.yaml. Without `path`, the release store of attractor.toml is read.

    A `path` of s3://bucket/prefix needs `copies`, a directory for its verified copy on this machine.
    """

    type: Literal["features.online_store.ReleaseOnlineStore"] = "features.online_store.ReleaseOnlineStore"
    path: str | None = None
    copies: str | None = None
    recheck_seconds: float = ReleasesConfig.recheck_seconds


class ReleaseOnlineStore(OnlineStore):  # type: ignore[misc]
    """Reads the live release. Raises MissingInput while nothing is published, rather than NOT_FOUND for everything."""

    _versioned_read_supported = False  # known without importing every store that Feast has

    def __init__(self) -> None:
        self._releases: ReleaseStore | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads are of memory maps: quicker in the event loop than handing them to a thread."""
        return SupportedAsyncMethods(read=True, write=False)

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[tuple[FeatureView, list[str]]],
        join_key_values: dict[str, list[Value]],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Feast's hook for stores that read all views of a request together: here, from one release.

        The values are written where the answer keeps them; Feast's own way copies each of them twice.
        """
        release = self._live(config)
        for view, names in grouped_refs:
            if include_feature_view_version_metadata:
                utils._populate_response_from_feature_data([], [], [], online_features_response, False, view, 0, True)
            keys = utils._get_table_entity_values(view, entity_name_to_join_key_map, join_key_values)
            if not any(keys.values()):  # Feast's own words for a request without this view's keys
                utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)
            prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
            self._answer(online_features_response, _located(release, view, keys), names, prefix)

    async def _read_features_per_fv_async(self, *request: Any) -> None:
        """The same; there is nothing to wait for."""
        self._read_features_per_fv(*request)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[OnlineRow]:
        """One `(event timestamp, values by feature)` a key, `(None, None)` where the release has no row for it.

        Raises ContractViolation if the view or one of its features is not published by releases, or not as it is
        registered now.
        """
        if not entity_keys:
            return []
        names = requested_features or [field.name for field in table.features]
        found = _located(self._live(config), table, _columns_of(entity_keys))
        answer: list[OnlineRow] = [(None, None)] * len(entity_keys)
        values: list[dict[str, Value]] = [{} for _ in found.places]
        for name in names:
            slots = [Value() for _ in found.places]
            found.fill(slots, name)
            for row, slot in zip(values, slots, strict=True):
                row[name] = slot
        for place, instant, row in zip(found.places, found.instants(), values, strict=True):
            answer[place] = (instant.ToDatetime(tzinfo=dt.UTC), row)
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

    def _answer(self, response: GetOnlineFeaturesResponse, found: _Located, names: Sequence[str], prefix: str) -> None:
        """Append a column of values, statuses and event timestamps per feature to the response."""
        count, places = len(found.rows), found.places
        statuses, stamps = [FieldStatus.NOT_FOUND] * count, [_NO_INSTANT] * count
        for place, instant in zip(places, found.instants(), strict=True):
            statuses[place], stamps[place] = FieldStatus.PRESENT, instant
        for name in names:
            response.metadata.feature_names.val.append(prefix + name)
            vector = response.results.add()
            slots = [vector.values.add() for _ in range(count)]
            found.fill(slots if len(places) == count else [slots[place] for place in places], name)
            vector.statuses.extend(statuses)
            vector.event_timestamps.extend(stamps)
        track_feature_statuses(found.view.name, len(places) * len(names), (count - len(places)) * len(names))

    def _live(self, config: RepoConfig) -> Release:
        if self._releases is None:
            self._releases = _opened(config)
        try:
            return self._releases.current()
        except MissingInput as error:
            raise NothingPublished(str(error)) from error


def _opened(config: RepoConfig) -> ReleaseStore:
    """The configured store; directories are relative to the feature repository if they are relative."""
    given, repository = config.online_store, Path(config.repo_path or ".")
    if given.path is None:
        return open_releases()
    if "://" not in given.path:
        return open_releases(repository / given.path)
    if given.copies is None:
        raise ConfigurationError(f"online_store: path {given.path} needs `copies`, a directory on this machine")
    return open_copy(ReleasesConfig(given.path, given.recheck_seconds), repository / given.copies)


def _released_table(release: Release, view: str) -> ReleasedTable:
    if view not in release.tables:
        raise ReadRefused(view, "*", f"one of the released views {', '.join(release.tables)}", value=view)
    return release.tables[view]


@dataclass(frozen=True)
class _Located:
    """Where the keys of a request stand in one view of a release."""

    release: Release
    released: ReleasedTable
    view: FeatureView
    rows: Rows  # of every key, -1 where there is none
    places: list[int]  # of the keys that have a row
    present: Rows  # the row of each of those

    def fill(self, slots: Sequence[Value], name: str) -> None:
        """Set one empty value a present row, of the table's own column or of the release's provenance."""
        if name in self.released.windows:
            fill_vectors(slots, self.released.vectors(name, self.present))
        elif name in self.released.names:
            stored = self.released.table.column(name).type
            if pa.types.is_list(stored):
                fill_lists(slots, self.released.lists(name, self.present), self._field(name, stored))
            else:
                fill(slots, self.released.column(name, self.present), self._field(name, stored))
        elif name in self.release.provenance:
            fill_constant(slots, self.release.provenance[name])
        else:
            raise ReadRefused(self.view.name, name, "a published or provenance column", value=name)

    def instants(self) -> list[Timestamp]:
        """The event timestamp of each present row: its own, else the release's."""
        if EVENT_TIMESTAMP not in self.released.names:
            instant = self.release.as_of_view(self.released.table.name)
            return [Timestamp(seconds=int(instant.timestamp()))] * len(self.places)
        microseconds = self.released.column(EVENT_TIMESTAMP, self.present).cast(pa.int64()).to_pylist()
        return [Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000) for us in microseconds]

    def _field(self, name: str, stored: pa.DataType) -> str:
        """The protobuf field of a feature. Raises ContractViolation if it is registered as another type than stored."""
        dtype = next((field.dtype for field in self.view.features if field.name == name), None)
        field = None if dtype is None else field_of_stored(dtype, stored)
        if field is None:
            raise ReadRefused(self.view.name, name, f"a registered feature of stored type {stored}", value=dtype)
        return field


def _located(release: Release, view: FeatureView, keys: Mapping[str, Sequence[Value]]) -> _Located:
    if view.name not in release.tables:
        raise ReadRefused(view.name, "*", f"one of the released views {', '.join(release.tables)}", value=view.name)
    released = release.tables[view.name]
    rows = _rows(released, keys)
    (places,) = (rows >= 0).nonzero()
    return _Located(release, released, view, rows, places.tolist(), rows[places])


def _rows(released: ReleasedTable, keys: Mapping[str, Sequence[Value]]) -> Rows:
    table = released.table
    if keys.keys() != set(table.key):
        raise ReadRefused(table.name, ", ".join(table.key), "exactly these join keys", value=sorted(keys))
    types = [table.column(name).type for name in table.key]
    columns = [_native(table.name, name, keys[name], kind) for name, kind in zip(table.key, types, strict=True)]
    if len(columns[0]) <= FEW_KEYS:
        return np.array([released.locate_one(key) for key in zip(*columns, strict=True)], np.int64)
    return released.locate([pa.array(column, kind) for column, kind in zip(columns, types, strict=True)])


def _native(table: str, name: str, values: Sequence[Value], kind: pa.DataType) -> list[Any]:
    """Join keys out of their protobuf values. Raises ContractViolation for a null or another type than the table's."""
    fields = [str(value.WhichOneof("val")) for value in values]
    if not _KEY_FIELDS[kind].issuperset(fields):
        raise ReadRefused(table, name, f"join keys of type {kind}", value=sorted(set(fields)))
    return [getattr(value, field) for value, field in zip(values, fields, strict=True)]


def _columns_of(entity_keys: Sequence[EntityKey]) -> dict[str, list[Value]]:
    """The keys of Feast's rows by join key; Feast sends one order of names for a whole view."""
    names = list(entity_keys[0].join_keys)
    return {name: [key.entity_values[place] for key in entity_keys] for place, name in enumerate(names)}

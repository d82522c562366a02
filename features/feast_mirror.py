"""A release written into a standard Feast online store, such as Redis, and compared with it row by row afterwards.

A standard store has no releases: while a mirror is written, requests may be answered from two nights, which each row's
`release_id` tells. The event timestamp of a mirrored row is the instant of mirroring and not that of the night, because
such stores keep the row of the later timestamp, and a rollback or a corrected night is of an earlier or the same one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig, load_repo_config
from feast.utils import _convert_arrow_to_proto
from tqdm import tqdm

from features.configuration import Configuration
from features.contracts import PUBLISHED
from features.definitions import INSTANT, Definitions, define
from features.errors import ConfigurationError
from features.files import replacing_file
from features.mirror_records import folder_of, remember_target
from features.online_store import ReleaseOnlineStoreConfig
from features.release_table import ReleasedTable
from features.releases import Release

BATCH_ROWS = 1000
"""Rows that are converted, written and read at a time: all that memory holds, beside the keys of a mirror."""

Row = tuple[EntityKey, dict[str, Value], dt.datetime, dt.datetime | None]


@dataclass(frozen=True)
class MirroredView:
    """What became of one view: rows written and read again, those that differ, and users or items who left."""

    view: str
    rows: int
    compared: int
    mismatches: int
    emptied: int  # keys of the mirror before that the release has not: their values are null now


def open_target(file: Path) -> FeatureStore:
    """The store of a feature_store.yaml. Raises ConfigurationError for one that reads releases itself."""
    return FeatureStore(config=_settings_of(file))


def _settings_of(file: Path) -> RepoConfig:
    if not file.is_file():
        raise ConfigurationError(f"{file}: expected the feature_store.yaml of a standard Feast store")
    settings = load_repo_config(file.parent, file)
    if isinstance(settings.online_store, ReleaseOnlineStoreConfig):
        raise ConfigurationError(f"{file}: its online store reads releases already; a mirror is for standard stores")
    return settings


def plan(configuration: Configuration, release: Release, target: Path) -> list[MirroredView]:
    """What `mirror` would write and set to null. The store is not asked, and nothing is written."""
    known = folder_of(configuration.state, _settings_of(target).project, target)
    tables = [release.tables[view] for view in PUBLISHED]
    gone = [_gone(known / f"{table.table.name}.parquet", table) for table in tables]
    return [
        MirroredView(table.table.name, table.row_count, 0, 0, len(left))
        for table, left in zip(tables, gone, strict=True)
    ]


def mirror(
    configuration: Configuration, release: Release, target: Path, *, at: dt.datetime, batch_rows: int = BATCH_ROWS
) -> list[MirroredView]:
    """Register the released views in a store, write every row of `release`, and compare each with what is read back.

    Keys that an earlier mirror wrote and the release has not are set to null. A mirror that was killed is completed by
    the next. `at` must be later than any mirror before, or stores keep their rows and the comparison says so.
    """
    store, definitions = open_target(target), define(configuration)
    views = [definitions.views[name] for name in PUBLISHED]
    store.apply([*definitions.entities.values(), *views, *_services(definitions)])
    known = folder_of(configuration.state, store.project, target)
    remember_target(known, target)
    return [
        _Writer(store, store.get_feature_view(view.name), release, at, batch_rows).run(known / f"{view.name}.parquet")
        for view in views
    ]


def _services(definitions: Definitions) -> list[Any]:
    """Those that read released views alone."""
    return [
        service
        for service in definitions.services.values()
        if {projection.name for projection in service.feature_view_projections} <= set(PUBLISHED)
    ]


@dataclass(frozen=True)
class _Writer:
    store: FeatureStore
    view: FeatureView
    release: Release
    at: dt.datetime
    batch_rows: int

    def run(self, known: Path) -> MirroredView:
        gone = _gone(known, self.table)
        _write_keys(known, self.table, gone)  # before a row is: a killed mirror wrote none that is not listed
        rows = compared = mismatches = 0
        for written in self._batches():
            self._write(written)
        for written in self._batches():
            rows += len(written)
            compared += len(written)
            mismatches += self._differing(written)
        for start in range(0, len(gone), self.batch_rows):
            emptied = self._emptied(gone[start : start + self.batch_rows])
            self._write(emptied)
            compared += len(emptied)
            mismatches += self._differing(emptied)
        if not mismatches:
            _write_keys(known, self.table, gone[:0])
        return MirroredView(self.view.name, rows, compared, mismatches, len(gone))

    @property
    def table(self) -> ReleasedTable:
        return self.release.tables[self.view.name]

    def _batches(self) -> Iterator[list[Row]]:
        parts = (
            batch.slice(start, self.batch_rows)
            for batch in self.table
            for start in range(0, len(batch), self.batch_rows)
        )
        count = sum(-(-len(batch) // self.batch_rows) for batch in self.table)
        for part in tqdm(parts, total=count, desc=f"mirror {self.view.name}", disable=None, leave=False):
            yield self._rows(part)

    def _rows(self, part: pa.RecordBatch) -> list[Row]:
        constants = dict(self.release.provenance) | {INSTANT: self.at}
        names = [*self.view.join_keys, *(field.name for field in self.view.features), INSTANT]
        columns = [
            _plain(part.column(name)) if name in part.schema.names else pa.array([constants[name]] * len(part))
            for name in names
        ]
        types = {column.name: column.dtype.to_value_type() for column in self.view.entity_columns}
        converted: list[Row] = _convert_arrow_to_proto(pa.table(columns, names), self.view, types)
        return [(key, values, self.at, None) for key, values, _, _ in converted]

    def _emptied(self, keys: pa.Array) -> list[Row]:
        (name,) = self.view.join_keys
        nothing = {field.name: Value() for field in self.view.features}
        return [
            (EntityKey(join_keys=[name], entity_values=[Value(string_val=key)]), nothing, self.at, None)
            for key in keys.to_pylist()
        ]

    def _write(self, rows: list[Row]) -> None:
        provider = self.store._get_provider()
        provider.online_write_batch(self.store.config, self.view, rows, None)

    def _differing(self, rows: list[Row]) -> int:
        names = [field.name for field in self.view.features]
        provider = self.store._get_provider()
        # a list of its own: Redis appends to it
        read = provider.online_read(self.store.config, self.view, [key for key, *_ in rows], list(names))
        return sum(
            any(_bytes(values[name]) != _bytes((came or {}).get(name)) for name in names)
            for (_, values, _, _), (_, came) in zip(rows, read, strict=True)
        )


def _gone(known: Path, table: ReleasedTable) -> pa.Array:
    """The keys of the mirror before that a table has not."""
    (key,) = table.table.key
    before = pq.read_table(known).column(key).combine_chunks() if known.is_file() else pa.array([], pa.string())
    return before.filter(pa.array(table.locate([before]) < 0))


def _plain(column: pa.Array) -> pa.Array:
    """Embeddings as the lists that Feast converts."""
    kind = column.type
    return column.cast(pa.list_(kind.value_type)) if pa.types.is_fixed_size_list(kind) else column


def _bytes(value: Value | None) -> bytes:
    return b"" if value is None else bytes(value.SerializeToString(deterministic=True))


def _write_keys(file: Path, table: ReleasedTable, gone: pa.Array) -> None:
    (key,) = table.table.key
    schema = pa.schema([(key, pa.string())])
    with replacing_file(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for keys in (*(batch.column(key) for batch in table), gone):
            writer.write_batch(pa.RecordBatch.from_arrays([keys], schema=schema))

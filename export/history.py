"""The offline history of what was served: one Parquet partition per table and date, for point-in-time joins."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from export.staging import is_released
from features.configuration import Configuration
from features.contracts import PROVENANCE, PUBLISHED, TIMESTAMP, Table
from features.files import remove_temporaries, replacing_file
from features.further_views import further_views
from features.releases import MANIFEST, RELEASES, Pointer, Release, open_releases, read_object

_RELEASE_KEY = b"release_id"


def published_schema(table: Table) -> pa.Schema:
    """Columns of a partition: the contract's, the release's provenance, and `event_timestamp`, the window end."""
    provenance = [pa.field(column.name, column.type) for column in PROVENANCE.get(table.name, ())]
    return pa.schema([*table.schema, *provenance, pa.field("event_timestamp", TIMESTAMP, nullable=False)])


def partition(configuration: Configuration, view: str, date: dt.date) -> Path:
    """Where the rows served for `date` stand."""
    return configuration.published / view / f"date={date.isoformat()}.parquet"


def complete(configuration: Configuration, pointer: Pointer) -> None:
    """Write every partition that the pointer's history calls for and that is not there yet.

    For one who holds the store's lock. Nights whose process was killed after the pointer moved are thus completed by
    the next publication. Of several releases served for one date the last one stands. A standing part's rows are in
    the history of the night that made them.
    """
    views = [*PUBLISHED, *(view.table.name for view in further_views(configuration))]
    for view in views:
        remove_temporaries(configuration.published / view)
    store = open_releases(configuration.releases)
    served: dict[str, Mapping[str, str]] = {}
    for entry in pointer.history:
        if entry["action"] == "publish" and is_released(store.root, entry["release_id"]):
            served[entry["release_id"][:10]] = entry
    for entry in served.values():
        release_id, at = entry["release_id"], dt.datetime.fromisoformat(entry["at"])
        standing = (read_object(store.root / RELEASES / release_id / MANIFEST).get("standing") or {"views": []})[
            "views"
        ]
        missing = [view for view in views if view not in standing and not _stands(configuration, view, release_id)]
        if missing:  # else it need not be opened, which reads all of it
            release = replace(store.open(release_id), published_at=at)
            for view in [view for view in missing if view in release.tables]:  # one may be configured since
                _write(partition(configuration, view, release.date), release, view)


def _stands(configuration: Configuration, view: str, release_id: str) -> bool:
    file = partition(configuration, view, dt.date.fromisoformat(release_id[:10]))
    return file.is_file() and (pq.read_metadata(file).metadata or {}).get(_RELEASE_KEY) == release_id.encode()


def _write(file: Path, release: Release, view: str) -> None:
    table = release.tables[view]
    schema = published_schema(table.table).with_metadata({_RELEASE_KEY: release.release_id.encode()})
    constants = dict(release.provenance) | {"event_timestamp": release.as_of}
    with replacing_file(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in table:
            columns = [
                batch.column(field.name).cast(field.type)
                if field.name in batch.schema.names
                else pa.repeat(pa.scalar(constants[field.name], field.type), len(batch))
                for field in schema
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))

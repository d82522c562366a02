"""Entities, feature views and feature services, derived from the contracts.

`repo.py` shows them to `feast apply`; `store.register` registers them from Python.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, Project, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, FeastType, Float32, Float64, Int64, String, UnixTimestamp

from features.configuration import Configuration
from features.contracts import FEATURES, IDS, PROVENANCE, PUBLISHED, TIMESTAMP, VECTOR, Column, Table
from features.further_views import further_views
from features.training_sets import TRAINING_SERVICES

PROJECT, OWNER, INSTANT = "attractor", "attractor", "event_timestamp"

TTL = dt.timedelta(days=1) - dt.timedelta(microseconds=1)
"""A row holds from its midnight until just before the next: who is not in a night is not known in it."""

TYPES: Mapping[pa.DataType, FeastType] = {
    pa.string(): String,
    pa.int64(): Int64,
    TIMESTAMP: UnixTimestamp,
    IDS: Array(String),
    VECTOR: Array(Float32),
    pa.list_(TIMESTAMP): Array(UnixTimestamp),
    pa.bool_(): Bool,
    pa.float64(): Float64,
}

USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="Who acts", owner=OWNER)
ITEM = Entity(
    name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="What is acted on", owner=OWNER
)
ENTITIES = {"user_id": USER, "item_id": ITEM}


@dataclass(frozen=True)
class Definitions:
    """Everything that is registered, by name."""

    project: Project
    entities: Mapping[str, Entity]
    views: Mapping[str, FeatureView]
    services: Mapping[str, FeatureService]


def define(configuration: Configuration) -> Definitions:
    """The definitions over the tables of one configuration's state."""
    built = {name: _view(table, configuration.features / name, "built") for name, table in FEATURES.items()}
    served = [*PUBLISHED.values(), *(view.table for view in further_views(configuration))]
    published = {table.name: _view(table, configuration.published / table.name, "published") for table in served}
    views = built | published
    return Definitions(
        Project(name=PROJECT, description="Nightly interest embeddings and attraction lists", owner=OWNER),
        {entity.name: entity for entity in ENTITIES.values()},
        views,
        {service.name: service for service in _services(views)},
    )


def _view(table: Table, directory: Path, stage: str) -> FeatureView:
    columns = [column for column in (*table.columns, *PROVENANCE.get(table.name, ())) if column.name != INSTANT]
    return FeatureView(
        name=table.name,
        entities=[ENTITIES[name] for name in table.key if name != INSTANT],
        ttl=TTL,
        schema=[_field(column) for column in columns],
        source=_source(table, directory),
        online=stage == "published",
        description=table.grain,
        tags={"stage": stage},
        owner=OWNER,
    )


def _field(column: Column) -> Field:
    return Field(name=column.name, dtype=TYPES[column.type], description=column.meaning)


def _source(table: Table, directory: Path) -> FileSource:
    return FileSource(
        name=f"{table.name}_partitions",
        path=str(directory),
        file_format=ParquetFormat(),
        timestamp_field=INSTANT,
        description=f"{table.grain}; one Parquet file per date",
        owner=OWNER,
    )


def _services(views: Mapping[str, FeatureView]) -> list[FeatureService]:
    """One service a consumer."""
    interest, item, attraction = (
        views[name] for name in ("karma_user_interest", "karma_item_embedding", "dicer_user_attraction")
    )
    candidates = attraction[["item_ids", "attraction_release_id"]]
    training = [
        _service(name, [views[view] for view in names], "Training features, point in time")
        for name, names in TRAINING_SERVICES.items()
    ]
    return [
        *training,
        _service(
            "recall_v1", [interest, candidates], "A user's vector for nearest items, and candidates by attraction"
        ),
        _service("pre_ranking_v1", [interest, item], "A user's and an item's vectors of one space, for dot products"),
        _service("ranking_v1", [interest, attraction], "Everything of a user that a ranker takes as features"),
    ]


def _service(name: str, views: list[FeatureView], description: str) -> FeatureService:
    return FeatureService(name=name, features=views, description=description, owner=OWNER)

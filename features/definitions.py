"""Entities, feature views and feature services, derived from the contracts.

`repo.py` shows them to `feast apply`; `store.register` registers them from Python.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, Project, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, FeastType, Float32, Float64, Int64, String, UnixTimestamp

from features.configuration import Configuration
from features.contracts import FEATURES, IDS, PROVENANCE, PUBLISHED, TIMESTAMP, VECTOR, Column, Table
from features.further_views import further_views
from features.registry import registry_config
from features.training_sets import TRAINING_SERVICES

PROJECT, INSTANT = "attractor", "event_timestamp"

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

ENTITIES = {"user_id": ("user", "Who acts"), "item_id": ("item", "What is acted on")}
MODELS = {"karma_user_interest": "karma", "karma_item_embedding": "karma", "dicer_user_attraction": "dicer"}


@dataclass(frozen=True)
class Definitions:
    """Everything that is registered, by name."""

    project: Project
    entities: Mapping[str, Entity]
    views: Mapping[str, FeatureView]
    services: Mapping[str, FeatureService]


def define(configuration: Configuration, *, online: Collection[str] = ()) -> Definitions:
    """The definitions over the tables of one configuration's state.

    `online` names feature tables that a standard online store is to hold, for a project whose store is one; our own
    store serves what is published. Raises ValueError for a name that is no feature table.
    """
    if not set(online) <= set(FEATURES):
        raise ValueError(f"expected some of the feature tables {', '.join(FEATURES)}, got {sorted(online)}")
    maker = _Maker(configuration, registry_config(configuration).owner, online)
    entities = {key: maker.entity(key) for key in ENTITIES}
    further = (view.table for view in further_views(configuration))
    tables = (*FEATURES.values(), *PUBLISHED.values(), *further)
    views = {table.name: maker.view(table, entities) for table in tables}
    return Definitions(
        Project(
            name=PROJECT,
            description="Nightly interest embeddings and attraction lists",
            tags={"refresh": "nightly"},
            owner=maker.owner,
        ),
        {entity.name: entity for entity in entities.values()},
        views,
        {service.name: service for service in maker.services(views)},
    )


@dataclass(frozen=True)
class _Maker:
    """Makes each object with its description, owner and tags: `stage`, `refresh`, `model`, `consumer`, `id`."""

    configuration: Configuration
    owner: str
    online: Collection[str]

    def entity(self, key: str) -> Entity:
        name, description = ENTITIES[key]
        return Entity(
            name=name,
            join_keys=[key],
            value_type=ValueType.STRING,
            description=description,
            tags={"id": "text"},
            owner=self.owner,
        )

    def view(self, table: Table, entities: Mapping[str, Entity]) -> FeatureView:
        columns = [column for column in (*table.columns, *PROVENANCE.get(table.name, ())) if column.name != INSTANT]
        return FeatureView(
            name=table.name,
            entities=[entities[name] for name in table.key if name != INSTANT],
            ttl=TTL,
            schema=[_field(column) for column in columns],
            source=self._source(table),
            online=table.name not in FEATURES or table.name in self.online,
            description=table.grain,
            tags=_tags(table),
            owner=self.owner,
        )

    def services(self, views: Mapping[str, FeatureView]) -> list[FeatureService]:
        """One service a consumer."""
        interest, item, attraction = (views[name] for name in PUBLISHED)
        candidates = attraction[["item_ids", "attraction_release_id"]]
        training = [
            self._service(name, [views[view] for view in names], "training", "Training features, point in time")
            for name, names in TRAINING_SERVICES.items()
        ]
        nearest = "A user's vector for nearest items, and candidates by attraction"
        products = "A user's and an item's vectors of one space, for dot products"
        everything = "Everything of a user that a ranker takes as features"
        return [
            *training,
            self._service("recall_v1", [interest, candidates], "recall", nearest),
            self._service("pre_ranking_v1", [interest, item], "pre-ranking", products),
            self._service("ranking_v1", [interest, attraction], "ranking", everything),
        ]

    def _source(self, table: Table) -> FileSource:
        directory = self.configuration.features if table.name in FEATURES else self.configuration.published
        return FileSource(
            name=f"{table.name}_partitions",
            path=str(directory / table.name),
            file_format=ParquetFormat(),
            timestamp_field=INSTANT,
            description=f"{table.grain}; one Parquet file per date",
            tags=_tags(table),
            owner=self.owner,
        )

    def _service(self, name: str, views: list[FeatureView], consumer: str, description: str) -> FeatureService:
        return FeatureService(
            name=name, features=views, description=description, tags={"consumer": consumer}, owner=self.owner
        )


def _tags(table: Table) -> dict[str, str]:
    stage = "built" if table.name in FEATURES else "published"
    model = {"model": MODELS[table.name]} if table.name in MODELS else {}
    return {"stage": stage, "refresh": "nightly"} | model


def _field(column: Column) -> Field:
    return Field(name=column.name, dtype=TYPES[column.type], description=column.meaning)

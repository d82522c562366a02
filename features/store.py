"""Feast over one configuration's state: opening it, registering in it, and reading it point in time."""

from __future__ import annotations

import datetime as dt
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml
from feast import FeatureStore, RepoConfig
from feast.diff.property_diff import TransitionType
from feast.feature_view import DUMMY_ENTITY
from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import RegistryConfig
from feast.repo_contents import RepoContents

from features.configuration import Configuration, load
from features.definitions import INSTANT, Definitions, define
from features.errors import ConfigurationError
from features.files import replacing_file
from features.lineage import lineage_settings
from features.locks import exclusive
from features.registry import registry_config, registry_name, registry_url
from features.release_storage import releases_config

SETTINGS = Path(__file__).parent / "feature_store.yaml"
SQL_SETTINGS = SETTINGS.with_name("feature_store_sql.yaml")


class ConfiguredRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """Feast's registry file, where attractor.toml says unless a path is given, and replaced in one step."""

    _filepath: Path

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        path = registry_config.path or _configured_file()
        super().__init__(registry_config.model_copy(update={"path": path}), repo_path)

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        """As the parent's, which truncates the file first: a reader at that moment would find nothing registered."""
        with replacing_file(self._filepath) as temporary:
            self._filepath, final = temporary, self._filepath
            try:
                super()._write_registry(registry_proto)
            finally:
                self._filepath = final


def open_store(configuration: Configuration) -> FeatureStore:
    """The feature store of `configuration`, whatever the environment says, but for the URL that [registry] names."""
    url = registry_url(configuration)
    settings = yaml.safe_load((SQL_SETTINGS if url else SETTINGS).read_text(encoding="utf-8"))
    settings["registry"]["path"] = url.render_as_string(hide_password=False) if url else str(configuration.registry)
    settings["online_store"] |= online_store_settings(configuration)
    settings |= lineage_settings(configuration)
    store = FeatureStore(config=RepoConfig(repo_path=SETTINGS.parent, **settings))
    if url:  # Feast never closes the connections of its pool
        weakref.finalize(store.registry, store.registry.write_engine.dispose)
    return store


def _configured_file() -> str:
    configuration = load()
    if registry_config(configuration).url_variable:
        raise ConfigurationError(
            f"{configuration.file}: [registry] keeps the registry in {registry_name(configuration)}, not in a file: "
            f"say `feast -c features -f {SQL_SETTINGS} …`, or FeatureStore(fs_yaml_file=…) in Python"
        )
    return str(configuration.registry)


def online_store_settings(configuration: Configuration) -> dict[str, Any]:
    """Which releases our online store reads, as settings of feature_store.yaml."""
    config = releases_config(configuration)
    if not config.url:
        return {"path": str(configuration.releases)}
    return {"path": config.url, "copies": str(configuration.copies), "recheck_seconds": config.recheck_seconds}


def register(configuration: Configuration) -> dict[str, Any]:
    """What `feast apply` does, from Python; writes nothing when nothing changed. Names of what is registered.

    One process of this machine at a time: two that apply at once can lose the changes of one in a file, and fail on
    each other's rows in a database.
    """
    with exclusive(configuration.state / "registry.lock"):
        return _register(open_store(configuration), define(configuration))


def _register(store: FeatureStore, definitions: Definitions) -> dict[str, Any]:
    entities, views, services = (
        list(named.values()) for named in (definitions.entities, definitions.views, definitions.services)
    )
    sources = [view.batch_source for view in views]
    contents = RepoContents(
        projects=[definitions.project],
        data_sources=sources,
        entities=[*entities, DUMMY_ENTITY],  # as Feast's own reading of a repository has it
        feature_views=views,
        feature_services=services,
        on_demand_feature_views=[],
        stream_feature_views=[],
        label_views=[],
        permissions=[],
    )
    difference, _, _ = store.plan(contents)
    changes = [one for one in difference.feast_object_diffs if one.transition_type != TransitionType.UNCHANGED]
    if changes:
        retired = [one.current_feast_object for one in changes if one.transition_type == TransitionType.DELETE]
        wanted = [definitions.project, *sources, *entities, *views, *services]
        store.apply(wanted, objects_to_delete=retired, partial=False)
    return {"changes": len(changes), "views": sorted(definitions.views), "services": sorted(definitions.services)}


def historical_features(
    store: FeatureStore, service: str, keys: Sequence[tuple[dt.datetime, Mapping[str, pa.Array]]]
) -> pa.Table:
    """The features of `service` for the entities of each instant, as of it, in no order.

    `keys` holds, for each instant, the ids of each entity's key column. The columns are joined each on its own
    key, so ids of different entities share rows, k-th with k-th, and the shorter one is filled with nulls.
    Columns are named `<view>__<feature>`, beside the keys and `event_timestamp`.
    """
    frames = [_entity_frame(instant, ids) for instant, ids in keys]
    entities = pd.concat(frames, ignore_index=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)  # of ibis, which calls DuckDB
        job = store.get_historical_features(entities, store.get_feature_service(service), full_feature_names=True)
        return job.to_arrow()


def _entity_frame(instant: dt.datetime, ids: Mapping[str, pa.Array]) -> pd.DataFrame:
    columns = {name: pd.Series(values.to_pylist(), dtype=object) for name, values in ids.items()}
    frame = pd.DataFrame(columns)
    frame[INSTANT] = pd.Timestamp(instant)
    return frame.where(frame.notna(), None)

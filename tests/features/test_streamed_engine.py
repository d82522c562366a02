"""Materialisation in bounded memory: Feast's own result, batch by batch, however many users there are."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.offline_stores.dask import DaskOfflineStore
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.online_stores.online_store import OnlineStore
from feast.types import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from features.configuration import Configuration
from features.contracts import FEATURES, TIMESTAMP
from features.definitions import define
from features.errors import ConfigurationError
from features.partitions import partition_path, write_rows
from features.streamed_engine import StreamedComputeEngine, StreamedComputeEngineConfig
from tests.history_rows import histories
from tests.redis_server import loopback_redis

NIGHT = dt.date(2026, 3, 1)
MIDNIGHT = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
STREAMED = StreamedComputeEngineConfig().type
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


class Recorder(OnlineStore):  # type: ignore[misc]
    """An online store that keeps each batch as `{user: (value, instant)}`, or forgets it."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.keeps, self.sizes, self.rows = keeps, list[int](), list[tuple[str, int, dt.datetime]]()

    def online_write_batch(self, config: RepoConfig, table: FeatureView, data: list[Any], progress: Any) -> None:
        self.sizes.append(len(data))
        if self.keeps:
            for key, row, at, _ in data:
                self.rows.append((key.entity_values[0].string_val, row["n"].int64_val, at.replace(tzinfo=dt.UTC)))

    def online_read(self, *arguments: Any) -> list[Any]:
        return []

    def update(self, *arguments: Any) -> None:
        """There is nothing to set up."""

    def teardown(self, *arguments: Any) -> None:
        """There is nothing to remove."""


class World:
    """A view of one number a user, over a Parquet file that each example replaces."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "counts.parquet"
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
        self.write([("nobody", MIDNIGHT, 0)])
        source = FileSource(name="counts", path=str(self.file), timestamp_field="at")
        schema = [Field(name="n", dtype=Int64)]
        self.view = FeatureView(name="counts", entities=[user], source=source, schema=schema)
        self.store = store_at(folder, {"type": "sqlite", "path": str(folder / "online.db")})
        self.store.apply([user, self.view])

    def write(self, rows: list[tuple[str, dt.datetime, int]]) -> None:
        columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), KINDS, strict=True)]
        pq.write_table(pa.table(columns, ["user_id", "at", "n"]), self.file)

    def materialise(self, online: Recorder, start: dt.datetime, end: dt.datetime, *, batch: int) -> None:
        config = self.store.config.model_copy(deep=True)
        config.materialization_config.online_write_batch_size = batch
        engine = StreamedComputeEngine(repo_config=config, offline_store=DuckDBOfflineStore(), online_store=online)
        view = self.store.get_feature_view("counts")
        engine.materialize(self.store.registry, MaterializationTask(self.store.project, view, start, end))


KINDS = (pa.string(), TIMESTAMP, pa.int64())


def store_at(folder: Path, online: dict[str, Any], engine: str = STREAMED) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project="streamed",
            provider="local",
            registry=str(folder / f"registry-{engine}.db"),
            offline_store={"type": "duckdb"},
            online_store=online,
            batch_engine={"type": engine},
            materialization={"online_write_batch_size": 2},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("counts"))


hours = st.integers(0, 6)


@given(
    counts=st.dictionaries(st.tuples(st.sampled_from("abcdef"), hours), st.integers(0, 99), min_size=1),
    window=st.tuples(hours, hours).map(sorted),
    batch=st.integers(1, 4),
)
@settings(max_examples=10, deadline=None)
def test_the_latest_row_of_each_key_in_the_window_in_small_batches(
    world: World, counts: dict[tuple[str, int], int], window: list[int], batch: int
) -> None:
    world.write([(user, MIDNIGHT + hour * HOUR, n) for (user, hour), n in counts.items()])
    start, end = window
    online = Recorder()
    world.materialise(online, MIDNIGHT + start * HOUR, MIDNIGHT + end * HOUR, batch=batch)
    latest = {user: (n, hour) for (user, hour), n in sorted(counts.items()) if start <= hour <= end}
    assert {user: (n, at) for user, n, at in online.rows} == {
        user: (n, MIDNIGHT + hour * HOUR) for user, (n, hour) in latest.items()
    }
    assert len(online.rows) == len(latest)
    assert max(online.sizes, default=0) <= batch


def test_four_times_the_users_take_no_more_memory(world: World) -> None:
    """What Python holds at most, with batches of one size."""

    def peak(users: int) -> int:
        world.write([(f"user {number}", MIDNIGHT, number) for number in range(users)])
        online = Recorder(keeps=False)
        tracemalloc.start()
        world.materialise(online, MIDNIGHT, MIDNIGHT, batch=500)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(online.sizes) == users
        return held

    peak(500)  # what is imported and kept at first
    assert peak(8000) < 1.3 * peak(2000)


@pytest.fixture(scope="module")
def histories_at(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    folder = tmp_path_factory.mktemp("histories")
    configuration = Configuration(folder / "attractor.toml", folder / "state", {})
    write_rows(partition_path(configuration, "user_history", NIGHT), FEATURES["user_history"], [histories(7, MIDNIGHT)])
    return configuration


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with loopback_redis(tmp_path_factory.mktemp("redis")) as port:
        yield {"type": "redis", "connection_string": f"127.0.0.1:{port}"}


def test_the_same_histories_as_feasts_own_engine_in_sqlite_and_redis(
    histories_at: Configuration, redis: dict[str, Any], tmp_path: Path
) -> None:
    told = []
    for engine, online in (
        ("local", {"type": "sqlite", "path": str(tmp_path / "theirs.db")}),
        (STREAMED, {"type": "sqlite", "path": str(tmp_path / "ours.db")}),
        (STREAMED, redis),
    ):
        store, definitions = store_at(tmp_path, online, engine), define(histories_at, online=["user_history"])
        store.apply([definitions.entities["user"], definitions.views["user_history"]])
        store.materialize(MIDNIGHT - HOUR, MIDNIGHT, ["user_history"])
        names = [f"user_history:{field.name}" for field in store.get_feature_view("user_history").features]
        rows = [{"user_id": f"user {number}"} for number in range(8)]
        told.append(store.get_online_features(names, rows).to_dict())
    theirs, ours, in_redis = told
    assert ours == theirs
    assert in_redis == theirs
    assert theirs["history_length"] == [*range(1, 8), None]
    assert theirs["event_times"][1] == [MIDNIGHT - 2 * HOUR, MIDNIGHT - HOUR]


def test_what_cannot_be_streamed_is_refused(world: World) -> None:
    online, config = Recorder(), world.store.config
    checked = world.store.get_feature_view("counts")
    checked.enable_validation = True
    plain = world.store.get_feature_view("counts")
    for view, offline in ((checked, DuckDBOfflineStore()), (plain, DaskOfflineStore())):
        engine = StreamedComputeEngine(repo_config=config, offline_store=offline, online_store=online)
        with pytest.raises(ConfigurationError, match="expected a plain feature view on the duckdb offline store"):
            engine.materialize(world.store.registry, MaterializationTask("streamed", view, MIDNIGHT, MIDNIGHT))
    assert not online.sizes

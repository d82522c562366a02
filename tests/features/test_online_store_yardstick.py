"""Feast's own expectations of an online store, met by a release: what its SQLite store answers is the reference.

The cases are those of Feast's universal online-store tests. The same frames go into SQLite row by row and into a
release by `stage` and `publish`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, RequestSource
from feast.errors import FeatureNameCollisionError, FeatureViewNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    Map,
    PdfBytes,
    ScalarMap,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
    ZonedTimestamp,
)
from feast.value_type import ValueType

from export import release
from features.errors import ContractViolation
from features.feast_views import latest_rows, table_of
from features.releases import open_releases
from tests.scored_nights import about, configuration_at, tables, write_scored

NIGHT = dt.date(2026, 3, 1)
AT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
EARLY, LATE = (pd.Timestamp(second, unit="s", tz="UTC") for second in (1646263500, 1646263600))
ONE = uuid.UUID("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:feast", "ignore::FutureWarning:feast", "ignore::RuntimeWarning:feast"
)

VALUES: dict[str, tuple[Any, Any]] = {
    "a_bool": (Bool, True),
    "a_bytes": (Bytes, b"\x00\xff"),
    "a_pdf": (PdfBytes, b"%PDF"),
    "an_image": (ImageBytes, b"\x89PNG"),
    "a_string": (String, "żółw 🐢"),
    "an_int32": (Int32, -(2**31)),
    "an_int64": (Int64, 2**63 - 1),
    "a_float32": (Float32, 0.5),
    "a_float64": (Float64, 1e300),
    "an_instant": (UnixTimestamp, EARLY.to_pydatetime()),
    "a_zoned_instant": (ZonedTimestamp, EARLY.to_pydatetime()),
    "a_uuid": (Uuid, ONE),
    "a_time_uuid": (TimeUuid, ONE),
    "a_decimal": (Decimal, decimal.Decimal("12.340")),
    "a_json": (Json, '{"a": [1, null]}'),
    "a_map": (Map, {"a": 1, "b": "two"}),
    "a_scalar_map": (ScalarMap, {1: "one", 2: "two"}),
    "a_struct": (Struct({"street": String, "number": Int64}), {"street": "x", "number": 3}),
    "bools": (Array(Bool), [True, False]),
    "bytes_list": (Array(Bytes), [b"", b"\x01"]),
    "strings": (Array(String), ["", "b"]),
    "int32s": (Array(Int32), [1, -2]),
    "int64s": (Array(Int64), [2**40, 0]),
    "float32s": (Array(Float32), [0.25, -1.0]),
    "float64s": (Array(Float64), [1e-300, 2.0]),
    "instants": (Array(UnixTimestamp), [EARLY.to_pydatetime(), LATE.to_pydatetime()]),
    "uuids": (Array(Uuid), [ONE]),
    "decimals": (Array(Decimal), [decimal.Decimal("0.1")]),
    "maps": (Array(Map), [{"a": 1}, {"b": "c"}]),
    "structs": (Array(Struct({"n": Int64})), [{"n": 1}, {"n": 2}]),
    "nested": (Array(Array(Int64)), [[1, 2], [3]]),
    "int_set": (Set(Int64), {7}),
    "string_set": (Set(String), {"x"}),
    "float_set": (Set(Float64), {0.5}),
    "bool_set": (Set(Bool), {True}),
    "uuid_set": (Set(Uuid), {ONE}),
}
"""A Feast type and a value of it, for every type Feast has a protobuf field for."""

DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
CUSTOMER = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
LOCATION = Entity(name="location", join_keys=["location_id"], value_type=ValueType.INT32)


def view(name: str, entities: list[Entity], fields: dict[str, Any], folder: Path) -> FeatureView:
    """A feature view over a source that nothing reads: frames are given."""
    source = FileSource(name=f"{name}_source", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp")
    keys = [
        Field(name=entity.join_key, dtype={"INT64": Int64, "INT32": Int32}.get(entity.value_type.name, String))
        for entity in entities
    ]
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields.items()]
    return FeatureView(name=name, entities=entities, schema=[*keys, *schema], source=source, ttl=dt.timedelta(0))


def frames() -> dict[str, pd.DataFrame]:
    """Rows of each view: a full row, an old row of its key, and one of nulls."""
    full = {name: value for name, (_, value) in VALUES.items()}
    nulls = dict.fromkeys(VALUES)
    drivers = [
        {"driver_id": 1, "conv_rate": 0.1, "avg_daily_trips": 1, "event_timestamp": EARLY},
        {"driver_id": 1, "conv_rate": 0.5, "avg_daily_trips": 4, "event_timestamp": LATE},
        {"driver_id": 2, "conv_rate": 0.3, "avg_daily_trips": 5, "event_timestamp": EARLY},
        {"driver_id": -(2**62), "conv_rate": 0.7, "avg_daily_trips": 6, "event_timestamp": EARLY},
    ]
    kinds = [{"driver_id": 1, "event_timestamp": LATE, **full}, {"driver_id": 2, "event_timestamp": EARLY, **nulls}]
    pairs = [("a", 1, True), ("a", 2, False), ("b", 1, False)]
    orders = [
        {"customer_id": customer, "driver_id": driver, "order_is_success": won, "event_timestamp": EARLY}
        for customer, driver, won in pairs
    ]
    return {
        "driver_stats": pd.DataFrame(drivers),
        "kinds": pd.DataFrame(kinds, dtype=object),
        "customers": pd.DataFrame({"customer_id": ["a", "c"], "balance": [1.5, 2.5], "event_timestamp": [EARLY, LATE]}),
        "orders": pd.DataFrame(orders),
        "temperatures": pd.DataFrame({"location_id": [1, 2], "temperature": [20, 30], "event_timestamp": [EARLY] * 2}),
        "everywhere": pd.DataFrame({"num_rides": [100], "event_timestamp": [LATE]}),
    }


def definitions(folder: Path) -> list[Any]:
    """Entities, views of one, two and no entities, a view on demand, and services."""
    stats = view("driver_stats", [DRIVER], {"conv_rate": Float32, "avg_daily_trips": Int32}, folder)
    locations = view("temperatures", [LOCATION], {"temperature": Int32}, folder)
    views = [
        stats,
        view("kinds", [DRIVER], {name: dtype for name, (dtype, _) in VALUES.items()}, folder),
        view("customers", [CUSTOMER], {"balance": Float64}, folder),
        view("orders", [CUSTOMER, DRIVER], {"order_is_success": Bool}, folder),
        locations,
        view("everywhere", [], {"num_rides": Int32}, folder),
    ]
    asked = RequestSource(name="asked", schema=[Field(name="added", dtype=Int32)])

    @on_demand_feature_view(sources=[stats, asked], schema=[Field(name="rate_plus", dtype=Float64)])
    def plus(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"rate_plus": inputs["conv_rate"].astype(float) + inputs["added"]})

    service = FeatureService(name="driving", features=[stats[["conv_rate"]], plus])
    ends = [locations.with_name(end).with_join_key_map({"location_id": f"{end}_id"}) for end in ("origin", "target")]
    return [DRIVER, CUSTOMER, LOCATION, *views, plus, service, FeatureService(name="trip", features=ends)]


def open_at(folder: Path, online: dict[str, Any], registry: str) -> FeatureStore:
    path = f"sqlite:///{folder / 'registry.sqlite'}" if registry == "sql" else str(folder / "registry.db")
    return FeatureStore(
        config=RepoConfig(
            project="yardstick",
            provider="local",
            registry={"registry_type": registry, "path": path},
            offline_store={"type": "duckdb"},
            online_store=online,
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )


def publish(store: FeatureStore, folder: Path, date: dt.date) -> str:
    """The frames as one release, beside Attractor's own views."""
    configuration, columns = configuration_at(folder), tables(seed=date.toordinal())
    scored = write_scored(configuration.scored / date.isoformat(), columns)
    views = [store.get_feature_view(name) for name in frames()]
    for one in views:
        pq.write_table(latest_rows(one, frames()[one.name]), scored / f"{one.name}.parquet")
    staged = release.stage(configuration, date, scored, about(date, columns), also=[table_of(one) for one in views])
    release.publish(configuration, staged, published_at=AT)
    return staged


def write_into_sqlite(store: FeatureStore, name: str, frame: pd.DataFrame) -> None:
    """What `write_to_online_store` comes to; itself it passes through Arrow, which has no type for every value."""
    registered = store.get_feature_view(name)
    fields = [*registered.entity_columns, *registered.features]
    frame = frame.assign(**{DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL})
    values = {
        field.name: python_values_to_proto_values(frame[field.name].tolist(), field.dtype.to_value_type())
        for field in fields
    }
    keys = [field.name for field in registered.entity_columns]
    data = []
    for row, instant in enumerate(one.to_pydatetime() for one in frame["event_timestamp"]):
        key = EntityKey(join_keys=keys, entity_values=[values[name][row] for name in keys])
        data.append((key, {field.name: values[field.name][row] for field in registered.features}, instant, None))
    store._get_provider().online_write_batch(store.config, registered, data, None)


@pytest.fixture(scope="module", params=["file", "sql"])
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, ...]:
    """Releases and SQLite under the same definitions, with registries of both kinds."""
    folder = tmp_path_factory.mktemp("yardstick")
    (folder / "sqlite").mkdir()
    online = {"type": "features.online_store.ReleaseOnlineStore", "path": str(configuration_at(folder).releases)}
    ours = open_at(folder, online, request.param)
    theirs = open_at(folder / "sqlite", {"type": "sqlite", "path": str(folder / "online.db")}, request.param)
    for store in (ours, theirs):
        store.apply(definitions(folder))
    publish(ours, folder, NIGHT)
    for name, frame in frames().items():
        write_into_sqlite(theirs, name, frame)
    return ours, theirs


def agreed(stores: tuple[FeatureStore, ...], features: Any, rows: list[dict[str, Any]], **options: Any) -> Any:
    """The answer of the release, after checking it against SQLite's: values, statuses and event timestamps."""
    answers = []
    for store in stores:
        wanted = store.get_feature_service(features) if isinstance(features, str) else features
        answers.append(store.get_online_features(wanted, rows, **options))
    ours, theirs = answers
    assert ours.to_dict(include_event_timestamps=True) == theirs.to_dict(include_event_timestamps=True)
    assert [list(one.statuses) for one in ours.proto.results] == [list(one.statuses) for one in theirs.proto.results]
    return ours


@pytest.mark.parametrize("name", VALUES)
def test_every_value_type_is_answered_as_by_sqlite_nulls_included(stores: Any, name: str) -> None:
    answer = agreed(stores, [f"kinds:{name}"], [{"driver_id": 1}, {"driver_id": 2}, {"driver_id": 3}])
    ours, theirs = (store.get_online_features([f"kinds:{name}"], [{"driver_id": 1}]).proto for store in stores)
    assert ours.results[1].values == theirs.results[1].values
    values = answer.to_dict()[name]
    assert values[0] is not None
    assert values[1:] == [None, None]


@pytest.mark.parametrize("full_feature_names", [False, True])
def test_views_of_several_entities_in_one_request(stores: Any, full_feature_names: bool) -> None:
    features = [
        "driver_stats:conv_rate",
        "driver_stats:avg_daily_trips",
        "customers:balance",
        "orders:order_is_success",
        "everywhere:num_rides",
    ]
    pairs = [("a", 1), ("a", 2), ("c", 1), ("nobody", 2), ("b", 99), ("a", -(2**62)), ("a", 1)]
    rows = [{"customer_id": customer, "driver_id": driver} for customer, driver in pairs]
    answer = agreed(stores, features, rows, full_feature_names=full_feature_names).to_dict()
    prefix = "orders__" if full_feature_names else ""
    assert answer[f"{prefix}order_is_success"] == [True, False, None, None, None, None, True]
    many = agreed(stores, features, rows * 30, full_feature_names=full_feature_names).to_dict()
    assert many == {name: values * 30 for name, values in answer.items()}


def test_event_timestamps_are_those_of_the_rows(stores: Any) -> None:
    answer = agreed(stores, ["driver_stats:conv_rate"], [{"driver_id": 1}, {"driver_id": 2}])
    frame = answer.to_df(include_event_timestamps=True)
    assert frame["conv_rate__ts"].tolist() == [1646263600, 1646263500]
    assert frame["conv_rate"].tolist() == pytest.approx([0.5, 0.3])


def test_the_asynchronous_read_gives_the_same_whatever_the_view(stores: Any) -> None:
    ours, _ = stores
    features, rows = ["kinds:float32s", "driver_stats:conv_rate"], [{"driver_id": 2}, {"driver_id": 1}]

    async def read() -> Any:
        await ours.initialize()
        answer = await ours.get_online_features_async(features, rows)
        await ours.close()
        return answer

    assert asyncio.run(read()).to_dict() == agreed(stores, features, rows).to_dict()


def test_views_on_demand_are_computed_on_what_was_read(stores: Any) -> None:
    rows = [{"driver_id": 1, "added": 100}, {"driver_id": 2, "added": 0}]
    answer = agreed(stores, "driving", rows).to_dict()
    assert answer["rate_plus"] == pytest.approx([100.5, 0.3])


def test_one_view_under_two_names_with_other_join_keys(stores: Any) -> None:
    rows = [{"origin_id": 1, "target_id": 2}, {"origin_id": 2, "target_id": 9}]
    answer = agreed(stores, "trip", rows, full_feature_names=True).to_dict()
    assert answer["origin__temperature"] == [20, 30]
    assert answer["target__temperature"] == [30, None]
    for store in stores:
        with pytest.raises(FeatureNameCollisionError):
            store.get_online_features(store.get_feature_service("trip"), rows)


def test_requests_that_cannot_be_answered_fail_as_with_sqlite(stores: Any) -> None:
    cases: list[tuple[type[Exception], list[str], list[dict[str, Any]]]] = [
        (KeyError, ["driver_stats:balance"], [{"driver_id": 1}]),
        (FeatureViewNotFoundException, ["nothing:balance"], [{"driver_id": 1}]),
        (KeyError, ["driver_stats:conv_rate"], [{"customer_id": "a"}]),
        (ValueError, ["driver_stats:conv_rate"], [{"driver_id": 1}, {"customer_id": "a"}]),
    ]
    for error, features, rows in cases:
        for store in stores:
            with pytest.raises(error):
                store.get_online_features(features, rows)


def test_a_composite_key_asked_for_by_half_is_named(stores: Any) -> None:
    with pytest.raises(ContractViolation, match="customer_id, driver_id"):
        stores[0].get_online_features(["orders:order_is_success"], [{"driver_id": 1}])


def test_versions_of_views_are_told_on_request(stores: Any) -> None:
    for store in stores:
        answer = store.get_online_features(
            ["driver_stats:conv_rate", "everywhere:num_rides"],
            [{"driver_id": 1}],
            include_feature_view_version_metadata=True,
        )
        told = [one.name for one in answer.proto.metadata.feature_view_metadata]
        assert told == ["driver_stats", "everywhere"]


def test_a_view_whose_type_changed_since_the_release_is_named(tmp_path: Path) -> None:
    online = {"type": "features.online_store.ReleaseOnlineStore", "path": str(configuration_at(tmp_path).releases)}
    store = open_at(tmp_path, online, "file")
    store.apply(definitions(tmp_path))
    publish(store, tmp_path, NIGHT)
    store.apply([DRIVER, view("driver_stats", [DRIVER], {"conv_rate": String}, tmp_path)])
    with pytest.raises(ContractViolation, match="conv_rate"):
        store.get_online_features(["driver_stats:conv_rate"], [{"driver_id": 1}])


def test_embeddings_of_a_declared_length_are_read_in_bulk_by_any_key(tmp_path: Path) -> None:
    online = {"type": "features.online_store.ReleaseOnlineStore", "path": str(configuration_at(tmp_path).releases)}
    store = open_at(tmp_path, online, "file")
    declared = view("kinds", [DRIVER], {}, tmp_path)
    declared.features.append(Field(name="place", dtype=Array(Float32), vector_length=2))
    store.apply([DRIVER, declared])
    registered = store.get_feature_view("kinds")
    frame = pd.DataFrame({"driver_id": [7, 3], "place": [[1.0, 2.0], [3.0, 4.0]], "event_timestamp": [EARLY, LATE]})
    configuration, columns = configuration_at(tmp_path), tables()
    scored = write_scored(configuration.scored / "one", columns)
    pq.write_table(latest_rows(registered, frame), scored / "kinds.parquet")
    staged = release.stage(configuration, NIGHT, scored, about(NIGHT, columns), also=[table_of(registered)])
    release.publish(configuration, staged, published_at=AT)
    block, found = open_releases(configuration.releases).current().embeddings("kinds", "place", [3, 4, 7])
    assert block.tolist() == [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
    assert found.tolist() == [True, False, True]
    answer = store.get_online_features(["kinds:place"], [{"driver_id": 3}, {"driver_id": 4}]).to_dict()
    assert answer["place"] == [[3.0, 4.0], None]

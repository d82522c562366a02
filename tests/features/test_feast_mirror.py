"""A release mirrored into standard Feast online stores: SQLite, and a real Redis on loopback."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore
from redis import Redis

from export import release
from features.configuration import Configuration
from features.errors import ConfigurationError
from features.feast_mirror import mirror, open_target
from features.releases import open_releases
from features.store import open_store, register
from tests.redis_server import loopback_redis
from tests.scored_nights import configuration_at, publish_night, tables

NIGHT = dt.date(2026, 3, 10)
DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)
SERVICES = ("recall_v1", "ranking_v1")


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with loopback_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(params=["sqlite", "redis"])
def target(request: pytest.FixtureRequest, tmp_path: Path, redis_port: int) -> Path:
    """The feature_store.yaml of a team that has a standard store."""
    if request.param == "redis":
        with Redis(port=redis_port) as client:
            client.flushall()
        online = {"type": "redis", "connection_string": f"127.0.0.1:{redis_port}"}
    else:
        online = {"type": "sqlite", "path": str(tmp_path / "online.db")}
    file = tmp_path / "team" / "feature_store.yaml"
    file.parent.mkdir()
    settings = {
        "project": "team",
        "provider": "local",
        "registry": str(tmp_path / "team-registry.db"),
        "online_store": online,
        "entity_key_serialization_version": 3,
    }
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def mirrored(configuration: Configuration, target: Path, *, at: dt.datetime, batch_rows: int = 7) -> list[int]:
    """Mismatches of each view when the live release is mirrored."""
    live = open_releases(configuration.releases).current()
    return [one.mismatches for one in mirror(configuration, live, target, at=at, batch_rows=batch_rows)]


def answer(store: FeatureStore, service: str, users: list[str]) -> dict[str, list[object]]:
    rows = [{"user_id": user} for user in users]
    told: dict[str, list[object]] = store.get_online_features(store.get_feature_service(service), rows).to_dict()
    return told


def test_a_mirror_answers_as_the_releases_do(configuration: Configuration, target: Path) -> None:
    publish_night(configuration, NIGHT, tables(users=23))
    live = open_releases(configuration.releases).current()
    told = mirror(configuration, live, target, at=NOON, batch_rows=7)
    assert [(one.view, one.rows, one.compared, one.mismatches, one.emptied) for one in told] == [
        ("karma_user_interest", 23, 23, 0, 0),
        ("karma_item_embedding", 12, 12, 0, 0),
        ("dicer_user_attraction", 23, 23, 0, 0),
    ]
    register(configuration)
    ours, theirs = open_store(configuration), open_target(target)
    users = [f"user {number}" for number in range(23)] + ["nobody"]
    for service in SERVICES:
        assert answer(theirs, service, users) == answer(ours, service, users)


def test_who_left_is_not_served_by_the_next_mirror(configuration: Configuration, target: Path) -> None:
    publish_night(configuration, NIGHT, tables(users=20, seed=1))
    assert mirrored(configuration, target, at=NOON) == [0, 0, 0]
    publish_night(configuration, NIGHT + DAY, tables(users=17, seed=2))
    live = open_releases(configuration.releases).current()
    told = {one.view: one for one in mirror(configuration, live, target, at=NOON + DAY, batch_rows=2)}
    assert (told["karma_user_interest"].emptied, told["karma_user_interest"].compared) == (3, 20)
    assert sum(one.mismatches for one in told.values()) == 0
    values = answer(open_target(target), "ranking_v1", ["user 19", "user 16"])
    assert {name: value[0] for name, value in values.items() if name != "user_id"} == dict.fromkeys(
        name for name in values if name != "user_id"
    )
    assert values["release_id"][1] == live.release_id


def test_a_rollback_and_a_corrected_night_reach_the_mirror(configuration: Configuration, target: Path) -> None:
    first = publish_night(configuration, NIGHT, tables(seed=1))
    second = publish_night(configuration, NIGHT, tables(seed=2))
    assert mirrored(configuration, target, at=NOON) == [0, 0, 0]
    release.rollback(configuration, published_at=NOON)
    assert mirrored(configuration, target, at=NOON + DAY) == [0, 0, 0]
    assert answer(open_target(target), "ranking_v1", ["user 3"])["release_id"] == [first]
    assert first != second


def test_a_store_that_keeps_its_rows_is_found_out(
    configuration: Configuration, target: Path, request: pytest.FixtureRequest
) -> None:
    """Redis keeps rows of a later timestamp: a mirror of an earlier instant writes nothing there, and is told."""
    publish_night(configuration, NIGHT, tables(seed=1))
    assert mirrored(configuration, target, at=NOON) == [0, 0, 0]
    publish_night(configuration, NIGHT + DAY, tables(seed=2))
    ignored = mirrored(configuration, target, at=NOON - DAY)
    assert ignored == ([20, 12, 20] if "redis" in request.node.name else [0, 0, 0])


def test_a_killed_mirror_forgets_nobody(
    configuration: Configuration, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever a mirror wrote before it died is set to null by the next if that release has not got them."""
    publish_night(configuration, NIGHT, tables(users=20, seed=1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("features.feast_mirror._Writer._differing", _interrupted)
        mirrored(configuration, target, at=NOON)
    publish_night(configuration, NIGHT + DAY, tables(users=16, seed=2))
    assert mirrored(configuration, target, at=NOON + DAY) == [0, 0, 0]
    assert answer(open_target(target), "ranking_v1", ["user 19"])["item_ids"] == [None]
    (known,) = (configuration.state / "mirrors").glob("*/karma_user_interest.parquet")
    assert pq.read_table(known).num_rows == 16


def _interrupted(*_: object) -> int:
    raise KeyboardInterrupt


def test_only_standard_stores_are_targets(configuration: Configuration, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"expected the feature_store\.yaml"):
        open_target(tmp_path / "feature_store.yaml")
    file = tmp_path / "feature_store.yaml"
    settings = {"project": "team", "provider": "local", "registry": str(tmp_path / "registry.db")}
    settings["online_store"] = {"type": "features.online_store.ReleaseOnlineStore", "path": str(tmp_path)}  # type: ignore[assignment]
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigurationError, match="reads releases already"):
        open_target(file)

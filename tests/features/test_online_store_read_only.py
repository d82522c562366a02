"""Every way to write through Feast is refused with what to do instead, and none of them deletes a release."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from feast import FeatureStore
from feast.data_source import PushMode, PushSource
from feast.feature_server import get_app

from features.configuration import Configuration
from features.contracts import PROVENANCE
from features.definitions import define
from features.online_store import ReadOnly
from features.releases import open_releases
from features.store import open_store, register
from tests.scored_nights import configuration_at, publish_night

NIGHT = dt.date(2026, 3, 1)
VIEW = "karma_user_interest"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning:feast")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    configuration = configuration_at(tmp_path_factory.mktemp("read_only"))
    register(configuration)
    publish_night(configuration, NIGHT)
    return configuration


@pytest.fixture
def store(configuration: Configuration) -> FeatureStore:
    return open_store(configuration)


def rows() -> pd.DataFrame:
    instant = pd.Timestamp("2026-03-01", tz="UTC")
    told = {column.name: ["x"] for column in PROVENANCE[VIEW] if column.name != "published_at"}
    vector = {"user_id": ["user 1"], "interest_embedding": [[0.0] * 8]}
    return pd.DataFrame({**vector, "event_timestamp": [instant], **told, "published_at": [instant]})


def still_served(configuration: Configuration) -> bool:
    release = open_releases(configuration.releases).current()
    _, found = release.embeddings(VIEW, "interest_embedding", ["user 1"])
    return bool(found.all())


def test_writing_rows(store: FeatureStore, configuration: Configuration) -> None:
    with pytest.raises(ReadOnly, match="attractor publish"):
        store.write_to_online_store(VIEW, df=rows())
    with pytest.raises(ReadOnly, match="attractor publish"):
        asyncio.run(store.write_to_online_store_async(VIEW, df=rows()))
    assert still_served(configuration)


def test_materialising(store: FeatureStore, configuration: Configuration) -> None:
    partition = configuration.published / VIEW / "date=2026-03-01.parquet"
    assert partition.is_file()
    begin = dt.datetime(2026, 2, 28, tzinfo=dt.UTC)
    with pytest.raises(ReadOnly, match="attractor night"):
        store.materialize(begin, begin + dt.timedelta(days=2), feature_views=[VIEW])
    assert still_served(configuration)


def test_pushing_through_the_sdk_and_the_server(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    register(configuration)
    publish_night(configuration, NIGHT)
    store = open_store(configuration)
    view = store.get_feature_view(VIEW)
    pushed = PushSource(name="pushed", batch_source=view.batch_source)
    view.stream_source = pushed
    store.apply([pushed, view])
    with pytest.raises(ReadOnly, match="attractor publish"):
        store.push("pushed", rows(), to=PushMode.ONLINE)
    client = TestClient(get_app(store), raise_server_exceptions=False)
    columns = {name: values.astype(str).tolist() for name, values in rows().items() if name != "interest_embedding"}
    columns |= {"interest_embedding": [[0.0] * 8], "published_at": [1]}
    for path, body in (
        ("/push", {"push_source_name": "pushed", "df": columns, "to": "online"}),
        ("/write-to-online-store", {"feature_view_name": VIEW, "df": columns}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code >= 400
        assert "attractor publish" in answer.text, path
    assert still_served(configuration)


def test_applying_planning_and_tearing_down_leave_releases_alone(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    register(configuration)
    publish_night(configuration, NIGHT)
    files = sorted(path for path in configuration.releases.rglob("*") if path.is_file())
    store = open_store(configuration)
    known = define(configuration)
    store.apply([], objects_to_delete=[known.views["dicer_user_attraction"]], partial=False)
    assert register(configuration)["changes"] >= 0
    open_store(configuration).teardown()
    assert sorted(path for path in configuration.releases.rglob("*") if path.is_file()) == files
    assert still_served(configuration)
    register(configuration)
    answer = open_store(configuration).get_online_features([f"{VIEW}:release_date"], [{"user_id": "user 1"}])
    assert answer.to_dict()["release_date"] == ["2026-03-01"]

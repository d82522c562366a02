"""Feast's ordinary online reads over releases: one night a request, unknown is NOT_FOUND, writing is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from export import release
from features.configuration import Configuration
from features.contracts import PROVENANCE
from features.errors import ContractViolation, MissingInput
from features.online_store import ReadOnly, ReleaseOnlineStore
from features.store import open_store, register
from tests.scored_nights import configuration_at, publish_night, stage_night, tables

NIGHT = dt.date(2026, 3, 1)
DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
INTEREST = "karma_user_interest:interest_embedding"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::FutureWarning:feast")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """Two nights are published; the second is live."""
    configuration = configuration_at(tmp_path_factory.mktemp("served"))
    register(configuration)
    publish_night(configuration, NIGHT)
    publish_night(configuration, NIGHT + DAY, tables(users=30))
    return configuration


@pytest.fixture(scope="module")
def store(configuration: Configuration) -> FeatureStore:
    return open_store(configuration)


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"user_id": user} for user in ids]


def statuses(response: Any) -> dict[str, list[str]]:
    names = response.proto.metadata.feature_names.val
    results = response.proto.results
    return {name: [FieldStatus.Name(s) for s in one.statuses] for name, one in zip(names, results, strict=True)}


def test_a_service_answers_with_the_release_and_its_date(store: FeatureStore, configuration: Configuration) -> None:
    columns = tables(users=30)
    service = store.get_feature_service("ranking_v1")
    response = store.get_online_features(features=service, entity_rows=rows("user 8", "stranger", "user 3", "user 8"))
    answer = response.to_dict()
    scored = columns["karma_user_interest"]["interest_embedding"]
    for place, user in ((0, 8), (2, 3), (3, 8)):
        assert answer["interest_embedding"][place] == pytest.approx(scored[user].tolist())
        listed = columns["dicer_user_attraction"]
        row = listed["user_id"].index(f"user {user}")
        assert answer["item_ids"][place] == listed["item_ids"][row]
        assert answer["scores"][place] == listed["scores"][row]
    live = release.status(configuration)["live"]["release_id"]
    assert answer["release_id"] == answer["attraction_release_id"] == [live, None, live, live]
    assert answer["release_date"] == ["2026-03-02", None, "2026-03-02", "2026-03-02"]
    assert answer["space_id"][0] == "space-1"
    assert {
        column.name for view in ("karma_user_interest", "dicer_user_attraction") for column in PROVENANCE[view]
    } <= (set(answer))
    assert answer["published_at"][0] == NOON


def test_an_unknown_user_is_not_found_and_every_row_is_dated(store: FeatureStore) -> None:
    response = store.get_online_features([INTEREST], rows("stranger", "user 1"))
    assert statuses(response)["interest_embedding"] == ["NOT_FOUND", "PRESENT"]
    stamps = response.proto.results[1].event_timestamps
    assert stamps[1].ToDatetime(tzinfo=dt.UTC) == dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    nobody = store.get_online_features([INTEREST], rows("stranger", "another"))
    assert statuses(nobody)["interest_embedding"] == ["NOT_FOUND", "NOT_FOUND"]


def test_users_and_items_in_one_request(store: FeatureStore) -> None:
    service = store.get_feature_service("pre_ranking_v1")
    pairs = [{"user_id": "user 2", "item_id": f"item {number}"} for number in range(3)]
    answer = store.get_online_features(service, pairs).to_dict()
    assert np.array(answer["item_embedding"]).shape == (3, 8)
    assert answer["item_space_id"] == answer["space_id"] == ["space-1"] * 3


def test_the_asynchronous_read_gives_the_same(store: FeatureStore) -> None:
    service = store.get_feature_service("ranking_v1")
    waiting = store.get_online_features_async(service, rows("user 8", "stranger"))
    assert asyncio.run(waiting).to_dict() == store.get_online_features(service, rows("user 8", "stranger")).to_dict()


class Turning(ReleaseOnlineStore):
    """A store under which the pointer moves between the views of one request."""

    configuration: Configuration

    def _answer(self, *arguments: Any) -> None:
        super()._answer(*arguments)
        live = release.status(self.configuration)
        release.rollback(self.configuration, published_at=NOON, to=live["previous"] or live["live"]["release_id"])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_views_of_one_request_are_of_one_release(tmp_path: Path, asynchronous: bool) -> None:
    configuration = configuration_at(tmp_path)
    register(configuration)
    first = publish_night(configuration, NIGHT)
    second = publish_night(configuration, NIGHT + DAY)
    store = open_store(configuration)
    turning = Turning()
    turning.configuration = configuration
    request = (store.config, store.get_feature_service("ranking_v1"), rows("user 1"), store.registry, store.project)
    seen = []
    for _ in range(2):
        if asynchronous:
            answer = asyncio.run(turning.get_online_features_async(*request)).to_dict()
        else:
            answer = turning.get_online_features(*request).to_dict()
        assert answer["release_id"] == answer["attraction_release_id"]
        seen += answer["release_id"]
    assert seen == [second, first]


def test_before_the_first_release_reading_says_what_to_run(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    register(configuration)
    stage_night(configuration, NIGHT)
    with pytest.raises(MissingInput, match="attractor night"):
        open_store(configuration).get_online_features([INTEREST], rows("user 1"))


def test_writing_through_feast_is_refused_with_the_way_to_do_it(store: FeatureStore) -> None:
    frame = pd.DataFrame(
        {
            "user_id": ["user 1"],
            "interest_embedding": [[0.0] * 8],
            "event_timestamp": [pd.Timestamp("2026-03-01", tz="UTC")],
            **{column.name: ["x"] for column in PROVENANCE["karma_user_interest"] if column.name != "published_at"},
            "published_at": [pd.Timestamp("2026-03-01", tz="UTC")],
        }
    )
    with pytest.raises(ReadOnly, match="attractor publish"):
        store.write_to_online_store("karma_user_interest", df=frame)


def test_a_view_that_no_release_publishes_is_named(store: FeatureStore) -> None:
    with pytest.raises(ContractViolation, match="user_history"):
        store.get_online_features(["user_history:user_event_count"], rows("user 1"))

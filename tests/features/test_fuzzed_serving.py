"""Feast's HTTP server over releases, fuzzed: a 4xx that says why, or exactly what the release holds."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from feast.feature_server import get_app
from hypothesis import given
from hypothesis import strategies as st

from features.configuration import Configuration
from features.releases import open_releases
from features.store import open_store, register
from tests.bad_inputs import ANY_EDITS, JSON, Edit, edited, fed, fuzzed, replaced
from tests.scored_nights import configuration_at, publish_night, tables

NIGHT = dt.date(2026, 3, 1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning:feast")

FEATURES = ["karma_user_interest:interest_embedding", "karma_user_interest:space_id", "dicer_user_attraction:item_ids"]
REQUEST = {"features": FEATURES, "entities": {"user_id": ["user 1", "stranger", "user 2"]}, "full_feature_names": True}
IS_JSON = {"content-type": "application/json"}
IDS = st.lists(
    st.one_of(st.sampled_from(["user 1", "user 7", "' OR 1=1", "../../x", "x" * 10_000, "\0"]), st.text(max_size=9)),
    min_size=1,
    max_size=20,
)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    configuration = configuration_at(tmp_path_factory.mktemp("serving"))
    register(configuration)
    return configuration


@pytest.fixture(scope="module")
def client(configuration: Configuration) -> Iterator[TestClient]:
    with TestClient(get_app(open_store(configuration)), raise_server_exceptions=False) as client:
        early = client.post("/get-online-features", json=REQUEST)
        assert early.status_code == 503, "nothing is published yet"
        assert "attractor night" in early.text
        publish_night(configuration, NIGHT, tables())
        yield client


def told(answer: dict[str, Any]) -> dict[str, list[Any]]:
    """Values by feature."""
    names = answer["metadata"]["feature_names"]
    return {name: result["values"] for name, result in zip(names, answer["results"], strict=True)}


def check(configuration: Configuration, answer: dict[str, Any]) -> None:
    """Whatever was asked, an answer holds what the release has for the ids that it names."""
    values = told(answer)
    release = open_releases(configuration.releases).current()
    ids = values.get("user_id", [])
    vectors, found = release.embeddings("karma_user_interest", "interest_embedding", ids)
    for name, column in values.items():
        if name.endswith("interest_embedding"):
            assert [None if one is None else [float(x) for x in one] for one in column] == [
                vector.tolist() if known else None for vector, known in zip(vectors, found, strict=True)
            ]
        if name.endswith("space_id") and "item" not in name:
            assert column == ["space-1" if known else None for known in found]


@given(ids=IDS)
@fuzzed(25)
def test_any_ids_are_answered_right(configuration: Configuration, client: TestClient, ids: list[str]) -> None:
    try:
        content = json.dumps({**REQUEST, "entities": {"user_id": ids}}, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # halves of surrogate pairs are not UTF-8
    fed("HTTP ids")
    answer = client.post("/get-online-features", content=content, headers=IS_JSON)
    assert answer.status_code == 200
    assert told(answer.json())["user_id"] == ids
    check(configuration, answer.json())


@given(edits=ANY_EDITS)
@fuzzed(25)
def test_a_request_with_bytes_changed(configuration: Configuration, client: TestClient, edits: list[Edit]) -> None:
    fed("HTTP bytes")
    content = edited(json.dumps(REQUEST).encode(), edits)
    answered(configuration, client.post("/get-online-features", content=content, headers=IS_JSON))


@given(data=st.data())
@fuzzed(25)
def test_a_request_with_one_value_changed(
    configuration: Configuration, client: TestClient, data: st.DataObject
) -> None:
    fed("HTTP values")
    answered(configuration, client.post("/get-online-features", json=replaced(REQUEST, data.draw)))


@given(body=JSON, path=st.sampled_from(["/push", "/write-to-online-store", "/materialize", "/get-online-features"]))
@fuzzed(15)
def test_any_json_anywhere(client: TestClient, body: Any, path: str) -> None:
    fed("HTTP bodies")
    assert client.post(path, json=body).status_code in range(400, 501)


def answered(configuration: Configuration, answer: Any) -> None:
    """Feast's own server says 500 of what it did not foresee; what releases refuse is a 4xx."""
    if answer.status_code == 200:
        check(configuration, answer.json())
        return
    assert answer.status_code in range(400, 501)
    assert answer.content
    if "features.online_store" in answer.text:
        assert answer.status_code == 422


@pytest.mark.parametrize("keys", [[None], [[1]]])
def test_keys_of_another_type_are_a_422_that_says_so(client: TestClient, keys: list[Any]) -> None:
    answer = client.post("/get-online-features", json={**REQUEST, "entities": {"user_id": keys}})
    assert answer.status_code in {400, 422}
    assert answer.content


def test_writing_is_a_405_that_says_what_to_do(client: TestClient) -> None:
    names = ("space_id", "model_version", "release_id", "release_date")
    row: dict[str, Any] = {"user_id": ["user 1"], "interest_embedding": [[0.0]], **{name: ["x"] for name in names}}
    row |= {"event_timestamp": ["2026-03-01T00:00:00"], "published_at": [1_772_323_200]}
    answer = client.post("/write-to-online-store", json={"feature_view_name": "karma_user_interest", "df": row})
    assert answer.status_code == 405
    assert "attractor night" in answer.text

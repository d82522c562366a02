"""Over HTTP: a remote online store's client reads what the SDK reads, and odd requests are errors, never crashes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from feast import FeatureStore, RepoConfig
from feast.feature_server import get_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.configuration import Configuration
from features.errors import MissingInput
from features.releases import open_releases
from features.store import open_store, register
from tests.features.feature_servers import serving
from tests.scored_nights import configuration_at, publish_night, tables

NIGHT = dt.date(2026, 3, 1)
KNOWN = set(tables()["karma_user_interest"]["user_id"])
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning:feast")
fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    configuration = configuration_at(tmp_path_factory.mktemp("servers"))
    register(configuration)
    publish_night(configuration, NIGHT, tables())
    return configuration


@pytest.fixture(scope="module")
def store(configuration: Configuration) -> FeatureStore:
    return open_store(configuration)


@pytest.fixture(scope="module")
def client(store: FeatureStore) -> Iterator[TestClient]:
    with TestClient(get_app(store), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def address(configuration: Configuration, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The whole way: attractor.toml, the shipped feature_store.yaml, `feast serve` as a process."""
    with serving(configuration, tmp_path_factory.mktemp("serve") / "serve.log") as address:
        yield address


def test_feast_serve_answers_over_http(address: str) -> None:
    body = {"feature_service": "ranking_v1", "entities": {"user_id": ["user 8", "stranger"]}}
    answer = httpx.post(f"{address}/get-online-features", json=body, timeout=60).raise_for_status().json()
    by_name = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    assert by_name["interest_embedding"]["statuses"] == ["PRESENT", "NOT_FOUND"]
    assert len(by_name["interest_embedding"]["values"][0]) == 8
    assert by_name["release_date"]["values"][0] == str(NIGHT)


def test_a_remote_client_reads_what_the_sdk_reads(
    configuration: Configuration, store: FeatureStore, address: str
) -> None:
    rows = [{"user_id": user} for user in ("user 3", "stranger", "user 1")]
    remote = FeatureStore(
        config=RepoConfig(
            project=store.project,
            provider="local",
            registry=str(configuration.registry),
            offline_store={"type": "duckdb"},
            online_store={"type": "remote", "path": address},
            entity_key_serialization_version=3,
        )
    )
    for names in (False, True):
        service = store.get_feature_service("ranking_v1")
        ours, theirs = (
            one.get_online_features(service, rows, full_feature_names=names).to_dict() for one in (store, remote)
        )
        instants = [name for name in ours if name.endswith("published_at")]
        assert {name: values for name, values in ours.items() if name not in instants} == {
            name: values for name, values in theirs.items() if name not in instants
        }


anything = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text(), max_size=2))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=30))
@fuzzed
def test_any_text_is_a_user_or_not_found(store: FeatureStore, ids: list[str]) -> None:
    answer = store.get_online_features(["karma_user_interest:release_date"], [{"user_id": one} for one in ids])
    expected = ["2026-03-01" if one in KNOWN else None for one in ids]
    assert answer.to_dict()["release_date"] == expected


@given(st.lists(st.one_of(st.sampled_from(sorted(KNOWN)), st.text(), st.none()), max_size=40))
@fuzzed
def test_the_bulk_reader_finds_the_known_and_refuses_nulls(configuration: Configuration, ids: list[str | None]) -> None:
    release = open_releases(configuration.releases).current()
    if None in ids:
        with pytest.raises(ValueError, match="without nulls"):
            release.embeddings("karma_user_interest", "interest_embedding", ids)
        return
    block, found = release.embeddings("karma_user_interest", "interest_embedding", ids)
    assert found.tolist() == [one in KNOWN for one in ids]
    assert (block.any(axis=1) == found).all()


@given(st.lists(anything, min_size=1, max_size=4), st.one_of(st.sampled_from(["release_date", "item_ids"]), st.text()))
@fuzzed
def test_odd_requests_over_http_are_errors_or_right(client: TestClient, ids: list[Any], feature: str) -> None:
    body = {"features": [f"karma_user_interest:{feature}"], "entities": {"user_id": ids}}
    try:
        answer = client.post("/get-online-features", json=body)
    except ValueError:
        return  # not JSON: infinities, lone surrogates
    assert answer.status_code in {200, 400, 404, 422, 500}
    if answer.status_code != 200:
        assert answer.json()
        return
    assert feature == "release_date"
    told = dict(zip(answer.json()["metadata"]["feature_names"], answer.json()["results"], strict=True))
    keys = told["user_id"]["values"]
    assert told["release_date"]["values"] == ["2026-03-01" if key in KNOWN else None for key in keys]


@given(st.text())
@fuzzed
def test_a_release_is_not_opened_by_a_path(configuration: Configuration, name: str) -> None:
    for asked in (name, f"../releases/{name}", f"/{name}"):
        with pytest.raises(MissingInput):
            open_releases(configuration.releases).open(asked)

"""Another team's Feast project reads our views, offline and online, with a store of its own and with our releases."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureService, FeatureStore, RepoConfig

from features.configuration import FILE_NAME, Configuration, load
from features.contracts import FEATURES
from features.definitions import PROJECT, define
from features.online_store import ReleaseOnlineStoreConfig
from features.partitions import partition_path, write_rows
from features.store import open_store, register
from tests.features.feature_servers import ROOT, feast
from tests.history_rows import histories
from tests.scored_nights import publish_night, tables

NIGHT = dt.date(2026, 3, 1)
MIDNIGHT = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
EXAMPLE = ROOT / "docs" / "examples" / "ranking_team"
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


def configured(folder: Path, registry: str = "") -> Configuration:
    (folder / FILE_NAME).write_text(f'state = "state"\n{registry}', encoding="utf-8")
    return load(folder / FILE_NAME)


def joined(store: FeatureStore, features: Any, users: list[str], at: dt.datetime) -> dict[str, list[Any]]:
    """Features of `users` as of `at`, offline, in order of user."""
    asked = pd.DataFrame({"user_id": users, "event_timestamp": pd.Timestamp(at)})
    frame = store.get_historical_features(asked, features).to_df().sort_values("user_id")
    told: dict[str, list[Any]] = frame.to_dict("list")
    return told


def test_the_example_registers_materialises_and_reads(tmp_path: Path) -> None:
    """`feast apply` in a copy of the example and nothing else, as a command; then its store as a team uses it."""
    configuration = configured(tmp_path)
    write_rows(partition_path(configuration, "user_history", NIGHT), FEATURES["user_history"], [histories(5, MIDNIGHT)])
    team = shutil.copytree(EXAMPLE, tmp_path / "team", ignore=shutil.ignore_patterns("__pycache__"))
    feast(configuration, "apply", directory=team)

    store = FeatureStore(repo_path=str(team))
    store.materialize(MIDNIGHT - dt.timedelta(hours=12), MIDNIGHT)
    service = store.get_feature_service("sequence_v1")
    online = store.get_online_features(
        service, [{"user_id": user} for user in ("user 0", "nobody", "user 3")]
    ).to_dict()
    assert online["item_ids"] == [["item 0"], None, ["item 0", "item 1", "item 2", "item 3"]]
    assert online["unlisted_event_count"][0] == 10
    assert online["unlisted_event_count"][2] == 10
    offline = joined(store, service, ["user 0", "user 3"], MIDNIGHT + dt.timedelta(days=3))
    assert [list(items) for items in offline["item_ids"]] == [online["item_ids"][0], online["item_ids"][2]]
    assert offline["unlisted_event_count"] == [10, 10]
    assert not configuration.registry.exists()


def test_one_registry_serves_two_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a database: theirs imports released views, and reads them from our releases by a service of its own."""
    url = f"sqlite:///{tmp_path}/registry.sqlite"
    monkeypatch.setenv("SHARED_REGISTRY", url)
    configuration = configured(tmp_path, '[registry]\nurl_variable = "SHARED_REGISTRY"\n')
    register(configuration)
    publish_night(configuration, NIGHT, tables())
    ours = open_store(configuration)
    before = [view.to_proto() for view in ours.list_feature_views()]

    theirs = FeatureStore(
        config=RepoConfig(
            project="ranking_team",
            provider="local",
            registry={"registry_type": "sql", "path": url},
            offline_store={"type": "duckdb"},
            online_store={"type": ReleaseOnlineStoreConfig().type, "path": str(configuration.releases)},
            entity_key_serialization_version=3,
        )
    )
    definitions = define(configuration)
    views = [definitions.views[name] for name in ("karma_user_interest", "dicer_user_attraction")]
    service = FeatureService(name="ranker", features=[views[0][["interest_embedding", "release_id"]], views[1]])
    theirs.apply([definitions.entities["user"], *views, service])

    ours.refresh_registry()
    assert [view.to_proto() for view in ours.list_feature_views()] == before
    assert {project.name for project in ours.registry.list_projects()} == {PROJECT, "ranking_team"}
    assert [one.name for one in theirs.list_feature_services()] == ["ranker"]
    users = ["user 1", "user 2"]
    online = theirs.get_online_features(service, [{"user_id": user} for user in users]).to_dict()
    whole = ours.get_online_features(ours.get_feature_service("ranking_v1"), [{"user_id": user} for user in users])
    assert online.items() <= whole.to_dict().items()
    offline = joined(theirs, service, users, MIDNIGHT + dt.timedelta(hours=13))
    assert [list(items) for items in offline["item_ids"]] == online["item_ids"]
    assert [list(vector) for vector in offline["interest_embedding"]] == online["interest_embedding"]

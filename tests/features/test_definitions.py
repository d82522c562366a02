"""Every object of the registry says what it is, whose it is, and what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from feast.feature_view import DUMMY_ENTITY_NAME

from features.configuration import Configuration
from features.contracts import FEATURES
from features.definitions import PROJECT, define
from features.store import open_store, register

CONSUMERS = {
    "karma_training_v1": "training",
    "dicer_training_v1": "training",
    "recall_v1": "recall",
    "pre_ranking_v1": "pre-ranking",
    "ranking_v1": "ranking",
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """All that the registry holds after registration, but for the entity that Feast adds to each."""
    folder = tmp_path_factory.mktemp("registered")
    configuration = Configuration(folder / "attractor.toml", folder / "state", {"registry": {"owner": "growth@shop"}})
    register(configuration)
    registry = open_store(configuration).registry
    kinds = (
        registry.list_entities,
        registry.list_data_sources,
        registry.list_all_feature_views,
        registry.list_feature_services,
    )
    found = [one for kind in kinds for one in kind(PROJECT)]
    return [*registry.list_projects(), *(one for one in found if one.name != DUMMY_ENTITY_NAME)]


def test_all_have_a_description_an_owner_and_tags(objects: list[Any]) -> None:
    assert len(objects) == 1 + 2 + 7 + 7 + 5
    for one in objects:
        assert one.description, one.name
        assert one.owner == "growth@shop", one.name
        assert one.tags, one.name


def test_each_consumer_has_a_service(objects: list[Any]) -> None:
    assert {one.name: one.tags["consumer"] for one in objects if "consumer" in one.tags} == CONSUMERS


def test_views_and_sources_tell_which_stage_makes_them(objects: list[Any]) -> None:
    stages = {one.name: one.tags["stage"] for one in objects if "stage" in one.tags}
    assert {name for name, stage in stages.items() if stage == "built"} == {
        *FEATURES,
        *(f"{name}_partitions" for name in FEATURES),
    }
    assert sum(stage == "published" for stage in stages.values()) == 6


def test_only_feature_tables_are_put_online_by_name(tmp_path: Path) -> None:
    configuration = Configuration(tmp_path / "attractor.toml", tmp_path / "state", {})
    views = define(configuration, online=["user_history"]).views
    assert {name for name in FEATURES if views[name].online} == {"user_history"}
    with pytest.raises(ValueError, match=r"expected some of the feature tables.*got \['histories'\]"):
        define(configuration, online=["histories"])

"""Feast's own OpenLineage events: a real registration, read from the file that OpenLineage's client writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.lineage import NAMESPACE, datasets
from features.configuration import load
from features.contracts import FEATURES, PUBLISHED
from features.lineage import lineage_settings
from features.store import open_store, register
from tests.tiny_world import write_world


def test_feast_tells_what_it_registers_under_the_names_that_the_night_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openlineage.client", reason="the extra `lineage` is not installed")
    events = tmp_path / "events.json"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(events))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    configuration = load(write_world(tmp_path, lineage={"feast": True}))
    register(configuration)
    told = {event["job"]["name"]: event for event in map(json.loads, events.read_text().splitlines())}
    views = told["feast_feature_views_attractor"]
    assert {(one["namespace"], one["name"]) for one in views["outputs"]} == {
        (NAMESPACE, name) for name in (*FEATURES, *PUBLISHED)
    }
    read = {(one["namespace"], one["name"]) for one in views["inputs"]}
    built, published = datasets(configuration, "build")[1], datasets(configuration, "publish")[1]
    assert {*built} <= read
    assert read & {*published} == {(NAMESPACE, f"{view}_partitions") for view in PUBLISHED}
    services = {name for name in told if name.startswith("feature_service_")}
    assert {"feature_service_karma_training_v1", "feature_service_ranking_v1"} <= services
    (served,) = told["feature_service_karma_training_v1"]["outputs"]
    assert (served["namespace"], served["name"]) in datasets(configuration, "training_sets")[0]


def test_without_being_asked_feast_tells_nobody(tmp_path: Path) -> None:
    configuration = load(write_world(tmp_path))
    assert lineage_settings(configuration) == {}
    assert open_store(configuration).openlineage_emitter is None

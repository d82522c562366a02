"""Champions: a challenger passes its gates or the standing one stays."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from export import artifacts
from export.promotion import GateConfig, champion, judge, missing_champions, promote
from features.configuration import Configuration
from features.errors import GateFailed, MissingInput

ABOUT: dict[str, Any] = {
    "parity": {"encoder": {"holds": True, "worst": 1e-6}},
    "metrics": {part: {"model": {"HR@10": 0.3}, "popularity": {"HR@10": 0.1}} for part in ("validation", "test")},
}


def changed(*path: str, value: Any) -> dict[str, Any]:
    about = copy.deepcopy(ABOUT)
    here = about
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return about


def store(configuration: Configuration, about: dict[str, Any]) -> str:
    return artifacts.save(configuration.artifacts, "karma", lambda directory: about).version


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return Configuration(tmp_path / "attractor.toml", tmp_path / "state", {})


def test_a_good_artifact_becomes_champion(configuration: Configuration) -> None:
    assert missing_champions(configuration) == ["karma", "dicer"]
    with pytest.raises(MissingInput, match="karma"):
        champion(configuration, "karma")
    version = store(configuration, ABOUT)
    assert [gate["decision"] for gate in promote(configuration, version)["gates"]] == ["passed"] * 3
    promote(configuration, version)
    assert champion(configuration, "karma").version == version
    assert missing_champions(configuration) == ["dicer"]


@pytest.mark.parametrize(
    "about",
    [
        changed("parity", "encoder", "holds", value=False),
        changed("parity", value={}),
        changed("metrics", "test", "model", "HR@10", value=None),
    ],
    ids=["parity fails", "parity never measured", "metric missing"],
)
def test_a_bad_artifact_is_refused_and_the_champion_stays(configuration: Configuration, about: dict[str, Any]) -> None:
    standing = store(configuration, ABOUT)
    promote(configuration, standing)
    with pytest.raises(GateFailed):
        promote(configuration, store(configuration, about))
    assert champion(configuration, "karma").version == standing


def test_losing_to_popularity_warns_or_refuses_as_configured(configuration: Configuration) -> None:
    version = store(configuration, changed("metrics", "test", "popularity", "HR@10", value=0.4))
    artifact = artifacts.load(configuration.artifacts, version)
    assert judge(artifact, GateConfig())[-1].decision == "warned"
    assert judge(artifact, GateConfig(require_baseline=True))[-1].decision == "refused"

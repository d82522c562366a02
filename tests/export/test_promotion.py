"""Champions: a challenger passes its gates or the standing one stays; every move is kept and can be taken back."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export import artifacts
from export.champions import champion, demote, evidence, missing_champions, moves
from export.held_out import HELD_OUT
from export.promotion import GateConfig, judge, promote
from features.configuration import Configuration
from features.errors import GateFailed, MissingInput

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
ABOUT: dict[str, Any] = {
    "parity": {"encoder": {"holds": True, "worst": 1e-6, "tolerance": 1e-4}},
    "metrics": {part: {"model": {"HR@10": 0.3}, "popularity": {"HR@10": 0.1}} for part in ("validation", "test")},
    "training_set": "window 1",
    "split": {"train_end": "2026-02-01", "valid_end": "2026-02-15", "test_end": "2026-03-01"},
}
GAINS = np.random.default_rng(3).random(200)


def changed(*path: str, value: Any) -> dict[str, Any]:
    about = copy.deepcopy(ABOUT)
    here = about
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return about


def store(configuration: Configuration, about: Mapping[str, Any], gains: Sequence[float] | None = GAINS) -> str:
    """An artifact with these held-out gains by user, or without the file."""

    def fill(directory: Path) -> Mapping[str, Any]:
        if gains is not None:
            users = [f"user {number}" for number in range(len(gains))]
            pq.write_table(pa.table({"user_id": users, "gain": pa.array(gains, pa.float64())}), directory / HELD_OUT)
        return about

    return artifacts.save(configuration.artifacts, "karma", fill).version


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return Configuration(tmp_path / "attractor.toml", tmp_path / "state", {})


def test_a_good_artifact_becomes_champion(configuration: Configuration) -> None:
    assert missing_champions(configuration) == ["karma", "dicer"]
    with pytest.raises(MissingInput, match="karma"):
        champion(configuration, "karma")
    version = store(configuration, ABOUT)
    told = promote(configuration, version, promoted_at=NOON)
    assert [gate["decision"] for gate in told["gates"]] == ["passed"] * 4
    assert told["gates"][-1]["sentence"] == "nothing to compare with: the first champion"
    promote(configuration, version, promoted_at=NOON)
    assert champion(configuration, "karma").version == version
    assert missing_champions(configuration) == ["dicer"]
    assert len(moves(configuration, "karma")) == 1
    assert evidence(configuration, champion(configuration, "karma")) == {
        "parity": {"encoder": {"holds": True, "worst": 1e-6, "tolerance": 1e-4}},
        "quality": None,
    }


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
    promote(configuration, standing, promoted_at=NOON)
    with pytest.raises(GateFailed):
        promote(configuration, store(configuration, about), promoted_at=NOON)
    assert champion(configuration, "karma").version == standing


def test_losing_to_popularity_warns_or_refuses_as_configured(configuration: Configuration) -> None:
    version = store(configuration, changed("metrics", "test", "popularity", "HR@10", value=0.4))
    artifact = artifacts.load(configuration.artifacts, version)
    assert judge(artifact, GateConfig())[-1].decision == "warned"
    assert judge(artifact, GateConfig(require_baseline=True))[-1].decision == "refused"


def test_a_challenger_that_is_worse_beyond_chance_is_refused(configuration: Configuration) -> None:
    standing = store(configuration, ABOUT)
    promote(configuration, standing, promoted_at=NOON)
    noise = np.random.default_rng(4).normal(0, 0.1, len(GAINS))
    with pytest.raises(GateFailed, match=f"NDCG@10 of 200 users changed by -0.0.*against {standing}"):
        promote(configuration, store(configuration, ABOUT, GAINS - 0.05 + noise), promoted_at=NOON)
    assert champion(configuration, "karma").version == standing

    within_chance = store(configuration, ABOUT, GAINS - 0.002 + noise)
    assert promote(configuration, within_chance, promoted_at=NOON)["gates"][-1]["decision"] == "passed"
    quality = evidence(configuration, champion(configuration, "karma"))["quality"]
    assert quality["against"] == standing
    assert quality["low"] < quality["mean"] < quality["high"]
    assert quality["mean"] == pytest.approx(np.mean(noise - 0.002))


@pytest.mark.parametrize(
    ("about", "gains"),
    [
        (ABOUT, None),
        (ABOUT, [*GAINS[:-1], float("nan")]),
        (ABOUT, []),
        (changed("training_set", value="window 2"), GAINS),
    ],
    ids=["no figures", "not a number", "nobody", "another window whose training set is gone"],
)
def test_a_quality_that_cannot_be_measured_refuses(
    configuration: Configuration, about: dict[str, Any], gains: Sequence[float] | None
) -> None:
    standing = store(configuration, ABOUT)
    promote(configuration, standing, promoted_at=NOON)
    with pytest.raises(GateFailed, match="could not be measured"):
        promote(configuration, store(configuration, about, gains), promoted_at=NOON)
    assert champion(configuration, "karma").version == standing


def test_demotion_goes_back_and_is_kept_in_the_history(configuration: Configuration) -> None:
    first, second = store(configuration, ABOUT), store(configuration, ABOUT, GAINS + 0.01)
    with pytest.raises(MissingInput, match="karma"):
        demote(configuration, "karma", at=NOON, reason="no champion yet")
    promote(configuration, first, promoted_at=NOON)
    with pytest.raises(MissingInput, match=f"before {first}"):
        demote(configuration, "karma", at=NOON, reason="none before it")
    promote(configuration, second, promoted_at=NOON)
    move = demote(configuration, "karma", at=NOON + dt.timedelta(days=1), reason="clicks fell")
    assert (move["version"], move["replaced"], move["reason"]) == (first, second, "clicks fell")
    assert champion(configuration, "karma").version == first
    assert [(move["action"], move["version"]) for move in moves(configuration, "karma")] == [
        ("promote", first), ("promote", second), ("demote", first)
    ]  # fmt: skip
    with pytest.raises(MissingInput, match=f"before {first}"):
        demote(configuration, "karma", at=NOON, reason="none before the first")
    assert promote(configuration, second, promoted_at=NOON)["version"] == second

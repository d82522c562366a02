"""A whole night without Airflow, through the command line, on a market of 120 people; nothing is faked."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import URL

from features.configuration import Configuration, load
from features.releases import open_releases
from tests.command_line import attractor, told
from tests.pickle_search import pickles_below
from tests.tiny_world import NIGHT, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def configuration(world: Path) -> Configuration:
    """The world after its first night: both models trained, one release live."""
    assert attractor("night", "--date", str(NIGHT), "--config", str(world)) == 0
    return load(world)


def test_the_same_night_again_re_uses_everything(
    configuration: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_releases(configuration.releases).current()
    capsys.readouterr()
    assert attractor("night", "--date", str(NIGHT), "--config", str(configuration.file)) == 0
    shown = capsys.readouterr()
    assert shown.err.count("re-used") == 5  # land, build, register, score, stage
    assert open_releases(configuration.releases).current().release_id == before.release_id
    assert before.release_id in shown.out
    for promised in (
        "landed",
        "features",
        "popularity",
        "parity",
        "promote",
        "audit",
        "attracted by",
        "attractor status",
    ):
        assert promised in shown.out, promised


def test_the_summary_is_what_was_released(configuration: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
    summary = told(capsys, "report", "--date", str(NIGHT), "--config", str(configuration.file))
    release = open_releases(configuration.releases).current()
    assert summary["release"]["live"] == release.release_id
    assert summary["landed"]["rows"]["users"] == 120
    assert len(summary["recommendations"]) == 3
    assert all(user["attracted_by"] for user in summary["recommendations"])
    heard = [bool(user["last"]) for user in summary["recommendations"]]
    assert [bool(user["interested_in"]) for user in summary["recommendations"]] == heard
    assert set(heard) == {True, False}, "someone with a history, and someone without, who is said nothing of"
    assert {"karma", "dicer"} == set(summary["models"])


def test_nothing_that_a_night_leaves_is_a_pickle(configuration: Configuration) -> None:
    assert len(list(configuration.state.rglob("*.onnx"))) == 4
    assert pickles_below(configuration.state) == []


def test_a_consumer_reads_one_night_with_an_ordinary_feast_call(configuration: Configuration) -> None:
    from features.store import open_store

    store = open_store(configuration)
    release = open_releases(configuration.releases).current()
    users = release.tables["karma_user_interest"].column("user_id", np.arange(2)).to_pylist()
    answer = store.get_online_features(
        features=store.get_feature_service("ranking_v1"),
        entity_rows=[{"user_id": user} for user in [*users, "nobody"]],
    ).to_dict()
    vectors, _ = release.embeddings("karma_user_interest", "interest_embedding", users)
    assert np.allclose(answer["interest_embedding"][:2], vectors)
    assert answer["release_id"] == [release.release_id, release.release_id, None]
    assert answer["attraction_release_id"] == answer["release_id"]
    assert answer["release_date"][:2] == [str(NIGHT)] * 2
    assert len(answer["item_ids"][0]) == len(answer["scores"][0]) > 0
    assert answer["interest_embedding"][2] is None


def test_an_older_night_is_kept_but_never_served(
    configuration: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    served = open_releases(configuration.releases).current().release_id
    earlier = str(NIGHT - dt.timedelta(days=1))
    assert attractor("night", "--date", earlier, "--config", str(configuration.file)) == 0
    assert open_releases(configuration.releases).current().release_id == served
    listed = told(capsys, "releases", "--config", str(configuration.file))
    assert [(entry["date"], entry["state"]) for entry in listed][:2] == [(str(NIGHT), "live"), (earlier, "kept")]


def test_a_refused_night_exits_3_and_the_night_before_serves(
    configuration: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    served = open_releases(configuration.releases).current().release_id
    strict = write_world(configuration.file.parent, audit={"min_rows_ratio": 9.0})
    later = str(NIGHT + dt.timedelta(days=1))
    assert attractor("night", "--date", later, "--config", str(strict)) == 3
    assert "refused" in capsys.readouterr().err
    assert open_releases(configuration.releases).current().release_id == served
    assert attractor("status", "--date", later, "--config", str(strict)) == 4
    assert attractor("status", "--date", str(NIGHT), "--config", str(strict)) == 0

    write_world(configuration.file.parent)
    assert attractor("night", "--date", later, "--config", str(strict)) == 0
    assert open_releases(configuration.releases).current().date.isoformat() == later
    assert told(capsys, "rollback", "--config", str(strict))["release_id"] == served
    assert open_releases(configuration.releases).current().release_id == served


def test_a_night_is_the_same_with_the_registry_in_postgresql(
    configuration: Configuration, postgresql_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    from features.registered import declared, registered

    monkeypatch.setenv("NIGHT_REGISTRY", postgresql_database.render_as_string(hide_password=False))
    served = open_releases(configuration.releases).current().release_id
    shared = write_world(configuration.file.parent, registry={"url_variable": "NIGHT_REGISTRY"})
    assert registered(load(shared)) == {}
    assert attractor("night", "--date", str(NIGHT), "--config", str(shared)) == 0
    assert registered(load(shared)) == declared(load(shared))
    assert open_releases(configuration.releases).current().release_id == served
    write_world(configuration.file.parent)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["night"], 2),
        (["night", "--date", "yesterday"], 2),
        (["init", "--source", "lastfm"], 2),
        (["init", "--source", "parquet", "--path", "/nowhere/at/all"], 2),
        (["status", "--config", "/nowhere/attractor.toml"], 1),
        (["--help"], 0),
    ],
)
def test_exit_codes_of_wrong_words(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert attractor(*arguments) == code


def test_init_writes_a_configuration_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "attractor.toml")
    assert attractor("init", "--source", "synthetic", "--users", "100", "--config", file) == 0
    assert load(Path(file)).sections["source"] == {"kind": "synthetic", "users": 100}

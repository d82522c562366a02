"""Two nights and two trainings of a tiny market: a part that is refused, a challenger, and the way back. No fakes."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow.parquet as pq
import pytest

from export.champions import champion, moves
from export.held_out import HELD_OUT, held_out_gains
from features.configuration import Configuration, load
from features.releases import STAGING, open_release, open_releases
from features.training_sets import read_training_set
from tests.command_line import attractor, told
from tests.tiny_world import NIGHT, write_world

FIRST = NIGHT - dt.timedelta(days=1)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """The world after its last night but one: both models trained, one release live."""
    file = write_world(tmp_path_factory.mktemp("world"))
    assert attractor("night", "--date", str(FIRST), "--config", str(file)) == 0
    return load(file)


@pytest.mark.parametrize("model", ["karma", "dicer"])
def test_an_artifact_says_where_it_comes_from_and_how_good_it_is_for_each_user(
    configuration: Configuration, model: str
) -> None:
    artifact = champion(configuration, model)
    about = artifact.manifest["about"]
    assert about["split"]["test_end"] == str(FIRST)
    assert all(record["holds"] for record in about["parity"].values())
    assert set(about["code"]) == {"version", "models_sha256"}
    assert len(about["lock_sha256"]) == 64
    gains = pq.read_table(artifact.path(HELD_OUT))
    assert gains.num_rows == about["held_out"]["users"] > 0
    # The same metric on the same labels as training measured with torch.
    measured = about["metrics"]["test"]["model"]["NDCG@10"]
    assert np.mean(gains["gain"].to_numpy()) == pytest.approx(measured, abs=1e-6)
    assert about["held_out"]["mean"] == pytest.approx(measured, abs=1e-6)


def test_a_refused_part_gives_way_to_the_standing_one_in_a_whole_night(
    configuration: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_releases(configuration.releases).current()
    # Lists of another day are never the same as yesterday's; those of yesterday are.
    write_world(configuration.file.parent, audit={"min_list_overlap": 1.0})
    summary = told(capsys, "night", "--date", str(NIGHT), "--config", str(configuration.file))
    live, refused = open_releases(configuration.releases).current(), summary["release"]["release_id"]
    assert live.release_id == summary["release"]["live"] != refused
    assert live.manifest["standing"]["release_id"] == before.release_id
    assert [why.split(":")[0] for why in live.manifest["refused"]["why"]] == ["dicer_user_attraction, overlap"]
    new = open_release(configuration.releases / STAGING / refused)
    for view, source in {
        "karma_user_interest": new, "karma_item_embedding": new, "dicer_user_attraction": before
    }.items():  # fmt: skip
        ours, theirs = (str([batch.to_pylist() for batch in one.tables[view]]) for one in (live, source))
        assert ours == theirs
    assert summary["release"]["standing"]["part"] == "dicer"

    shown = told(capsys, "audit", refused, "--config", str(configuration.file))
    assert (shown["release_id"], shown["composed_from"]) == (live.release_id, refused)
    user, item = (live.tables["dicer_user_attraction"].column(name, np.arange(1)) for name in ("user_id", "item_ids"))
    pair = ("--user", user[0].as_py(), "--item", item[0].as_py()[0])
    explained = told(capsys, "explain", *pair, "--config", str(configuration.file))
    assert explained["date"] == str(FIRST)
    write_world(configuration.file.parent)


def test_a_challenger_of_another_window_is_compared_on_its_own_labels(
    configuration: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    standing = champion(configuration, "karma")
    file = write_world(configuration.file.parent, gates={"min_quality_change": 0.9})
    assert attractor("train", "--date", str(NIGHT), "--model", "karma", "--config", str(file)) == 3
    assert f"against {standing.version}" in capsys.readouterr().err
    assert champion(configuration, "karma").version == standing.version

    write_world(configuration.file.parent, gates={"min_quality_change": -1.0})
    promotions = told(capsys, "train", "--date", str(NIGHT), "--model", "karma", "--config", str(file))["promotions"]
    challenger = champion(configuration, "karma")
    assert [one["version"] for one in promotions] == [challenger.version] != [standing.version]
    quality = moves(configuration, "karma")[-1]["quality"]
    training_set = read_training_set(configuration, NIGHT, "karma_training_v1")
    theirs = held_out_gains(standing.directory, "karma", training_set)
    ours = pq.read_table(challenger.path(HELD_OUT))
    assert theirs["user_id"].to_pylist() == ours["user_id"].to_pylist()
    difference = np.mean(ours["gain"].to_numpy()) - np.mean(theirs["gain"].to_numpy())
    assert quality["mean"] == pytest.approx(difference)
    assert (quality["against"], quality["users"]) == (standing.version, len(ours))

    history = told(capsys, "history", "--model", "karma", "--config", str(file))["karma"]
    assert [move["version"] for move in history] == [standing.version, challenger.version]
    assert attractor("demote", "--model", "karma", "--reason", " ", "--config", str(file)) == 2
    move = told(capsys, "demote", "--model", "karma", "--reason", "it was a drill", "--config", str(file))
    assert (move["version"], move["reason"]) == (standing.version, "it was a drill")
    assert champion(configuration, "karma").version == standing.version
    assert attractor("history", "--config", str(file)) == 0
    assert "it was a drill" in capsys.readouterr().out
    write_world(configuration.file.parent)

"""Explaining a published pair: the score as published, what is unusual in words, and what is missing by name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from export import release
from export.artifacts import Artifact, save
from export.cli import main
from export.dicer_graphs import write_bases
from export.dicer_scoring import score_dicer
from export.explain import ExplainedScore, Published, explain_score, load_network
from export.explanation_text import explanation_text, remarks
from export.terminal_text import one_line
from features.configuration import Configuration
from features.contracts import FEATURES, IDS, TIMESTAMP, VECTOR
from features.errors import ArtifactCorrupt, MissingInput
from features.files import write_json
from features.partitions import partition_path, write_rows
from features.releases import open_releases
from models.dicer.explanation import Attraction, Interest
from tests.dicer_worlds import ExportedDicer, World, item_ids
from tests.scored_nights import MIDDAY, about, tables, write_scored

DATE = dt.date(2026, 1, 20)


def write_features(configuration: Configuration, world: World) -> None:
    """The graphs of the world, and a catalogue in which only even items have a title."""
    midnight = dt.datetime.combine(DATE, dt.time(), dt.UTC)
    views = {name: list(table.columns) for name, table in world.views().items()}
    for columns in views.values():
        columns += [pa.array([len(listed) for listed in column.to_pylist()]) for column in columns[1:]]
    n = world.items
    titles = [f"Title {item}" if item % 2 == 0 else "" for item in range(n)]
    catalogue = [item_ids(range(n)), titles, [""] * n, pa.array([[]] * n, IDS), titles, pa.nulls(n, VECTOR), [0] * n]
    for view, columns in {**views, "item_catalog": catalogue}.items():
        rows = pa.table(
            [columns[0], pa.array([midnight] * len(columns[0]), TIMESTAMP), *columns[1:]], schema=FEATURES[view].schema
        )
        write_rows(partition_path(configuration, view, DATE), FEATURES[view], rows.to_batches())


def publish(configuration: Configuration, dicer: ExportedDicer) -> str:
    """Score DICER's lists of the date and publish them, as a night does, beside any embeddings."""
    columns = tables()
    scored = write_scored(configuration.scored / DATE.isoformat(), columns)
    score_dicer(dicer.artifact, configuration, DATE, scored, top_k=4)
    told = about(DATE, columns)
    told["models"]["dicer"] = dicer.artifact.version
    release_id = release.stage(configuration, DATE, scored, told)
    release.publish(
        configuration, release_id, published_at=dt.datetime.combine(DATE, MIDDAY), force_reason="a test's embeddings"
    )
    return release_id


@pytest.fixture(scope="module")
def state(dicer: ExportedDicer, tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """A state with one published night, whose DICER is also the champion."""
    root = tmp_path_factory.mktemp("state")
    (root / "attractor.toml").write_text('state = "."\n', encoding="utf-8")
    configuration = Configuration(root / "attractor.toml", root, {})
    shutil.copytree(dicer.artifact.directory, configuration.artifacts / "dicer" / dicer.artifact.version)
    version = dicer.artifact.version
    write_json(configuration.champions / "dicer.json", {"version": version, "history": [version]})
    write_features(configuration, dicer.world)
    publish(configuration, dicer)
    return configuration


@pytest.fixture
def own_state(state: Configuration, tmp_path: Path) -> Configuration:
    """A copy of the state, to be broken."""
    shutil.copytree(state.state, tmp_path / "own")
    return Configuration(tmp_path / "own" / "attractor.toml", tmp_path / "own", {})


def run(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr("sys.argv", ["attractor", *arguments])
        main()
    return int(exit_.value.code or 0)


def test_every_published_score_is_explained_as_published(state: Configuration) -> None:
    live = open_releases(state.releases).current()
    table = live.tables["dicer_user_attraction"]
    rows = pa.Table.from_batches(table.batches).to_pylist()
    assert len(rows) == 12
    for row in rows:
        for place, (item, score) in enumerate(zip(row["item_ids"], row["scores"], strict=True), start=1):
            told = explain_score(state, row["user_id"], item)
            assert told.published is not None
            assert (told.published.rank, told.published.score) == (place, score)
            assert told.score == pytest.approx(score, abs=1e-5)
            assert told.published.difference == told.score - score
            assert told.published.release_id == live.release_id


def test_it_names_titles_where_there_are_any(state: Configuration) -> None:
    told = explain_score(state, "u0001", "i0002")
    assert told.titles["i0002"] == "Title 2"
    assert all(int(item[1:]) % 2 == 0 for item in told.titles)
    text = explanation_text(told)
    assert "user u0001, item i0002 “Title 2”" in text
    assert max(map(len, text.splitlines())) <= 200
    assert "= 1/3 ×" in text


def test_a_night_that_is_not_published_is_explained_by_the_champion(state: Configuration) -> None:
    told, by_release = (explain_score(state, "u0001", "i0002", date=date) for date in (DATE, None))
    assert told.published is None
    assert told.explanation == by_release.explanation
    assert "not a published score" in explanation_text(told)


def test_a_release_can_be_named(state: Configuration) -> None:
    live = open_releases(state.releases).current().release_id
    assert explain_score(state, "u0001", "i0002", release_id=live) == explain_score(state, "u0001", "i0002")
    with pytest.raises(MissingInput, match="no release 2026-01-19-abc"):
        explain_score(state, "u0001", "i0002", release_id="2026-01-19-abc")
    with pytest.raises(ValueError, match="a release or a date"):
        explain_score(state, "u0001", "i0002", release_id=live, date=DATE)


def test_who_had_the_item_or_is_unknown_to_training_is_said(state: Configuration) -> None:
    had = explain_score(state, "u0000", "i0003")
    assert had.explanation.had_item
    assert "had this item already" in " ".join(remarks(had))
    assert "no list for the user" in " ".join(remarks(had)), "user 0 has had everything"
    cold = explain_score(state, "u0012", "i0009")  # nobody's friend, no history; only user 0 had the item
    assert (cold.cold_user, cold.cold_item) == (True, True)
    said = " ".join(remarks(cold))
    for promised in ("did not know the user", "did not know the item", "no history", "no friends"):
        assert promised in said, promised
    assert "own history, 0 items" in explanation_text(cold)
    assert "nobody (8 of 8)" in explanation_text(cold)


def test_an_item_below_the_list_has_no_rank(state: Configuration, dicer: ExportedDicer) -> None:
    table = open_releases(state.releases).current().tables["dicer_user_attraction"]
    row = pa.Table.from_batches(table.batches).to_pylist()[0]
    had = dicer.world.histories[int(row["user_id"][1:])]
    below = next(i for i in item_ids(range(10)) if i not in row["item_ids"] and int(i[1:]) not in had)
    told = explain_score(state, row["user_id"], below)
    assert told.published == Published(told.published.release_id if told.published else "", 4, None, None, None)
    assert "not among the 4 best" in " ".join(remarks(told))
    assert "not in the user's list" in explanation_text(told)


def changed(told: ExplainedScore, **parts: Any) -> ExplainedScore:
    return dataclasses.replace(told, explanation=dataclasses.replace(told.explanation, **parts))


def test_words_for_what_a_head_or_a_friend_does_not_say(state: Configuration) -> None:
    told = explain_score(state, "u0001", "i0002")
    interest, attraction = told.explanation.interest, told.explanation.attraction
    assert isinstance(interest, Interest)
    assert isinstance(attraction, Attraction)
    off = changed(told, interest=None, attraction=None)
    assert [line[:27] for line in remarks(off)[-2:]] == ["This model has no interest ", "This model has no attractio"]
    assert " friend " not in explanation_text(off)
    silent = changed(told, interest=dataclasses.replace(interest, friends=(), silent_friends=2))
    assert "None of the user's 2 friends has a history." in remarks(silent)
    some = changed(told, interest=dataclasses.replace(interest, silent_friends=1))
    assert any(line.startswith("Not heard") for line in remarks(some))
    flat = changed(told, attraction=dataclasses.replace(attraction, moved=0.5, attributed=0.0))
    assert any("does not answer to small changes" in line for line in remarks(flat))
    dead = changed(told, attraction=dataclasses.replace(attraction, moved=0.0, attributed=0.0))
    assert any("does not answer to small changes" in line for line in remarks(dead))
    nobody = dataclasses.replace(attraction.audience, members=0, nobody=8, attribution=0.0, owners=())
    unseen = changed(told, attraction=Attraction(nobody, moved=0.0, attributed=0.0))
    assert any(line.startswith("Nobody had the item") for line in remarks(unseen))
    assert not any("does not answer to small changes" in line for line in remarks(unseen))
    assert "past consumers, 0 users" in explanation_text(unseen)
    deaf = changed(told, interest=dataclasses.replace(interest, friends=(), hears_friends=False))
    assert "This model does not listen to friends." in remarks(deaf)
    many = changed(told, interest=dataclasses.replace(interest, friends=interest.friends[:1] * 8))
    assert "3 more friends" in explanation_text(many)


def test_heads_that_add_nothing_to_a_likeness_are_not_listed(state: Configuration) -> None:
    told = explain_score(state, "u0001", "i0002")
    heads = tuple(dataclasses.replace(head, logit=0.0, contribution=0.0) for head in told.explanation.heads)
    silent = changed(told, heads=heads, likeness=0.7)
    assert any(line.startswith("The heads add nothing here") for line in remarks(silent))
    assert "moves its logit" not in explanation_text(silent)
    assert "sigmoid of +0.7000" in explanation_text(silent)
    heard = changed(told, likeness=0.7)
    assert not any(line.startswith("The heads add nothing here") for line in remarks(heard))
    assert "moves its logit" in explanation_text(heard)


def test_a_title_stays_on_its_line_and_is_cut(state: Configuration) -> None:
    told = explain_score(state, "u0001", "i0002")
    lines = explanation_text(told).count("\n")
    odd = "Line\nbreak \x1b[31mred\ttab \u202ertl " + "x" * 500
    shown = explanation_text(dataclasses.replace(told, titles=dict.fromkeys(told.titles, odd)))
    assert shown.count("\n") == lines
    assert all(character.isprintable() for character in shown.replace("\n", ""))
    assert "“Line break  [31mred tab  rtl xxx" in shown
    assert "x" * 80 not in shown
    assert one_line("\U0001f468\u200d\U0001f469 می\u200cخواهم") == "\U0001f468\u200d\U0001f469 می\u200cخواهم"


def test_friends_who_move_nothing_are_one_line(state: Configuration) -> None:
    told = explain_score(state, "u0001", "i0002")
    interest = told.explanation.interest
    assert isinstance(interest, Interest)
    assert len(interest.friends) >= 2
    mute = tuple(
        dataclasses.replace(
            friend,
            history=dataclasses.replace(
                friend.history,
                attribution=0.0,
                owners=tuple(dataclasses.replace(owner, attribution=0.0) for owner in friend.history.owners),
            ),
        )
        for friend in interest.friends
    )
    nobody = dataclasses.replace(interest.own, members=0, nobody=8, attribution=0.0, owners=())
    flat = changed(told, interest=dataclasses.replace(interest, own=nobody, friends=mute, attributed=0.0))
    (line,) = (line for line in explanation_text(flat).splitlines() if ", attention " in line)
    assert line.split() == f"{len(mute)} friends, attention 100% +0".split()
    some = changed(told, interest=dataclasses.replace(interest, friends=(interest.friends[0], *mute[1:])))
    rows = [line for line in explanation_text(some).splitlines() if ", attention " in line]
    assert rows[0].startswith(f"  friend {interest.friends[0].id}, ")
    assert rows[1].startswith(f"  {len(mute) - 1} more friend")


def test_partitions_that_changed_since_the_release_are_told(own_state: Configuration, dicer: ExportedDicer) -> None:
    assert not any("built again" in line for line in remarks(explain_score(own_state, "u0001", best(own_state))))
    world = dicer.world
    write_features(own_state, World(world.friends, world.similar_users, [[] for _ in range(10)], world.histories))
    told = explain_score(own_state, "u0001", best(own_state))
    assert told.published is not None
    assert told.published.difference is not None
    assert abs(told.published.difference) > 1e-5
    assert any("built again" in line for line in remarks(told))
    erased = dataclasses.replace(told, published=dataclasses.replace(told.published, erased=True))
    assert any("a user was erased" in line for line in remarks(erased))
    assert not any("built again" in line for line in remarks(erased))


def best(state: Configuration) -> str:
    """The first item of user 1's list."""
    table = open_releases(state.releases).current().tables["dicer_user_attraction"]
    items = table.column("item_ids", np.array([table.locate_one(["u0001"])]))
    return str(items[0][0].as_py())


def test_unknown_ids_are_named_with_where_they_were_looked_for(state: Configuration) -> None:
    with pytest.raises(MissingInput, match=r"no user 'nobody' among the 13 users of .*social_graph"):
        explain_score(state, "nobody", "i0002")
    with pytest.raises(MissingInput, match=r"no item 'nothing' among the 10 items of .*item_audience"):
        explain_score(state, "u0001", "nothing")


@pytest.mark.parametrize("view", ["social_graph", "item_audience", "item_catalog"])
def test_features_that_are_gone_are_named(own_state: Configuration, view: str) -> None:
    partition_path(own_state, view, DATE).unlink()
    with pytest.raises(MissingInput, match=f"{view} was not built as of 2026-01-20"):
        explain_score(own_state, "u0001", "i0002")


def test_a_model_that_is_gone_is_named(own_state: Configuration) -> None:
    shutil.rmtree(own_state.artifacts)
    with pytest.raises(MissingInput, match=r"was scored by dicer-[0-9a-f]{12}, which is gone"):
        explain_score(own_state, "u0001", "i0002")


def test_before_the_first_release_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no release is published"):
        explain_score(Configuration(tmp_path / "attractor.toml", tmp_path, {}), "u0001", "i0002")


def test_the_network_of_an_artifact_is_the_one_that_was_saved(dicer: ExportedDicer) -> None:
    loaded, trained = load_network(dicer.artifact), dicer.trained.network
    assert loaded.config == trained.config
    assert not loaded.training
    assert all(weight.equal(trained.state_dict()[name]) for name, weight in loaded.state_dict().items())


def test_weights_of_another_network_are_refused(dicer: ExportedDicer, tmp_path: Path) -> None:
    def fill(directory: Path) -> dict[str, Any]:
        shutil.copy(dicer.artifact.path("weights.safetensors"), directory)
        write_json(directory / "config.json", dataclasses.asdict(dicer.trained.config) | {"layers": 3})
        write_bases(dicer.trained, directory)
        return {}

    other: Artifact = save(tmp_path, "dicer", fill)
    with pytest.raises(ArtifactCorrupt, match="do not fit"):
        load_network(other)


def test_the_command_prints_words_or_json(state: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("explain", "--user", "u0001", "--item", best(state), "--config", str(state.file))
    assert run(*asked) == 0
    shown = capsys.readouterr().out
    assert "rank 1 of 4" in shown
    assert " friend u0" in shown
    assert "past consumers" in shown
    assert run(*asked, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["published"]["rank"] == 1
    assert told["explanation"]["interest"]["friends"][0]["history"]["owners"][0].keys() == {
        "id",
        "dimensions",
        "attribution",
    }
    assert isinstance(told["remarks"], list)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--user", "nobody", "--item", "i0002"], 1),
        (["--user", "u0001", "--item", "nothing"], 1),
        (["--user", "u0001", "--item", "i0002", "--release", "2026-01-19-0123456789ab"], 1),
        (["--user", "u0001", "--item", "i0002", "--release", "2026-01-19-abc"], 2),
        (["--user", "u0001", "--item", "i0002", "--date", "2026-01-19"], 1),
        (["--user", "u0001", "--item", "i0002", "--date", "2026-01-20", "--release", "x"], 2),
        (["--user", "u0001"], 2),
        (["--user", "u\udcff", "--item", "i0002"], 2),
        (["--user", "u0001", "--item", "i\udcff"], 2),
    ],
)
def test_exit_codes(state: Configuration, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> None:
    assert run("explain", *arguments, "--config", str(state.file)) == code
    assert capsys.readouterr().err

"""One user is forgotten: searched for everywhere, removed, and what is left stays valid; killed anywhere, run again."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from export import artifacts, champions, release
from export.dicer_scoring import USER_BASES, base_rows
from export.drafts import DRAFTS, drafting
from export.erased_artifacts import USER_BASE, WEIGHTS
from export.erased_files import files_naming
from export.erasure import CHECKPOINTS, UNFINISHED, look_for
from export.explain import load_network
from export.held_out import HELD_OUT
from features.build import build
from features.checked_tables import QUARANTINE
from features.configuration import Configuration
from features.erased_users import read_erased
from features.errors import ArtifactCorrupt, MissingInput
from features.files import read_json
from features.landing import land, landed
from features.partitions import read_partition
from features.releases import AUDIT, RELEASES, STAGING, ReleaseStore, open_releases, read_pointer, verify
from features.training_sets import LABELS
from tests.dicer_worlds import ExportedDicer, night_world
from tests.scored_nights import MIDDAY, configuration_at
from tests.system_calls import KILL, Call, supervised
from tests.users_to_forget import (
    DAY,
    GONE,
    INTEREST,
    LISTS,
    NIGHT,
    USERS,
    forget,
    stage,
    stored_artifact,
    write_source,
)

STAYS = "u0004"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, dicer: ExportedDicer) -> Configuration:
    """Everything that a state directory holds, with the user in every place of it; copied by each test."""
    folder = tmp_path_factory.mktemp("made")
    source = {"kind": "parquet", "path": "source", "on_violation": "quarantine"}
    configuration = configuration_at(folder, source=source)
    write_source(folder / "source", night_world())
    land(configuration, NIGHT)
    build(configuration, NIGHT)
    labels = pa.table(
        {
            "user_id": USERS,
            "item_id": ["i0001"] * 20,
            "query": [""] * 20,
            "event_at": [dt.datetime.combine(NIGHT - DAY, MIDDAY)] * 20,
        },
        schema=LABELS,
    )
    (configuration.training_sets / str(NIGHT)).mkdir(parents=True)
    pq.write_table(labels, configuration.training_sets / str(NIGHT) / "test.parquet", compression="zstd")
    (configuration.checkpoints / "dicer" / "run").mkdir(parents=True)
    (configuration.checkpoints / "dicer" / "run" / "last.safetensors").write_bytes(b"rows by place")
    (configuration.checkpoints / "karma" / "run").mkdir(parents=True)
    (configuration.features / "user_history" / ".tmp-of-a-killed-build").write_bytes(GONE.encode())
    artifact = stored_artifact(configuration, dicer)
    at = dt.datetime.combine(NIGHT, MIDDAY)
    champions.crown(configuration, artifact, at=at, gates=[], quality={"against": artifact.version})
    for number, date in enumerate((NIGHT - 2 * DAY, NIGHT - DAY, NIGHT)):
        release_id = stage(configuration, date, artifact.version, users=None if number else USERS[5:])
        release.publish(configuration, release_id, published_at=at, force_reason="a test's")
    stage(configuration, NIGHT + DAY, artifact.version)
    return configuration


@pytest.fixture
def world(made: Configuration, tmp_path: Path) -> Configuration:
    shutil.copytree(made.file.parent, tmp_path, dirs_exist_ok=True)
    return configuration_at(tmp_path, **made.sections)


def released(configuration: Configuration) -> list[str]:
    return sorted(path.name for path in (configuration.releases / RELEASES).iterdir())


def every_text(state: Path) -> Iterator[tuple[Path, str]]:
    """Every value of every Parquet and Arrow file that is a text, and every other file as text: the slow search."""
    for file in sorted(path for path in state.rglob("*") if path.is_file()):
        if file.suffix == ".parquet":
            yield file, str(pq.read_table(file, partitioning=None).to_pydict())
        elif file.suffix == ".arrow":
            yield file, str(pa.ipc.open_file(file).read_all().to_pydict())
        yield file, file.read_bytes().decode("latin-1")


def test_the_user_is_found_everywhere_and_then_nowhere(world: Configuration) -> None:
    found = look_for(world, GONE)
    assert {place.name for place in found.places if place.before} == {
        *("raw", "features", "training_sets", "scored", "artifacts", "published", "store/releases", "store/staging"),
        *(CHECKPOINTS, UNFINISHED),
    }
    assert all(place.after == place.before for place in found.places)
    done = forget(world)
    assert {place.name: place.before for place in done.places} == {place.name: place.before for place in found.places}
    assert done.left == 0
    assert not list(files_naming(world.state, GONE))
    for file, text in every_text(world.state):
        assert GONE not in text, file
    assert any(STAYS in text for _, text in every_text(world.state))


def test_looking_changes_nothing(world: Configuration) -> None:
    before = {path: path.read_bytes() for path in world.state.rglob("*") if path.is_file()}
    look_for(world, GONE)
    assert {path: path.read_bytes() for path in world.state.rglob("*") if path.is_file()} == before


def test_raw_tables_features_and_training_sets_lose_the_user_alone(world: Configuration) -> None:
    def rows() -> dict[str, pa.Table]:
        files = [*world.raw.rglob("*.parquet"), *world.features.rglob("*.parquet"), *world.training_sets.rglob("*.pa*")]
        return {str(file): pq.read_table(file, partitioning=None) for file in files}

    before, figures = rows(), landed(world, NIGHT)
    forget(world)
    after = rows()
    assert before.keys() == after.keys()
    for name, table in before.items():
        assert after[name].schema.equals(table.schema, check_metadata=True), name
        named = {"user_id", "friend_id"} & set(table.schema.names)
        kept = [row for row in table.to_pylist() if GONE not in [row[column] for column in named]]
        for row in kept:
            for column, values in row.items():
                if column in ("friend_ids", "similar_user_ids", "consumer_ids"):
                    row[column] = [value for value in values if value != GONE]
                    row[column.replace("_ids", "_count")] = len(row[column])
        assert after[name].to_pylist() == kept, name
    assert landed(world, NIGHT).rows["users"] == figures.rows["users"] - 1
    assert sum(landed(world, NIGHT).quarantined["events"].values()) == sum(figures.quarantined["events"].values()) - 1
    assert GONE in str(before[next(name for name in before if QUARANTINE in name)])


def test_a_date_that_is_built_again_does_not_know_the_user(world: Configuration) -> None:
    forget(world)
    build(world, NIGHT)
    assert GONE not in str(read_partition(world, "item_audience", NIGHT).to_pydict())
    assert len(read_partition(world, "social_graph", NIGHT)) == 12


@pytest.mark.parametrize("date", [NIGHT, NIGHT - DAY, NIGHT + DAY])
def test_landing_again_never_brings_the_user_back(world: Configuration, date: dt.date) -> None:
    """The source still has the user, whether an old date is landed anew or the next one comes."""
    forget(world)
    shutil.rmtree(world.raw / str(NIGHT))
    if date <= NIGHT:
        shutil.rmtree(world.raw / "events")
    land(world, date)
    assert not list(files_naming(world.raw, GONE))
    assert landed(world, date).rows["users"] == 12
    assert GONE in str(pq.read_table(world.file.parent / "source" / "events.parquet").to_pydict())


def test_the_trained_row_goes_with_its_id(world: Configuration, dicer: ExportedDicer) -> None:
    (before,) = (world.artifacts / "dicer").iterdir()
    old = load_file(before / WEIGHTS)
    done = forget(world)
    assert list(done.artifacts) == [before.name]
    version = done.artifacts[before.name]
    assert champions.champion_version(world, "dicer") == version
    assert champions.moves(world, "dicer")[0]["quality"]["against"] == version
    assert [path.name for path in (world.artifacts / "dicer").iterdir()] == [version]
    made = artifacts.load(world.artifacts, version)
    assert made.manifest["about"]["erased_from"] == [before.name]
    assert made.manifest["about"]["held_out"] == {"metric": "NDCG@10", "users": 5, "mean": pytest.approx(0.4)}
    assert len(pq.read_table(made.path(HELD_OUT))) == 5
    assert len({path.stat().st_mode for path in made.directory.iterdir()}) == 1, "whoever could read it still can"
    weights = load_file(made.path(WEIGHTS))
    assert np.array_equal(weights[USER_BASE], np.delete(old[USER_BASE], 3, axis=0))
    assert all(np.array_equal(weights[name], old[name]) for name in old if name != USER_BASE)
    rows, known = base_rows(made.path(USER_BASES), pa.array(USERS[:9]))
    assert known == 8
    assert not rows[3].any()
    assert np.array_equal(np.delete(rows, 3, axis=0), weights[USER_BASE])
    row = old[USER_BASE][3].tobytes()
    assert not any(row in path.read_bytes() for path in made.directory.iterdir())
    assert load_network(made).user_base.shape == (8, old[USER_BASE].shape[1])


def test_every_release_is_valid_without_the_user_and_the_same_for_everybody_else(world: Configuration) -> None:
    store = open_releases(world.releases)
    before, old = store.current(), released(world)
    done = forget(world)
    assert set(done.releases) >= {before.release_id}
    assert released(world) == sorted(done.releases.get(name, name) for name in old)
    live = store.current()  # the same reader moves on
    assert live.release_id == done.releases[before.release_id]
    assert (live.published_at, live.admitted_at) == (before.published_at, before.admitted_at)
    others = [user for user in USERS if user != GONE]
    for column in (INTEREST, "interest_embedding"), ("karma_item_embedding", "item_embedding"):
        ids = others if column[0] == INTEREST else [f"item {n}" for n in range(12)]
        (ours, found), (theirs, _) = (one.embeddings(*column, ids) for one in (live, before))
        assert found.all()
        assert np.array_equal(ours, theirs)
    assert live.embeddings(INTEREST, "interest_embedding", [GONE])[1].tolist() == [False]
    assert before.embeddings(INTEREST, "interest_embedding", [GONE])[1].tolist() == [True]  # whoever holds it reads on
    lists = [
        {row["user_id"]: row for batch in one.tables[LISTS] for row in batch.to_pylist()} for one in (live, before)
    ]
    assert lists[0] == {user: row for user, row in lists[1].items() if user != GONE}
    for name in released(world):
        opened = store.open(name)
        verify(opened)
        assert opened.manifest["models"]["dicer"] == next(iter(done.artifacts.values()))
        assert read_json(opened.directory / AUDIT)["release_id"] == name
        assert opened.manifest["views"][INTEREST]["rows"] == opened.tables[INTEREST].row_count
    assert live.manifest["figures"]["users_expected"] == 19
    assert live.popular_items == before.popular_items
    assert not list((world.releases / DRAFTS).iterdir())


def test_pointer_previous_history_and_rollback_go_by_the_new_names(world: Configuration) -> None:
    first, second, third = released(world)
    release.rollback(world, published_at=dt.datetime.combine(NIGHT + DAY, MIDDAY))
    names = forget(world).releases
    pointer = read_pointer(world.releases)
    assert pointer is not None
    assert (pointer.release_id, pointer.previous, pointer.withdrawn) == (names[second], names[first], (names[third],))
    assert [entry["release_id"] for entry in pointer.history] == [
        names[name] for name in (first, second, third, second)
    ]
    assert {entry["state"] for entry in release.releases(world)} == {"live", "previous", "kept", "staged"}
    again = release.publish(world, names[third], published_at=dt.datetime.combine(NIGHT + DAY, MIDDAY))
    assert not again.live  # it was rolled back
    back = release.rollback(world, published_at=dt.datetime.combine(NIGHT + DAY, MIDDAY))
    assert back.release_id == names[first]
    assert release.rollback(world, published_at=dt.datetime.combine(NIGHT + DAY, MIDDAY), to=names[third]).live
    with pytest.raises(MissingInput):
        release.rollback(world, published_at=dt.datetime.combine(NIGHT + DAY, MIDDAY), to=third)


def test_the_history_of_what_was_served_and_a_staged_night_stay_usable(world: Configuration) -> None:
    staged = next(path.name for path in (world.releases / STAGING).iterdir() if path.is_dir())
    names = forget(world).releases
    rows = pq.read_table(world.published / INTEREST / f"date={NIGHT}.parquet", partitioning=None)
    assert set(rows["release_id"].to_pylist()) == {open_releases(world.releases).current().release_id}
    assert len(rows) == 19
    at = dt.datetime.combine(NIGHT + DAY, MIDDAY)
    assert release.publish(world, names[staged], published_at=at, force_reason="a test's").live
    assert not list(files_naming(world.state, GONE))


def test_erasing_again_finds_nothing_and_changes_nothing(world: Configuration) -> None:
    forget(world)
    before = {path: path.read_bytes() for path in world.state.rglob("*") if path.is_file()}
    again = forget(world)
    assert (again.left, again.releases, again.artifacts) == (0, {}, {})
    assert all(place.before == 0 for place in again.places)
    assert {path: path.read_bytes() for path in world.state.rglob("*") if path.is_file()} == before


def test_two_users_one_after_the_other(world: Configuration) -> None:
    first = forget(world)
    second = forget(world, STAYS)
    (version,) = first.artifacts.values()
    assert artifacts.load(world.artifacts, second.artifacts[version]).manifest["about"]["erased_from"] == [
        *first.artifacts,
        version,
    ]
    live = open_releases(world.releases).current()
    assert live.tables[INTEREST].row_count == 18
    assert len(live.manifest["erased_from"]) == 2
    assert not any(list(files_naming(world.state, user)) for user in (GONE, STAYS))
    assert len(read_erased(world.state).hashes) == 2


@pytest.mark.parametrize("work", [look_for, forget])
def test_a_user_who_is_nowhere_is_an_error_that_changes_nothing(world: Configuration, work: Any) -> None:
    with pytest.raises(MissingInput, match="u9999"):
        work(world, "u9999")
    assert not read_erased(world.state).hashes
    assert "u9999" not in read_erased(world.state)


def test_a_damaged_release_stops_the_erasure_before_anything_of_the_store_changes(world: Configuration) -> None:
    first, _, third = released(world)
    rows = world.releases / RELEASES / first / INTEREST / "rows.arrow"
    rows.write_bytes(rows.read_bytes().replace(b"u0006", b"u0007"))
    with pytest.raises(ArtifactCorrupt):
        forget(world)
    assert open_releases(world.releases).current().release_id == third
    shutil.rmtree(world.releases / RELEASES / first)
    assert forget(world).left == 0


def test_a_draft_that_a_stage_is_writing_is_found_and_said(world: Configuration) -> None:
    with drafting(world.releases) as draft:
        pq.write_table(pa.table({"user_id": [GONE]}), draft / "rows.parquet")
        assert forget(world).left == 1
    assert forget(world).left == 0


def final(configuration: Configuration) -> dict[str, bytes]:
    """What an erasure leaves, without lock files."""
    files = [path for path in configuration.state.rglob("*") if path.is_file() and "lock" not in path.name]
    return {str(path.relative_to(configuration.state)): path.read_bytes() for path in sorted(files)}


def test_killed_anywhere_it_leaves_what_can_be_read_and_a_second_run_completes_it(
    made: Configuration, tmp_path: Path
) -> None:
    """Killed before calls spread over all that rename, link, make or remove something; ATTRACTOR_KILL_POINTS says how
    many of them, of some 290."""

    def fresh(name: str) -> Configuration:
        shutil.copytree(made.file.parent, tmp_path / name)
        return configuration_at(tmp_path / name, **made.sections)

    whole = fresh("whole")
    calls = supervised(lambda: forget(whole), whole.state).calls
    changing = [
        number for number, call in enumerate(calls) if call.name in ("rename", "link", "unlink", "rmdir", "mkdir")
    ]
    expected, points = final(whole), min(len(changing), int(os.environ.get("ATTRACTOR_KILL_POINTS", "16")))
    assert whole.releases.is_dir()
    assert len(changing) > 200
    for number in sorted({changing[place * len(changing) // points] for place in range(points)}):
        killed = fresh(f"killed-{number}")
        outcome = supervised(partial(forget, killed), killed.state, partial(_kill_before, number))
        assert outcome.killed
        _check_that_readers_read(killed)
        assert forget(killed).left == 0
        assert final(killed) == expected, calls[number]
        shutil.rmtree(killed.file.parent)


def _kill_before(last: int, number: int, call: Call) -> int:
    return KILL if number == last else 0


def _check_that_readers_read(killed: Configuration) -> None:
    store = ReleaseStore(killed.releases)
    live = store.current()
    others = [user for user in USERS if user != GONE]
    assert live.embeddings(INTEREST, "interest_embedding", others)[1].all()
    for name in released(killed):
        verify(store.open(name))
    assert champions.champion(killed, "dicer").path(USER_BASES).is_file()

"""Two real nights of a market of 120 people: one user leaves the source, one is erased; neither is served again."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from export.champions import champion
from export.erased_files import files_naming
from export.held_out import HELD_OUT
from features.configuration import Configuration, load
from features.contracts import USER_COLUMNS
from features.landing import land, raw_tables
from features.releases import Release, open_releases, verify
from features.store import open_store
from tests.command_line import attractor, told
from tests.tiny_world import NIGHT, write_world

NEXT = NIGHT + dt.timedelta(days=1)
INTEREST = ("karma_user_interest", "interest_embedding")


def write_source(folder: Path, tables: dict[str, pa.Table], *, without: str | None = None) -> None:
    """The raw tables as Parquet; who is left out is in none of them."""
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        for column in USER_COLUMNS & set(table.column_names):
            table = table.filter(pc.not_equal(table[column], without)) if without else table
        pq.write_table(table, folder / f"{name}.parquet")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """The embedded market, as anybody's own tables."""
    configuration = load(write_world(tmp_path_factory.mktemp("market")))
    land(configuration, NIGHT)
    raw = raw_tables(configuration, NIGHT)
    files = {"users": [raw.users], "items": [raw.items], "social_edges": [raw.social_edges], "events": raw.events}
    return {
        name: pa.concat_tables([pq.read_table(file, partitioning=None) for file in found])
        for name, found in files.items()
    }


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory, market: dict[str, pa.Table]) -> Configuration:
    """The first night, of everybody."""
    folder = tmp_path_factory.mktemp("world")
    file = write_world(folder, source={"kind": "parquet", "path": "source"})
    write_source(folder / "source", market)
    assert attractor("night", "--date", str(NIGHT), "--config", str(file)) == 0
    return load(file)


def served(configuration: Configuration, users: list[str]) -> list[bool]:
    """Who is served, by Feast and by the bulk reader, which must agree."""
    store = open_store(configuration)
    answer = store.get_online_features(
        features=store.get_feature_service("ranking_v1"), entity_rows=[{"user_id": user} for user in users]
    ).to_dict()
    live: Release = open_releases(configuration.releases).current()
    _, found = live.embeddings(*INTEREST, users)
    by_feast = [vector is not None for vector in answer["interest_embedding"]]
    assert by_feast == found.tolist() == [items is not None for items in answer["item_ids"]]
    assert {release_id for release_id in answer["release_id"] if release_id} <= {live.release_id}
    return by_feast


def test_who_left_and_who_was_erased_is_served_no_more(
    configuration: Configuration, market: dict[str, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    file, first = str(configuration.file), open_releases(configuration.releases).current()
    users: list[Any] = first.tables[INTEREST[0]].batches[0].column("user_id").to_pylist()
    judged = pq.read_table(champion(configuration, "karma").path(HELD_OUT))["user_id"].to_pylist()
    erased = next(user for user in judged if user in users)
    left, stays = [user for user in users if user != erased][:2]
    assert served(configuration, [erased, left, stays]) == [True, True, True]

    found = told(capsys, "erase", "--user", erased, "--dry-run", "--config", file)
    assert found["dry_run"]
    assert {name for name, place in found["places"].items() if place["before"]} >= {
        *("raw", "features", "training_sets", "scored", "artifacts", "published", "store/releases"),
        "checkpoints of dicer",
    }
    assert served(configuration, [erased]) == [True]
    done = told(capsys, "erase", "--user", erased, "--config", file)
    assert (done["left"], {place["after"] for place in done["places"].values()}) == (0, {0})
    assert {version.split("-")[0] for version in done["artifacts"]} == {"karma", "dicer"}
    assert served(configuration, [erased, left, stays]) == [False, True, True]
    assert done["releases"] == {first.release_id: open_releases(configuration.releases).current().release_id}
    assert attractor("explain", "--user", stays, "--item", _listed(configuration, stays), "--config", file) == 0

    write_source(configuration.file.parent / "source", market, without=left)  # where the erased user still is
    assert attractor("night", "--date", str(NEXT), "--config", file) == 0
    assert served(configuration, [erased, left, stays]) == [False, False, True]
    assert not list(files_naming(configuration.state, erased))
    live = open_releases(configuration.releases).current()
    verify(live)
    assert live.date == NEXT
    assert live.tables[INTEREST[0]].row_count == first.tables[INTEREST[0]].row_count - 2

    assert attractor("rollback", "--config", file) == 0  # to the night of which the erased user was taken out
    assert served(configuration, [erased, left, stays]) == [False, True, True]
    assert attractor("night", "--date", str(NIGHT), "--config", file) == 0  # an old date is made again
    assert not list(files_naming(configuration.state, erased))
    capsys.readouterr()
    assert attractor("erase", "--user", "nobody", "--config", file) == 1
    assert "'nobody'" in capsys.readouterr().err
    assert told(capsys, "erase", "--user", erased, "--config", file)["left"] == 0


def _listed(configuration: Configuration, user: str) -> str:
    table = open_releases(configuration.releases).current().tables["dicer_user_attraction"]
    rows = table.locate([pa.array([user])])
    return str(table.column("item_ids", rows)[0][0])

"""What holds users, for the tests of forgetting one: a source's tables, an artifact with a row a user, nights."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from export import artifacts, release
from export.artifacts import Artifact
from export.erasure import Erasure, erase
from export.held_out import HELD_OUT
from features.configuration import Configuration
from features.erased_users import SALT_BYTES
from features.files import write_json
from tests.dicer_worlds import ExportedDicer, World, item_ids, user_ids
from tests.scored_nights import MIDDAY, about, tables, write_scored

NIGHT = dt.date(2026, 1, 21)
DAY = dt.timedelta(days=1)
SALT = bytes(range(SALT_BYTES))
GONE = "u0003"
USERS = user_ids(range(20))
INTEREST, LISTS = "karma_user_interest", "dicer_user_attraction"


def write_source(folder: Path, world: World) -> None:
    """The four raw tables of a world, with one event of an item that nobody knows for every user."""
    users = user_ids(range(len(world.friends)))
    pairs = [(user, item) for user, taken in zip(user_ids(range(99)), world.histories, strict=False) for item in taken]
    events = [(user, f"i{item:04d}") for user, item in pairs] + [(user, "unknown") for user in users]
    edges = [(u, v) for u, heard in zip(user_ids(range(99)), world.friends, strict=False) for v in user_ids(heard)]
    at = dt.datetime.combine(NIGHT - 3 * DAY, MIDDAY)
    folder.mkdir(exist_ok=True)
    for name, columns in {
        "users": {"user_id": users},
        "items": {"item_id": item_ids(range(world.items)), "title": [f"Title {n}" for n in range(world.items)]},
        "events": {
            "user_id": [user for user, _ in events],
            "item_id": [item for _, item in events],
            "event_at": pa.array([at] * len(events), pa.timestamp("us", "UTC")),
            "query": [f"seen by {user}" for user, _ in events],
        },
        "social_edges": {"user_id": [one for one, _ in edges], "friend_id": [other for _, other in edges]},
    }.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def stored_artifact(configuration: Configuration, dicer: ExportedDicer) -> Artifact:
    """The exported network with held-out gains, as a training leaves it."""

    def fill(directory: Path) -> dict[str, Any]:
        shutil.copytree(dicer.artifact.directory, directory, dirs_exist_ok=True)
        (directory / artifacts.MANIFEST).unlink()
        gains = pa.table({"user_id": USERS[:6], "gain": [0.0, 0.5, 1.0, 0.25, 0.0, 0.5]})
        pq.write_table(gains, directory / HELD_OUT)
        held_out = {"metric": "NDCG@10", "users": 6, "mean": 0.375}
        return {**dicer.artifact.manifest["about"], "held_out": held_out}

    return artifacts.save(configuration.artifacts, "dicer", fill)


def columns_of(*, seed: int, users: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """A night's tables whose users are called as in the worlds of DICER."""
    columns = tables(users=20, seed=seed)
    for view in (INTEREST, LISTS):
        columns[view]["user_id"] = [f"u{int(user.split()[1]):04d}" for user in columns[view]["user_id"]]
        kept = [row for row, user in enumerate(columns[view]["user_id"]) if users is None or user in users]
        columns[view] = {name: [values[row] for row in kept] for name, values in columns[view].items()}
    return columns


def stage(configuration: Configuration, date: dt.date, artifact: str, *, users: list[str] | None = None) -> str:
    columns = columns_of(seed=date.toordinal(), users=users)
    note = about(date, columns)
    note["models"]["dicer"] = artifact
    scored = write_scored(configuration.scored / str(date), columns)
    write_json(scored / "scored.json", note)
    return release.stage(configuration, date, scored, note)


def forget(configuration: Configuration, user: str = GONE) -> Erasure:
    return erase(configuration, user, salt=SALT)

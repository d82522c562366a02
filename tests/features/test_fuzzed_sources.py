"""Source loaders on bad input: a clear error, a row set aside, or a row that reads back as it was."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import io

from features.checked_tables import QUARANTINE, write_checked
from features.contracts import EVENTS, ITEMS, SOCIAL_EDGES, USERS, Table
from features.errors import AttractorError
from features.sources import Source, SourceConfig, open_source
from features.sources.source import Rows
from features.windows import EPOCH, Window, midnight
from tests.bad_inputs import ANY_EDITS, Edit, edited, fed, fuzzed

KNOWN = {"users.user_id": ["ada", "bob", "é\0x"], "items.item_id": ["i1", "i 2", "\u202e"]}
EVERYTHING = Window(EPOCH, midnight(dt.date(2027, 1, 1)))

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["x" * 501, "x" * 1001, "\0"])
IDS = st.one_of(st.none(), TEXT, st.sampled_from(["ada", "bob", "x" * 128, "x" * 129, "é" * 128, "../x", "' OR 1"]))
INSTANTS = st.none() | st.datetimes(timezones=st.just(dt.UTC)) | st.just(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
FLOATS = st.floats(width=32) | st.none()
ROWS: Mapping[str, st.SearchStrategy[dict[str, Any]]] = {
    "users": st.fixed_dictionaries({"user_id": IDS, "created_at": INSTANTS}),
    "items": st.fixed_dictionaries(
        {
            "item_id": IDS,
            "title": st.none() | TEXT,
            "category": st.none() | TEXT,
            "attributes": st.none() | st.lists(st.none() | TEXT, max_size=3),
            "picture": st.none() | st.lists(FLOATS, min_size=1, max_size=2),
            "created_at": INSTANTS,
        }
    ),
    "events": st.fixed_dictionaries(
        {
            "user_id": st.sampled_from([*KNOWN["users.user_id"], "nobody", "", None]),
            "item_id": st.sampled_from([*KNOWN["items.item_id"], "nothing", None]),
            "event_at": INSTANTS,
            "query": st.none() | TEXT,
        }
    ),
    "social_edges": st.fixed_dictionaries(
        {
            "user_id": st.sampled_from([*KNOWN["users.user_id"], "nobody", None]),
            "friend_id": st.sampled_from([*KNOWN["users.user_id"], "nobody", None]),
            "created_at": INSTANTS,
        }
    ),
}
TABLES: Mapping[str, Table] = {table.name: table for table in (USERS, ITEMS, EVENTS, SOCIAL_EDGES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def keeps_contract(table: Table, row: Mapping[str, Any], width: int | None) -> bool:
    """The contract of a row, one value after the other: the slow reference of what landing checks by columns."""
    for column in table.columns:
        value = row[column.name]
        if value is None:
            if not column.nullable:
                return False
            continue
        if isinstance(value, list) and (None in value or not all(np.isfinite(v) for v in value if type(v) is float)):
            return False
        if column.name == "picture" and len(value) != width:
            return False
        if column.max_length is not None and len(value) > column.max_length:
            return False
        if column.at_least is not None and value < column.at_least:
            return False
        if column.differs_from is not None and value == row[column.differs_from]:
            return False
        if column.references is not None and value not in KNOWN[column.references]:
            return False
    return True


def kept_rows(table: Table, rows: list[dict[str, Any]]) -> list[int]:
    """Rows that keep the contract, the first of each key."""
    width = next((len(row["picture"]) for row in rows if row.get("picture") is not None), None)
    kept: dict[Any, int] = {}
    for number, row in enumerate(rows):
        if keeps_contract(table, row, width):
            kept.setdefault(tuple(row[name] for name in table.key) or number, number)
    return list(kept.values())


@given(st.sampled_from(sorted(TABLES)).flatmap(lambda name: st.tuples(st.just(name), st.lists(ROWS[name], max_size=8))))
@fuzzed(30)
def test_rows_that_keep_the_contract_read_back_equal_and_the_others_are_set_aside(
    folder: Path, given_rows: tuple[str, list[dict[str, Any]]]
) -> None:
    name, rows = given_rows
    table = TABLES[name]
    shutil.rmtree(folder / QUARANTINE, ignore_errors=True)
    batch = pa.RecordBatch.from_pylist(rows, pa.schema([pa.field(c.name, c.type) for c in table.columns]))
    known = {name: pl.Series([ids]) for name, ids in KNOWN.items()}
    fed(f"rows of {name}")
    write_checked(table, [Rows(batch, 0)], folder, known=known, refuse=False)
    kept = kept_rows(table, rows)
    assert pq.read_table(folder / f"{name}.parquet").to_pylist() == [batch.slice(row, 1).to_pylist()[0] for row in kept]
    aside = folder / QUARANTINE / f"{name}.parquet"
    numbers = sorted(pq.read_table(aside)["row"].to_pylist()) if aside.is_file() else []
    assert numbers == sorted(set(range(len(rows))) - set(kept))


# Bytes of valid files


def parquet_files(folder: Path) -> Path:
    """A small market of a user's own."""
    moment = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
    tables: dict[str, dict[str, Any]] = {
        "users": {"user_id": ["ada", "bob"], "created_at": [None, moment]},
        "items": {
            "item_id": ["i1", "i2"],
            "title": ["Red dress", None],
            "category": ["dress", "hat"],
            "attributes": [["red"], None],
            "picture": [[0.0, 1.0], [1.0, 0.5]],
            "created_at": [moment, None],
        },
        "events": {
            "user_id": ["ada", "bob", "ada"],
            "item_id": ["i1", "i2", "i2"],
            "event_at": [moment, moment, moment],
            "query": ["red", None, ""],
        },
        "social_edges": {"user_id": ["ada"], "friend_id": ["bob"], "created_at": [moment]},
    }
    folder.mkdir()
    for name, columns in tables.items():
        schema = pa.schema([pa.field(c.name, c.type) for c in TABLES[name].columns])
        pq.write_table(pa.table(columns, schema), folder / f"{name}.parquet")
    return folder


LASTFM = {
    "user_artists.dat": "userID\tartistID\tweight\r\n2\t51\t13883\r\n3\t52\t11690\r\n",
    "artists.dat": "id\tname\turl\tpictureURL\r\n51\tDuran Duran\thttp://a\thttp://b\r\n52\tMorcheeba\tc\td\r\n",
    "tags.dat": "tagID\ttagValue\r\n1\tmetal\r\n2\tnew wave\r\n",
    "user_taggedartists.dat": "userID\tartistID\ttagID\tday\tmonth\tyear\r\n2\t51\t1\t1\t4\t2009\r\n",
    "user_friends.dat": "userID\tfriendID\r\n2\t3\r\n3\t2\r\n",
}


def lastfm_files(folder: Path) -> Path:
    folder.mkdir()
    for name, text in LASTFM.items():
        (folder / name).write_bytes(text.encode())
    return folder


def ciao_files(folder: Path) -> Path:
    folder.mkdir()
    ratings = np.array([[1, 7, 2, 5, 3, 959_680_000], [2, 8, 2, 4, 3, 959_690_000]], np.float64)
    io.savemat(folder / "rating_with_timestamp.mat", {"rating": ratings}, do_compression=True)
    io.savemat(folder / "trustnetwork.mat", {"trustnetwork": np.array([[1, 2]], np.int32)})
    return folder


MAKERS = {"parquet": parquet_files, "lastfm": lastfm_files, "ciao": ciao_files}


@pytest.fixture(scope="module")
def sources(folder: Path) -> dict[str, Path]:
    return {kind: make(folder / kind) for kind, make in MAKERS.items()}


def landed(source: Source, folder: Path) -> dict[str, pa.Table]:
    """Every table through the checks that landing makes."""
    known: dict[str, pl.Series] = {}
    for table in (USERS, ITEMS, SOCIAL_EDGES, EVENTS):
        window = EVERYTHING if table is EVENTS else None
        stream = source.rows(table.name) if window is None else source.events(window)
        write_checked(table, stream, folder, known=known, refuse=False, window=window)
        if len(table.key) == 1:
            key = pl.read_parquet(folder / f"{table.name}.parquet")[table.key[0]]
            known[f"{table.name}.{table.key[0]}"] = key.implode()
    return {name: pq.read_table(folder / f"{name}.parquet") for name in TABLES}


@pytest.mark.parametrize("kind", MAKERS)
def test_the_files_that_are_changed_are_good_ones(sources: dict[str, Path], folder: Path, kind: str) -> None:
    (folder / "good").mkdir(exist_ok=True)
    tables = landed(open_source(SourceConfig(kind, str(sources[kind])), folder), folder / "good")  # type: ignore[arg-type]
    assert all(len(table) for table in tables.values())


@given(kind=st.sampled_from(["parquet", "lastfm"]), place=st.floats(0, 1, exclude_max=True), edits=ANY_EDITS)
@fuzzed(40)
def test_a_source_with_one_file_changed(
    sources: dict[str, Path], folder: Path, kind: str, place: float, edits: list[Edit]
) -> None:
    changed_and_landed(sources, folder, kind, place, edits)


@given(place=st.floats(0, 1, exclude_max=True), edits=ANY_EDITS)
@fuzzed(3)
def test_matlab_files_with_one_changed(sources: dict[str, Path], folder: Path, place: float, edits: list[Edit]) -> None:
    """SciPy's reader ends its process on some: that must not be ours."""
    changed_and_landed(sources, folder, "ciao", place, edits)


def changed_and_landed(sources: dict[str, Path], folder: Path, kind: str, place: float, edits: list[Edit]) -> None:
    """What is accepted keeps the contract: no key twice, nothing that refers to nothing, text that is text."""
    files = sorted(path for path in sources[kind].iterdir() if path.is_file())
    path = files[int(place * len(files))]
    before = path.read_bytes()
    (folder / "landed").mkdir(exist_ok=True)
    fed(f"bytes of {kind}")
    try:
        path.write_bytes(edited(before, edits))
        tables = landed(open_source(SourceConfig(kind, str(sources[kind])), folder), folder / "landed")  # type: ignore[arg-type]
    except AttractorError as error:
        assert str(error)  # noqa: PT017
        return
    finally:
        path.write_bytes(before)
    users, items = (set(tables[name][f"{name[:-1]}_id"].to_pylist()) for name in ("users", "items"))
    for name, table in tables.items():
        table.validate(full=True)
        keys = list(zip(*(table[key].to_pylist() for key in TABLES[name].key), strict=True))
        assert len(set(keys)) == len(keys)
    assert set(tables["events"]["user_id"].to_pylist()) <= users
    assert set(tables["events"]["item_id"].to_pylist()) <= items
    assert {*tables["social_edges"]["user_id"].to_pylist(), *tables["social_edges"]["friend_id"].to_pylist()} <= users

"""The release reader on bad input: an error of ours or the right answer, never a crash."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.staging import write_table
from features.contracts import DICER_USER_ATTRACTION, KARMA_USER_INTEREST
from features.errors import ArtifactCorrupt, AttractorError
from features.files import read_json
from features.key_index import key_hash, key_hashes, open_index, write_index
from features.release_table import open_table
from features.releases import (
    IDENTITY,
    MANIFEST,
    POINTER,
    READY,
    Release,
    open_release,
    open_releases,
    release_id_of,
    verify,
)
from tests.bad_inputs import ANY_EDITS, SAME_LENGTH, Edit, edited, fed, fuzzed, replaced
from tests.scored_nights import configuration_at, publish_night, tables

NIGHT = dt.date(2026, 3, 1)
PEOPLE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
LISTS = st.lists(st.tuples(PEOPLE, st.floats(width=32)), max_size=4)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one published night."""
    configuration = configuration_at(tmp_path_factory.mktemp("genuine"))
    publish_night(configuration, NIGHT, tables(users=40, items=9))
    return configuration.releases


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


def files_of(store: Path) -> list[str]:
    """What readers look into: not the report, and not the lock, which says nothing."""
    files = (path for path in store.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(store)) for path in files if path.suffix != ".html" and path.name != ".lock")


@contextmanager
def changed(*contents: tuple[Path, bytes]) -> Iterator[None]:
    """Files with other bytes until the block ends."""
    before = [(path, path.read_bytes()) for path, _ in contents]
    try:
        for path, content in contents:
            path.write_bytes(content)
        yield
    finally:
        for path, content in before:
            path.write_bytes(content)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def answers(release: Release) -> dict[str, Any]:
    """Everything that a consumer can ask of a release."""
    told: dict[str, Any] = {"as_of": release.as_of, "provenance": dict(release.provenance)}
    for view, table in release.tables.items():
        told[view] = [row for batch in table for row in batch.to_pylist()]
        key = table.table.key[0]
        ids = [*(row[key] for row in told[view]), "stranger"]
        told[f"{view}, found"] = table.locate([pa.array(ids, pa.string())]).tolist()
        told[f"{view}, found singly"] = [table.locate_one([one]) for one in ids]
        told[f"{view}, as of"] = release.as_of_view(view)
        for column in table.windows:
            told[column] = release.embeddings(view, column, ids)[0].tobytes()
        for name in ("item_ids", "scores") if view == "dicer_user_attraction" else ():
            rows = table.lists(name, np.arange(table.row_count))
            told[name] = [None if row is None else row[0].slice(row[2], row[3] - row[2]).to_pylist() for row in rows]
    return told


@pytest.fixture(scope="module")
def right(genuine: Path) -> dict[str, Any]:
    return answers(open_releases(genuine).current())


@given(data=st.data(), edits=st.one_of(ANY_EDITS, SAME_LENGTH))
@fuzzed(80)
def test_a_store_with_one_file_changed(
    genuine: Path, right: dict[str, Any], data: st.DataObject, edits: list[Edit]
) -> None:
    path = genuine / data.draw(st.sampled_from(files_of(genuine)))
    fed(f"stored bytes, {path.suffix or path.name}")
    with changed((path, edited(path.read_bytes(), edits))):
        try:
            release = open_releases(genuine).current()
            told = answers(release)
            verify(release)
        except AttractorError:
            return
    if path.name != POINTER:  # the pointer may tell another instant
        assert told == right, f"{path} changed and was not noticed"


@given(data=st.data(), edits=SAME_LENGTH)
@fuzzed(80)
def test_a_release_that_was_made_to_hash_right(genuine: Path, data: st.DataObject, edits: list[Edit]) -> None:
    """As only somebody who means it makes one: bytes changed, and manifest and address with them."""
    (directory,) = (genuine / "releases").iterdir()
    manifest = read_json(directory / MANIFEST)
    name = data.draw(st.sampled_from(sorted(manifest["files"])))
    content = edited((directory / name).read_bytes(), edits)
    manifest["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    manifest["release_id"] = release_id_of(manifest)
    fed(f"hashed bytes, {Path(name).suffix}")
    with changed((directory / name, content), (directory / MANIFEST, as_json(manifest))):
        try:
            release = open_release(directory)
            answers(release)
        except ArtifactCorrupt:
            return
        verify(release)


@given(st.data(), st.booleans())
@fuzzed(80)
def test_a_manifest_with_one_value_changed(genuine: Path, data: st.DataObject, hashes_right: bool) -> None:
    (directory,) = (genuine / "releases").iterdir()
    manifest = replaced(read_json(directory / MANIFEST), data.draw)
    if hashes_right and set(IDENTITY) <= set(manifest):
        manifest["release_id"] = release_id_of(manifest)
    fed("manifest values")
    with changed((directory / MANIFEST, as_json(manifest))):
        try:
            answers(open_release(directory))
        except ArtifactCorrupt as error:
            assert directory.name in str(error)  # noqa: PT017


@given(st.data(), st.sampled_from([POINTER, READY]))
@fuzzed(60)
def test_a_pointer_or_a_mark_with_one_value_changed(genuine: Path, data: st.DataObject, which: str) -> None:
    path = genuine / POINTER if which == POINTER else next((genuine / "releases").iterdir()) / READY
    fed("pointer values")
    with changed((path, as_json(replaced(read_json(path), data.draw)))):
        try:
            answers(open_releases(genuine).current())
        except AttractorError as error:
            assert str(error)  # noqa: PT017


# What is accepted reads back equal


@given(st.lists(PEOPLE, unique=True, max_size=12), st.lists(PEOPLE, max_size=6), st.integers(0, 2**32 - 1))
@fuzzed(20)
def test_any_ids_read_back_what_was_stored_for_them(
    copies: Path, known: list[str], strangers: list[str], seed: int
) -> None:
    folder = copies / "table"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    vectors = np.random.default_rng(seed).normal(size=(len(known), 3)).astype(np.float32)
    columns = {"user_id": known, "interest_embedding": list(vectors)}
    pq.write_table(pa.table(columns, KARMA_USER_INTEREST.schema), folder / "scored.parquet")
    write_table(folder / "scored.parquet", KARMA_USER_INTEREST, folder)
    table = open_table(folder, KARMA_USER_INTEREST)
    fed("ids")
    asked = [*known, *strangers]
    rows = table.locate([pa.array(asked, pa.string())])
    assert rows.tolist() == [table.locate_one([one]) for one in asked]
    assert (rows >= 0).tolist() == [one in known for one in asked]
    if known:
        assert (table.vectors("interest_embedding", rows[: len(known)]) == vectors).all()
        assert table.column("user_id", rows[rows >= 0]).to_pylist() == [one for one in asked if one in known]


@given(st.lists(st.tuples(PEOPLE, LISTS), max_size=8))
@fuzzed(15)
def test_any_lists_read_back_as_they_were_stored(
    copies: Path, lists: list[tuple[str, list[tuple[str, float]]]]
) -> None:
    folder = copies / "lists"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    of = dict(lists)
    columns = {
        "user_id": list(of),
        "item_ids": [[item for item, _ in row] for row in of.values()],
        "scores": [[score for _, score in row] for row in of.values()],
    }
    pq.write_table(pa.table(columns, DICER_USER_ATTRACTION.schema), folder / "scored.parquet")
    write_table(folder / "scored.parquet", DICER_USER_ATTRACTION, folder)
    table = open_table(folder, DICER_USER_ATTRACTION)
    fed("lists")
    for number, user in enumerate(of):
        (row,) = table.locate([pa.array([user], pa.string())])
        assert table.column("item_ids", np.array([row])).to_pylist() == [columns["item_ids"][number]]
        stored = np.array(table.column("scores", np.array([row])).to_pylist()[0], np.float32)
        assert stored.tobytes() == np.array(columns["scores"][number], np.float32).tobytes()


@given(st.lists(st.tuples(PEOPLE, st.integers(-(2**63), 2**63 - 1)), unique=True, min_size=1, max_size=40))
@fuzzed(60)
def test_the_vectorised_hash_of_any_key_is_the_plain_one(keys: list[tuple[str, int]]) -> None:
    columns = [pa.array([text for text, _ in keys], pa.string()), pa.array([number for _, number in keys], pa.int64())]
    fed("keys")
    again = [pa.concat_arrays([column] * 30) for column in columns]  # beyond FEW_KEYS, so that it is the other way
    assert key_hashes(again)[: len(keys)].tolist() == [key_hash(key) for key in keys]


@given(ANY_EDITS, st.booleans())
@fuzzed(80)
def test_an_index_with_bytes_changed(copies: Path, edits: list[Edit], rows: bool) -> None:
    hashes = np.random.default_rng(0).integers(2**64, size=50, dtype=np.uint64)
    write_index(copies, "view", hashes)
    path = copies / ("view.rows.npy" if rows else "view.hashes.npy")
    path.write_bytes(edited(path.read_bytes(), edits))
    fed("index bytes")
    try:
        index = open_index(copies, "view")
        index.check(len(hashes))
    except ArtifactCorrupt:
        return
    assert sorted(index.rows.tolist()) == list(range(len(hashes)))
    for wanted in hashes[:5]:
        assert all(0 <= row < len(hashes) for row in index.rows_of(int(wanted)))

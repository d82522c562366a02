"""The list of erased users, the rows it keeps from landing, and tables without one user, against slow references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.checked_tables import QUARANTINE, write_checked
from features.contracts import FEATURES, IDS, PUBLISHED, RAW, SOCIAL_EDGES, USER_COLUMNS, USERS
from features.erased_users import LIST, NOBODY, SALT_BYTES, ErasedUsers, hashed, naming, read_erased, remember, without
from features.errors import ArtifactCorrupt
from features.sources import Rows

SALT = bytes(range(SALT_BYTES))
IDS_DRAWN = st.sampled_from(["ann", "bob", "cy", "an", "ann "])


def test_a_user_is_on_the_list_by_a_hash_and_never_by_the_id(tmp_path: Path) -> None:
    assert "ann" not in read_erased(tmp_path)
    remember(tmp_path, "ann", salt=SALT)
    remember(tmp_path, "bob", salt=bytes(SALT_BYTES))  # the first one's salt stays
    remember(tmp_path, "bob", salt=SALT)
    erased = read_erased(tmp_path)
    assert [user in erased for user in ("ann", "bob", "an", "Ann")] == [True, True, False, False]
    assert (len(erased.hashes), erased.salt) == (2, SALT)
    assert b"ann" not in (tmp_path / LIST).read_bytes()
    assert hashed("ann", SALT) != hashed("ann", bytes(SALT_BYTES))


@pytest.mark.parametrize("text", ["{", "{}", '{"salt": "zz", "users": []}', '{"salt": "00", "users": [1]}', "[]"])
def test_a_list_that_cannot_be_read_stops_whoever_asks(tmp_path: Path, text: str) -> None:
    (tmp_path / LIST).write_text(text)
    with pytest.raises(ArtifactCorrupt, match=LIST):
        read_erased(tmp_path)


def test_a_short_salt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        remember(tmp_path, "ann", salt=b"salt")


def test_every_column_of_the_contracts_that_holds_users_is_known() -> None:
    named = {
        column.name
        for table in (*RAW.values(), *FEATURES.values(), *PUBLISHED.values())
        for column in table.columns
        if column.references == "users.user_id" or column.name == "user_id" or "user_ids" in column.name
    }
    lists = {c.name for table in FEATURES.values() for c in table.columns if c.type == IDS}
    of_items = {"item_ids", "similar_item_ids", "queries", "tags"}
    assert named | (lists - of_items) == USER_COLUMNS


def test_landing_leaves_erased_users_out_and_counts_the_others_rows_as_the_source_does(tmp_path: Path) -> None:
    remember(tmp_path, "ann", salt=SALT)
    erased = read_erased(tmp_path)
    users = pa.record_batch({"user_id": ["ann", "bob", "ann", "cy", "bob", "ann"]})
    checked = write_checked(USERS, [Rows(users, 0)], tmp_path, known={}, refuse=False, erased=erased)
    assert pq.read_table(tmp_path / "users.parquet")["user_id"].to_pylist() == ["bob", "cy"]
    assert checked.rows == 2
    repeated = pq.read_table(tmp_path / QUARANTINE / "users.parquet")
    assert (repeated["row"].to_pylist(), repeated["user_id"].to_pylist()) == ([4], ["bob"])


def test_an_edge_goes_with_either_end_and_is_no_violation(tmp_path: Path) -> None:
    remember(tmp_path, "ann", salt=SALT)
    edges = pa.record_batch({"user_id": ["ann", "bob", "bob"], "friend_id": ["bob", "ann", "cy"]})
    known = {"users.user_id": pl.Series(["bob", "cy"]).implode()}
    erased = read_erased(tmp_path)
    checked = write_checked(SOCIAL_EDGES, [Rows(edges, 0)], tmp_path, known=known, refuse=True, erased=erased)
    assert (checked.rows, checked.quarantined) == (1, {})
    assert pq.read_table(tmp_path / "social_edges.parquet").select(["user_id", "friend_id"]).to_pylist() == [
        {"user_id": "bob", "friend_id": "cy"}
    ]


@given(st.lists(st.none() | IDS_DRAWN, max_size=9))
def test_rows_of_erased_users_are_found_as_one_by_one(ids: list[str | None]) -> None:
    erased = ErasedUsers(SALT, frozenset({hashed("ann", SALT), hashed("cy", SALT)}))
    batch = pa.record_batch([pa.array(ids, pa.string())], names=["user_id"])
    assert erased.rows(batch).tolist() == [user in ("ann", "cy") for user in ids]
    assert not NOBODY.rows(batch).any()


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.none() | IDS_DRAWN,
            "friend_ids": st.none() | st.lists(IDS_DRAWN, max_size=4),
            "item_ids": st.lists(IDS_DRAWN, max_size=2),
        }
    ),
    max_size=6,
)


@given(ROWS, st.integers(0, 3))
def test_a_batch_without_a_user_is_what_python_makes_of_it(rows: list[dict[str, Any]], skipped: int) -> None:
    schema = pa.schema({"user_id": pa.string(), "friend_ids": IDS, "friend_count": pa.int64(), "item_ids": IDS})
    counted = [row | {"friend_count": None if row["friend_ids"] is None else len(row["friend_ids"])} for row in rows]
    batch = pa.RecordBatch.from_pylist(counted, schema=schema).slice(skipped)
    expected = []
    for row in batch.to_pylist():
        if row["user_id"] != "ann":
            friends = None if row["friend_ids"] is None else [one for one in row["friend_ids"] if one != "ann"]
            expected.append(row | {"friend_ids": friends, "friend_count": None if friends is None else len(friends)})
    assert without(batch, "ann").to_pylist() == expected
    assert without(batch, "ann").schema == schema
    assert naming(batch, "ann").tolist() == [
        row["user_id"] == "ann" or "ann" in (row["friend_ids"] or []) for row in batch.to_pylist()
    ]
    assert not naming(without(batch, "ann"), "ann").any()

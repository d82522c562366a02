"""Reading a released table against the plain Python that it replaces, across record batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from export.staging import write_table
from features.contracts import DICER_USER_ATTRACTION, KARMA_USER_INTEREST
from features.errors import ArtifactCorrupt
from features.key_index import key_hashes, write_index
from features.release_table import BATCH_ROWS, INDEX_FOLDER, ROWS_FILE, ReleasedTable, open_table, stored_schema
from tests.scored_nights import tables, write_scored

ROWS = BATCH_ROWS + 1000


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> ReleasedTable:
    """ROWS users in two record batches; the vector of user i is (i, -i)."""
    folder = tmp_path_factory.mktemp("vectors")
    numbers = np.random.default_rng(0).permutation(ROWS)
    embeddings = [[float(number), -float(number)] for number in numbers]
    columns = {"user_id": [f"user {number}" for number in numbers], "interest_embedding": embeddings}
    write_table(
        write_scored(folder, {"karma_user_interest": columns}) / "karma_user_interest.parquet",
        KARMA_USER_INTEREST,
        folder,
    )
    return open_table(folder, KARMA_USER_INTEREST)


def test_every_vector_is_found_again_in_the_order_asked_for(vectors: ReleasedTable) -> None:
    numbers = np.random.default_rng(1).integers(0, ROWS, 3000)
    rows = vectors.locate([pa.array([f"user {number}" for number in numbers])])
    assert (vectors.vectors("interest_embedding", rows) == np.stack([numbers, -numbers], axis=1)).all()
    assert rows[:50].tolist() == [vectors.locate_one([f"user {number}"]) for number in numbers[:50]]
    assert vectors.locate_one(["nobody"]) == -1
    assert vectors.column("user_id", rows).to_pylist() == [f"user {number}" for number in numbers]
    assert len(vectors.batches) == 2
    assert vectors.row_count == ROWS


def test_rows_are_sorted_by_key_whatever_the_order_scored(vectors: ReleasedTable) -> None:
    keys = [key for batch in vectors for key in batch.column("user_id").to_pylist()]
    assert keys == sorted(f"user {number}" for number in range(ROWS))


def test_unknown_keys_and_no_keys(vectors: ReleasedTable) -> None:
    assert vectors.locate([pa.array(["user 1", "nobody", ""])]).tolist()[1:] == [-1, -1]
    assert vectors.locate([pa.array([], pa.string())]).tolist() == []
    assert vectors.vectors("interest_embedding", np.empty(0, np.int64)).shape == (0, 2)
    assert vectors.column("user_id", np.empty(0, np.int64)).to_pylist() == []


def test_keys_that_share_a_hash_are_told_apart(tmp_path: Path) -> None:
    """All keys get one hash, so that only the comparison with the stored key decides."""
    columns = {"user_id": ["b", "c", "a"], "interest_embedding": [[2.0], [3.0], [1.0]]}
    scored = write_scored(tmp_path, {"karma_user_interest": columns}) / "karma_user_interest.parquet"
    write_table(scored, KARMA_USER_INTEREST, tmp_path)
    asked = pa.array(["c", "a", "b", "c"])
    write_index(tmp_path / INDEX_FOLDER, "karma_user_interest", np.repeat(key_hashes([asked])[:1], 3))
    table = open_table(tmp_path, KARMA_USER_INTEREST)
    assert table.locate([asked.slice(0, 1)]).tolist() == [2]
    assert table.locate([asked]).tolist() == [2, -1, -1, 2]  # the others hash elsewhere now: not found, never wrong


def test_lists_of_any_length_come_back(tmp_path: Path) -> None:
    columns = tables(users=5)["dicer_user_attraction"]
    scored = write_scored(tmp_path, {"dicer_user_attraction": columns}) / "dicer_user_attraction.parquet"
    write_table(scored, DICER_USER_ATTRACTION, tmp_path)
    table = open_table(tmp_path, DICER_USER_ATTRACTION)
    rows = table.locate([pa.array(columns["user_id"])])
    assert table.column("item_ids", rows).to_pylist() == columns["item_ids"]
    assert table.column("scores", rows).to_pylist() == columns["scores"]


def test_a_table_without_rows_can_be_read(tmp_path: Path) -> None:
    scored = write_scored(tmp_path, {"karma_user_interest": {"user_id": [], "interest_embedding": []}})
    write_table(scored / "karma_user_interest.parquet", KARMA_USER_INTEREST, tmp_path)
    table = open_table(tmp_path, KARMA_USER_INTEREST)
    assert table.row_count == 0
    assert table.locate([pa.array(["a"])]).tolist() == [-1]


def test_a_file_that_is_not_the_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "karma_user_interest" / ROWS_FILE
    file.parent.mkdir()
    with pytest.raises(ArtifactCorrupt, match=r"rows\.arrow"):
        open_table(tmp_path, KARMA_USER_INTEREST)
    file.write_bytes(b"not Arrow")
    with pytest.raises(ArtifactCorrupt, match=r"rows\.arrow"):
        open_table(tmp_path, KARMA_USER_INTEREST)
    other = stored_schema(DICER_USER_ATTRACTION, 0)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, other) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], schema=other))
    with pytest.raises(ArtifactCorrupt, match="interest_embedding"):
        open_table(tmp_path, KARMA_USER_INTEREST)

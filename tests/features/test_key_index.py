"""The key index finds every key it was given and proposes nothing that a comparison would not catch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import ArtifactCorrupt
from features.key_index import KeyIndex, key_hash, key_hashes, open_index, write_index


@given(st.lists(st.text(max_size=40), unique=True, min_size=1, max_size=50))
@settings(max_examples=25, deadline=None)
def test_hashes_depend_on_the_value_alone(texts: list[str]) -> None:
    """Of a key among others, of one alone, of a slice, and of the plain Python reference."""
    together = key_hashes([pa.array(texts, pa.string())])
    assert together.tolist() == [key_hash([text]) for text in texts]
    alone = [key_hashes([pa.array([text], pa.string())])[0] for text in texts]
    sliced = key_hashes([pa.array(["before", *texts], pa.string()).slice(1)])
    assert together.tolist() == alone == sliced.tolist()
    assert len(set(together.tolist())) == len(texts)


def test_text_is_not_confused_with_its_padding_nor_one_column_with_two() -> None:
    texts = ["", "\0", "a", "a\0", "a" * 8, "a" * 8 + "\0", "a" * 16]
    assert len(set(key_hashes([pa.array(texts)]).tolist())) == len(texts)
    one_way = key_hashes([pa.array(["a"]), pa.array(["b"])])
    other_way = key_hashes([pa.array(["b"]), pa.array(["a"])])
    assert one_way != other_way


def test_integers_and_composite_keys_are_keys_too() -> None:
    numbers = pa.array([1, 2, -1, 2**40])
    assert len(set(key_hashes([numbers]).tolist())) == 4
    pairs = key_hashes([pa.array(["u", "u", "v"]), pa.array([1, 2, 1])])
    assert pairs.tolist() == [key_hash(key) for key in (("u", 1), ("u", 2), ("v", 1))]
    assert key_hashes([numbers]).tolist() == [key_hash([number]) for number in numbers.to_pylist()]
    assert len(set(pairs.tolist())) == 3


def test_a_missing_key_is_an_error() -> None:
    with pytest.raises(ValueError, match="without nulls"):
        key_hashes([pa.array(["a", None])])


def test_candidates_walk_along_rows_that_share_a_hash() -> None:
    index = KeyIndex(np.array([3, 7, 7, 9], np.uint64), np.array([2, 0, 3, 1]))
    wanted = np.array([7, 9, 8, 10], np.uint64)
    assert index.candidates(wanted, 0).tolist() == [0, 1, -1, -1]
    assert index.candidates(wanted, 1).tolist() == [3, -1, -1, -1]
    assert [list(index.rows_of(wanted)) for wanted in (7, 9, 8, 10)] == [[0, 3], [1], [], []]
    assert index.shared_rows().tolist() == [0, 3]


def test_an_index_comes_back_from_disk(tmp_path: Path) -> None:
    hashes = key_hashes([pa.array(["c", "a", "b"])])
    write_index(tmp_path, "keys", hashes)
    assert open_index(tmp_path, "keys").candidates(hashes, 0).tolist() == [0, 1, 2]
    write_index(tmp_path, "none", hashes[:0])
    assert open_index(tmp_path, "none").candidates(hashes, 0).tolist() == [-1, -1, -1]


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys.hashes.npy").write_bytes(b"not an array")
    with pytest.raises(ArtifactCorrupt, match="keys"):
        open_index(tmp_path, "keys")

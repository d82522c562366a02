"""Durable writes: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.files import (
    is_temporary,
    read_json,
    replacing_directory,
    replacing_file,
    sha256_of_file,
    sha256_of_json,
    write_json,
)


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    write_json(target, {"rows": 1})
    with pytest.raises(RuntimeError), replacing_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert read_json(target) == {"rows": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "release"
    with replacing_directory(target) as directory:
        (directory / "old").write_text("old")
        assert is_temporary(directory)
        assert not target.exists()
    with replacing_directory(target) as directory:
        (directory / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_a_directory_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "release"
    with replacing_directory(target) as directory:
        (directory / "old").write_text("old")
    with pytest.raises(RuntimeError), replacing_directory(target) as directory:
        (directory / "new").write_text("new")
        raise RuntimeError("killed")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "figures.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_hashes_see_content_not_order(tmp_path: Path) -> None:
    assert sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})
    (tmp_path / "empty").touch()
    assert sha256_of_file(tmp_path / "empty").startswith("e3b0c44298fc1c14")

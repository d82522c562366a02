"""The hash of code changes with what is computed, however far away, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.source_code import code_hash

SOURCES = {
    "a/__init__.py": "",
    "a/top.py": '"""What it is."""\nfrom a import middle\n\ndef go():\n    """Do."""\n    return middle.half(2)\n',
    "a/middle.py": "def half(x):\n    from b.deep import two  # only when it runs\n    return x / two\n",
    "b/__init__.py": "",
    "b/deep.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from b.shown import Kind\n"
        "import numpy\n\ntwo: 'Kind' = 2\n"
    ),
    "b/shown.py": "class Kind: ...\n",
    "b/sql/rows.sql": "SELECT 1",
    "b/apart.py": "x = 1\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        file = tmp_path / "before" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "before"


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("a/top.py", "half(2)", "half(3)", True),
        ("a/middle.py", "x / two", "two / x", True),
        ("b/deep.py", "= 2", "= 3", True),
        ("b/sql/rows.sql", "1", "2", True),
        ("b/__init__.py", "", "x = 1", True),
        ("a/top.py", "What it is.", "What it was.", False),
        ("a/top.py", "Do.", "Do it.", False),
        ("a/middle.py", "# only when it runs", "", False),
        ("b/shown.py", "...", "x = 1", False),
        ("b/apart.py", "1", "2", False),
    ],
)
def test_what_counts(root: Path, file: str, old: str, new: str, changes: bool) -> None:
    after = root.with_name("after")  # of the same modules, at another place: the place does not count
    before = code_hash("a.top", root=root)
    root.rename(after)
    text = (after / file).read_text()
    (after / file).write_text(text.replace(old, new, 1) if old else new)
    assert (code_hash("a.top", root=after) != before) == changes


def test_several_modules_and_their_order(root: Path) -> None:
    assert code_hash("a.top", "b.apart", root=root) == code_hash("b.apart", "a.top", root=root)
    assert code_hash("a.top", "b.apart", root=root) != code_hash("a.top", root=root)


def test_a_name_that_is_no_module_is_refused(root: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"expected a module of the project below .* got 'a\.nowhere'"):
        code_hash("a.nowhere", root=root)

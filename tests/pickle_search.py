"""Looks for pickles: in code, as whatever writes or reads one, and in files, by what one looks like on disk."""

from __future__ import annotations

import ast
import pickletools
import re
import sqlite3
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
_WITH = {"np.load": "allow_pickle=False", "np.save": "allow_pickle=False", "torch.load": "weights_only=True"}
"""Calls that may not do without an argument."""
_NEVER = re.compile(
    r"torch\.save|(pd|pandas)\.read_pickle|.*\.to_pickle|yaml\.(unsafe_|full_)?load|eval|exec|"
    r"onnx\.load_external_data.*|trust_remote_code"
)


def pickles_in_code(source: str) -> list[str]:
    """What a Python file does that writes, reads or runs a pickle, or runs what it was given."""
    return list(_offences(ast.parse(source)))


def _offences(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            called, arguments = ast.unparse(node.func), {ast.unparse(keyword) for keyword in node.keywords}
            if _NEVER.fullmatch(called) or (called in _WITH and _WITH[called] not in arguments):
                yield f"line {node.lineno}: {ast.unparse(node)}"
            if arguments & {"allow_pickle=True", "weights_only=False", "trust_remote_code=True"}:
                yield f"line {node.lineno}: {ast.unparse(node)}"


def pickles_below(folder: Path) -> list[str]:
    """Files below `folder` that are a pickle, an archive or an array of some, or a database with one in a cell."""
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and _holds_pickle(path)]


def _holds_pickle(path: Path) -> bool:
    content = path.read_bytes()
    if content.startswith(b"\x93NUMPY"):
        return b"'descr': '|O'" in content[:256]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    if content.startswith(b"SQLite format 3\0"):
        return any(map(is_pickle, _blobs(path)))
    return is_pickle(content)


def is_pickle(content: bytes) -> bool:
    """Whether the bytes are a pickle from the first to the last, of any protocol; numbers and text alone are none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what is no pickle may hold escapes that Python doubts
            places = [place for _, _, place in pickletools.genops(content)]
    except (ValueError, IndexError, KeyError, AttributeError, UnicodeDecodeError, OverflowError):
        return False
    return len(places) > 1 and places[-1] == len(content) - 1


def _blobs(database: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from (value for value in row if isinstance(value, bytes))

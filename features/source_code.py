"""Which code made something: a hash of modules and of everything of ours that they import, however indirectly."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from features.files import sha256_of_file, sha256_of_json

_ROOT = Path(__file__).resolve().parents[1]


@cache
def code_hash(*modules: str, root: Path = _ROOT) -> str:
    """Hexadecimal SHA-256 over `modules`, the project's modules that they import, and the SQL in those folders.

    Comments, docstrings and layout do not count, nor what is imported for type checking alone. Raises
    ModuleNotFoundError for a name that is no module of the project.
    """
    waiting, hashes = list(modules), dict[str, str]()
    while waiting:
        name = waiting.pop()
        if name in hashes:
            continue
        file = _file(root, name)
        if file is None:
            raise ModuleNotFoundError(f"expected a module of the project below {root}, got {name!r}")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        waiting += [module for module in (name.rpartition(".")[0], *_imported(tree)) if module and _file(root, module)]
        hashes[name] = sha256_of_json(ast.dump(_without_docstrings(tree)))
        hashes |= {str(query.relative_to(root)): sha256_of_file(query) for query in file.parent.glob("sql/*.sql")}
    return sha256_of_json(hashes)


def _file(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported(node: ast.AST) -> Iterator[str]:
    """Names that may be modules: of `from a import b` both `a` and `a.b`."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree

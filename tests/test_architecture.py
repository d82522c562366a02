"""The house rules that a machine can keep: direction of imports, owners of heavy libraries, sizes, names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("features", "models", "export", "dags")
OWNERS = {"airflow": {"dags"}, "feast": {"features"}, "onnx": {"export"}, "onnxruntime": {"export"}}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "misc"}
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    statements = function.body
    if isinstance(statements[0], ast.Expr) and isinstance(statements[0].value, ast.Constant):
        statements = statements[1:]
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def test_there_is_something_to_check() -> None:
    assert {layer_of(path) for path in SOURCES} == set(LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way_and_heavy_libraries_have_one_owner(path: Path) -> None:
    layer = layer_of(path)
    above = LAYERS[LAYERS.index(layer) + 1 :]
    for module in imported_modules(parse(path)):
        package = module.split(".")[0]
        assert package not in above, f"{path}: {layer} must not import {module}"
        if package in OWNERS:
            assert layer in OWNERS[package], f"{path}: only {OWNERS[package]} may import {module}"
        if module.startswith("torch.onnx"):
            assert layer == "export", f"{path}: only export may import {module}"


@pytest.mark.parametrize(
    "package", ["features", "models", "export", "features/sources", "models/karma", "models/dicer"]
)
def test_a_package_imports_nothing_heavy_by_itself(package: str) -> None:
    heavy = {"feast", "torch", "transformers", "torch_geometric", "onnxruntime", "pandas", "airflow"}
    file = ROOT / package / "__init__.py"
    assert not {module.split(".")[0] for module in imported_modules(parse(file))} & heavy


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (120 if layer_of(path) == "dags" else 400), f"{path} has {lines} lines"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert body_lines(node) <= 40, f"{path}:{node.lineno} {node.name} has {body_lines(node)} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_forbidden(path: Path) -> None:
    assert path.stem not in FORBIDDEN_NAMES
    modules = set(imported_modules(parse(path)))
    assert not modules & {"pickle", "cloudpickle", "joblib"}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in {"everything", "Exception", "BaseException"}, f"{path}:{node.lineno}"


def test_tests_are_not_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))

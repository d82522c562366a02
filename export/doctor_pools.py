"""The doctor on Airflow's pools: those that DAG files name, and those that its database has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from export.doctor_setup import Finding, Setup


def missing_pools(setup: Setup) -> list[Finding]:
    """Pools of a task that Airflow does not have: the task is never started, and waits without a word."""
    if setup.pools is None:
        return []
    return [
        Finding(
            "error",
            f"the pool {pool} does not exist",
            where,
            "Airflow never starts a task whose pool it does not know: the run waits for ever, and nothing fails",
            "airflow pools import pools.json; `make airflow` does so",
        )
        for pool, where in _named(Path(setup.airflow("core", "dags_folder", str(setup.airflow_home / "dags"))))
        if pool not in setup.pools
    ]


def _named(folder: Path) -> Iterator[tuple[str, str]]:
    """Every pool that a file of the DAG folder names, with where."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "pool" and isinstance(node.value, ast.Constant):
                yield str(node.value.value), f"{file}:{node.value.lineno}"

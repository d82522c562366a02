"""One Airflow for the whole session: the shipped airflow.cfg, a home and a database that are thrown away.

Importing airflow reads its environment, so a test imports it in its body, after one of these fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_HOME", str(home))
        environment.setenv("AIRFLOW_CONFIG", str(ROOT / "airflow.cfg"))
        environment.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(ROOT / "dags"))
        environment.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
        yield home


@pytest.fixture(scope="session")
def airflow_database(airflow_home: Path) -> Path:
    from airflow.utils import db

    db.initdb()
    return airflow_home


@pytest.fixture(scope="session")
def dag_bag(airflow_home: Path) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(ROOT / "dags"))

"""Clones for the tests of the doctor: a healthy one, and what breaks it."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

from export import stages
from export.doctor_setup import ROOT, Listener, Setup
from export.ledger import open_ledger
from features.configuration import load
from features.contracts import FEATURES, PUBLISHED
from features.files import sha256_of_file
from features.partitions import partition_path
from tests.ledger_workers import finished_run
from tests.tiny_world import NIGHT, write_world

DAY = dt.timedelta(days=1)
GB = 2**30
HEALTHY_CFG = """
[core]
executor = LocalExecutor
[database]
sql_alchemy_conn = postgresql+psycopg2://db/airflow
[api]
host = 127.0.0.1
"""
BROKEN_CFG = """
[core]
default_timezone = Europe/Berlin
simple_auth_manager_all_admins = True
[database]
sql_alchemy_conn = sqlite:///$AIRFLOW_HOME/airflow.db
[scheduler]
catchup_by_default = True
[api]
host = 0.0.0.0
"""
BROKEN_DAG = """
from airflow.sdk import dag, task
from datetime import datetime

@dag(schedule="@daily", start_date=datetime(2026, 1, 1))
def nights():
    @task(pool="training")
    def land(data_interval_start=None):
        return datetime.now().date().isoformat()
"""


def healthy_clone(root: Path) -> Setup:
    """A clone and a state after two nights, as the checks see them."""
    shutil.copytree(ROOT / "dags", root / "dags")
    (root / "features").mkdir()
    shutil.copy(ROOT / "features" / "feature_store.yaml", root / "features")
    (root / "airflow.cfg").write_text(HEALTHY_CFG)
    configuration = load(write_world(root))
    for date in (NIGHT - DAY, NIGHT):
        stages.land(configuration, date)
        stages.build(configuration, date)
        ledger = open_ledger(configuration)
        partitions = {view: sha256_of_file(partition_path(configuration, view, date)) for view in FEATURES}
        finished_run(ledger, "score", date, size=2 * GB, inputs={"partitions": partitions})
        finished_run(ledger, "stage", date, size=GB)
        for view in PUBLISHED:
            served = configuration.published / view / f"date={date}.parquet"
            served.parent.mkdir(parents=True, exist_ok=True)
            served.touch()
    stages.register(configuration)
    return Setup(
        configuration=configuration,
        now=open_ledger(configuration).now(),
        root=root,
        environment={"AIRFLOW_HOME": str(root)},
        installed={"feast": "0.67.0", "torch": "2.13.0+cpu", "apache-airflow": "3.3.2"},
        requirements=(("pyproject.toml", "torch==2.13.0"), ("constraints.txt", "feast==0.67.0")),
        listeners=(Listener("airflow", 1, "127.0.0.1", 8080), Listener("feast", 2, "::1", 6566)),
        free_bytes=100 * GB,
    )


def with_dag(setup: Setup, text: str, *, cfg: str = HEALTHY_CFG) -> Setup:
    """The only DAG file, and Airflow's settings."""
    for file in (setup.root / "dags").glob("*.py"):
        file.unlink()
    (setup.root / "dags" / "nights.py").write_text(text)
    (setup.root / "airflow.cfg").write_text(cfg)
    return setup

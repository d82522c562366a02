"""OpenLineage events of the night's tasks: Airflow's provider in a process of its own, its events read from a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.lineage import datasets
from features.configuration import load
from tests.tiny_world import NIGHT, write_world

ROOT = Path(__file__).resolve().parents[2]
RUN = f"""
import datetime as dt
from airflow.dag_processing.dagbag import DagBag
nightly = DagBag({str(ROOT / "dags")!r}).dags["nightly"]
# Every other task is taken for done: land and build tell whether events come and what is in them.
done = nightly.test(logical_date=dt.datetime.fromisoformat("{NIGHT}T00:00:00+00:00"),
                    mark_success_pattern=r"^(?!land$|build$).*")
raise SystemExit(str(done.state) != "success")
"""


def test_the_tasks_of_a_night_tell_their_tables_and_a_run_for_each(airflow_database: Path, tmp_path: Path) -> None:
    pytest.importorskip("airflow.providers.openlineage", reason="the extra `lineage` is not installed")
    file, events = write_world(tmp_path), tmp_path / "events.json"
    environment = os.environ | {
        "ATTRACTOR_CONFIG": str(file),
        "PYTHONPATH": str(ROOT),
        "OPENLINEAGE__TRANSPORT__TYPE": "file",
        "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": str(events),
        "OPENLINEAGE__TRANSPORT__APPEND": "true",
    }
    ran = subprocess.run(
        [sys.executable, "-c", RUN], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    for stage in ("land", "build"):
        of_stage = [event for event in told if event["job"]["name"] == f"nightly.{stage}"]
        assert [event["eventType"] for event in of_stage] == ["START", "COMPLETE"]
        assert len({event["run"]["runId"] for event in of_stage}) == 1
        for event in of_stage:
            found = [[(one["namespace"], one["name"]) for one in event[side]] for side in ("inputs", "outputs")]
            assert tuple(found) == datasets(load(file), stage)

"""Airflow as it is operated: its own processes, LocalExecutor, its database in PostgreSQL, asked over its REST API.

It takes minutes, so that it is no part of `make test`; `make test-airflow-postgresql` runs it.
"""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, create_engine, text

from export.ledger import open_ledger
from export.ledger_models import State
from features.configuration import Configuration, load
from features.files import read_json
from features.releases import read_pointer
from models.dicer.config import dicer_tiny
from tests.airflow_processes import ROOT, running_airflow, soon
from tests.tiny_world import NIGHT, write_world

BUNDLES = [
    {
        "name": path.name,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(path)},
    }
    for path in (ROOT / "dags", ROOT / "docs" / "examples")
]
DICER = replace(dicer_tiny(), steps=400, validate_every=20, patience=99)


def listed(client: httpx.Client, path: str, what: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v2/{path}").raise_for_status().json()
    found: list[dict[str, Any]] = answer[what]
    return found


def runs(client: httpx.Client, dag_id: str, *, state: str) -> list[dict[str, Any]]:
    return [run for run in listed(client, f"dags/{dag_id}/dagRuns", "dag_runs") if run["state"] == state]


def switch(client: httpx.Client, dag_id: str, *, on: bool) -> None:
    client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": not on}).raise_for_status()


def kill_the_training(client: httpx.Client, configuration: Configuration, tasks: str) -> int:
    """Kill DICER's training task after a checkpoint; the step that it had come to."""

    def training() -> Any:
        task = client.get(f"/api/v2/{tasks}/dicer.train").raise_for_status().json()
        return task["state"] == "running" and task["pid"]

    pid = soon(training)
    (checkpoint,) = soon(lambda: list(configuration.checkpoints.glob("dicer/*/whole/state.json")), pause=0.01)
    os.kill(pid, signal.SIGKILL)
    step: int = read_json(checkpoint)["step"]
    assert 0 < step < DICER.steps, "it was killed too late to show anything"
    return step


@pytest.mark.airflow_processes
def test_a_night_asked_for_over_rest_outlives_a_killed_worker_and_starts_its_consumer(
    postgresql_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(write_world(tmp_path, dicer=asdict(DICER))))
    configuration = load()
    bundles = {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(BUNDLES)}
    with running_airflow(tmp_path / "airflow", postgresql_database, **bundles) as client:
        dags = {"nightly", "operations", "training", "ranking_refresh"}
        soon(lambda: {dag["dag_id"] for dag in listed(client, "dags", "dags")} == dags)
        night = {"logical_date": None, "conf": {"date": str(NIGHT)}}
        before = {"run_after": f"{NIGHT}T00:00:00Z"}  # today's night, which switching on starts
        asked = client.post("/api/v2/dags/nightly/dagRuns", json=night | before)
        run = f"dags/nightly/dagRuns/{asked.raise_for_status().json()['dag_run_id']}"
        for dag_id in ("ranking_refresh", "nightly"):
            switch(client, dag_id, on=True)

        killed_at = kill_the_training(client, configuration, f"{run}/taskInstances")
        soon(lambda: client.get(f"/api/v2/{run}").json()["state"] in ("success", "failed"))
        switch(client, "nightly", on=False)
        tasks = {task["task_id"]: task for task in listed(client, f"{run}/taskInstances", "task_instances")}
        assert {task["state"] for task in tasks.values()} == {"success"}
        assert {task_id for task_id, task in tasks.items() if task["try_number"] > 1} == {"dicer.train"}
        went_on = client.get(f"/api/v2/{run}/taskInstances/dicer.train/logs/2").text
        assert int(re.findall(r"step (\d+) loss", went_on)[0]) == killed_at + DICER.validate_every
        trained = [run for run in open_ledger(configuration).runs(stage="train") if run.subject.endswith("dicer")]
        assert [attempt.state for attempt in trained] == [State.DONE, State.LOST]

        (event,) = listed(client, "assets/events", "asset_events")
        pointer = read_pointer(configuration.releases)
        assert pointer is not None
        assert event["extra"]["release_id"] == pointer.release_id
        (started,) = soon(lambda: runs(client, "ranking_refresh", state="success"))
        assert started["run_type"] == "asset_triggered"
        engine = create_engine(postgresql_database)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM dag_run WHERE state = 'success'")).scalar_one() == 2
        engine.dispose()

"""The whole night under Airflow, on a market of a hundred people: what `airflow dags test` does, in this process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from features.configuration import Configuration, load
from features.files import read_json
from features.windows import midnight
from tests.tiny_world import NIGHT, write_world

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configuration]:
    file = write_world(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ATTRACTOR_CONFIG", str(file))
        yield load()


@pytest.fixture(scope="module")
def dags(airflow_database: Path) -> dict[str, Any]:
    """The shipped DAGs without their retries, which a failing test would wait for."""
    from airflow.dag_processing.dagbag import DagBag

    found: dict[str, Any] = DagBag(str(ROOT / "dags")).dags
    for dag in found.values():
        for task in dag.tasks:
            task.retries = 0
    return found


def run(dag: Any, date: dt.date) -> dict[str, str]:
    """Run `dag` for the night of `date` and return the state of each task; the run itself must have succeeded."""
    done = dag.test(logical_date=midnight(date))
    assert str(done.state) == "success"
    return {instance.task_id: str(instance.state) for instance in done.get_task_instances()}


def served(configuration: Configuration) -> str:
    release_id: str = read_json(configuration.releases / "current.json")["release_id"]
    return release_id


def test_a_night_trains_what_is_missing_publishes_and_is_the_same_night_again(
    dags: dict[str, Any], configuration: Configuration
) -> None:
    nightly, training = dags["nightly"], dags["training"]
    first = run(nightly, NIGHT)
    assert set(first.values()) == {"success"}
    release_id = served(configuration)
    assert release_id.startswith(NIGHT.isoformat())

    again = run(nightly, NIGHT)
    assert {task_id for task_id, state in again.items() if state == "skipped"} == {
        "training_sets",
        *(f"{model}.{step}" for model in ("karma", "dicer") for step in ("train", "export", "promote")),
    }
    assert served(configuration) == release_id

    assert set(run(training, NIGHT).values()) == {"success"}
    earlier = run(nightly, NIGHT - dt.timedelta(days=1))
    assert (earlier["publish"], earlier["announce"], earlier["close_staging"]) == ("success", "skipped", "success")
    assert served(configuration) == release_id


def test_a_stale_release_is_told_and_keeps_neither_consistency_nor_retention_from_being_looked_at(
    dags: dict[str, Any], configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    write_world(configuration.file.parent, freshness={"max_age": "36h"})
    done = dags["operations"].test(logical_date=midnight(NIGHT))
    states = {instance.task_id: str(instance.state) for instance in done.get_task_instances()}
    assert states == {"freshness": "failed", "consistency": "success", "retention": "success"}
    (alert,) = (record.getMessage() for record in caplog.records if record.name == "export.notifier")
    assert alert.startswith("operations.freshness failed in ")
    assert "STALE" in alert
    assert "max_age is 36h" in alert


def test_a_refused_night_fails_its_audit_and_the_task_says_which_gate_with_its_figures(
    dags: dict[str, Any],
    configuration: Configuration,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = served(configuration)
    write_world(configuration.file.parent, audit={"min_rows_ratio": 9.0})
    done = dags["nightly"].test(logical_date=midnight(NIGHT + dt.timedelta(days=1)))
    states = {instance.task_id: str(instance.state) for instance in done.get_task_instances()}
    assert (states["stage"], states["audit"], states["publish"]) == ("success", "failed", "upstream_failed")
    assert (states["announce"], states["close_staging"]) == ("upstream_failed", "success")
    assert served(configuration) == before
    shown = "".join(capfd.readouterr())
    assert "karma_user_interest, row floor: rows_ratio 1, at least 9 asked (min_rows_ratio)" in shown
    assert "GateFailed" in shown
    (alert,) = (record.getMessage() for record in caplog.records if record.name == "export.notifier")
    assert alert.startswith("nightly.audit failed in ")
    assert "rows_ratio 1, at least 9 asked (min_rows_ratio)" in alert

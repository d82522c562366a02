"""What the tasks do around the stages: who is told, what consumers are told, stages in another environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from features.errors import GateFailed
from tests.scored_nights import configuration_at, publish_night
from tests.tiny_world import NIGHT, write_world

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "karma_user_interest, row floor: rows_ratio 0.4, at least 0.8 asked (min_rows_ratio)"
PUBLISHED = {
    "release_id": "2026-01-21-0123456789ab",
    "date": "2026-01-21",
    "window_end": "2026-01-21T00:00:00+00:00",
    "published_at": "2026-01-21T02:00:00+00:00",
    "live": True,
    "sentence": "live",
}


def failed(error: BaseException) -> dict[str, Any]:
    """What Airflow hands to a callback, as far as it is read."""
    ti = SimpleNamespace(
        dag_id="nightly", task_id="audit", run_id="scheduled__2026-01-21", log_url="http://127.0.0.1/log"
    )
    return {"ti": ti, "exception": error, "params": {}}


def test_a_refused_night_tells_both_kinds_of_notifier_the_gate_and_its_figures(
    airflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dags.orchestration.defaults import tell
    from tests.recorded_alerts import SENT, TOLD

    file = write_world(tmp_path, alerts={"notifier": "tests.recorded_alerts:Recorder"})
    mail = {"class": "tests.recorded_alerts.Mail", "arguments": {"text": "Attractor: {{ alert }}"}}
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(file))
    monkeypatch.setenv("AIRFLOW__ATTRACTOR__NOTIFIERS", json.dumps([mail]))
    tell(failed(GateFailed("release 2026-01-21-0123456789ab", [SENTENCE])))
    (alert,) = TOLD
    assert (alert.subject, alert.run, alert.sentences) == ("nightly.audit", "scheduled__2026-01-21", (SENTENCE,))
    assert [f"Attractor: {alert.text}"] == SENT
    assert SENTENCE in alert.text


def test_a_release_that_went_live_is_announced_with_its_id_and_window(dag_bag: Any) -> None:
    announce = dag_bag.dags["nightly"].task_dict["announce"]
    (release,) = announce.outlets
    event = SimpleNamespace(extra={})
    announce.python_callable(PUBLISHED, outlet_events={release: event})
    assert event.extra == {name: PUBLISHED[name] for name in ("release_id", "date", "window_end", "published_at")}


def test_an_older_night_is_announced_to_nobody(dag_bag: Any) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    announce = dag_bag.dags["nightly"].task_dict["announce"]
    with pytest.raises(AirflowSkipException, match="kept but not served"):
        announce.python_callable(PUBLISHED | {"live": False, "sentence": "kept but not served"}, outlet_events={})


def test_the_consumer_of_the_documentation_starts_on_the_release_and_works_on_the_newest_announced(
    dag_bag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import Asset

    consumers = DagBag(str(ROOT / "docs" / "examples"))
    assert consumers.import_errors == {}
    consumer = consumers.dags["ranking_refresh"]
    (outlet,) = dag_bag.dags["nightly"].task_dict["announce"].outlets
    assert list(consumer.timetable.asset_condition.objects) == [outlet]

    file = write_world(tmp_path)
    configuration = configuration_at(tmp_path)
    release_id = publish_night(configuration, NIGHT)
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(file))
    older = {"release_id": "2026-01-20-0123456789ab", "published_at": "2026-01-20T02:00:00+00:00", "window_end": ""}
    newer = PUBLISHED | {"release_id": release_id}
    events = {Asset("attractor_release"): [SimpleNamespace(extra=newer), SimpleNamespace(extra=older)]}
    chosen = consumer.task_dict["newest"].python_callable(triggering_asset_events=events)
    assert chosen == release_id
    assert consumer.task_dict["refresh"].python_callable(chosen) == 20


PROGRAM = """
import json
from types import SimpleNamespace

from airflow.dag_processing.dagbag import DagBag

dags = DagBag("dags").dags
tasks = {f"{dag_id}.{task.task_id}": task for dag_id, dag in dags.items() for task in dag.tasks}
told = {"types": {name: type(task).__name__ for name, task in tasks.items()}}
task = tasks["nightly.missing_champions"]
ti = SimpleNamespace(bundle_instance=SimpleNamespace(path="."))
told["missing"] = task.execute({"ti": ti})
for name, called in (("answer", "open_staging"), ("trouble", "land")):
    task.op_args = [called, {"date": "2026-01-21"}]
    try:
        task.execute({"ti": ti})
    except Exception as error:
        told[name] = [task.retry_policy.evaluate(error, 1, 2).action.value, str(error)]
print("told:" + json.dumps(told))
"""


def python_without_airflow(folder: Path) -> Path:
    """This environment as one that Airflow is not installed in."""
    (folder / "hidden").mkdir()
    (folder / "hidden" / "airflow.py").write_text("raise ModuleNotFoundError('airflow')\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/hidden:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def test_one_line_of_configuration_runs_every_stage_in_another_environment(airflow_home: Path, tmp_path: Path) -> None:
    source: Mapping[str, Any] = {"kind": "sql", "url_variable": "NO_WAREHOUSE_THERE"}
    file = write_world(tmp_path, source=source)
    unreachable = "postgresql+psycopg://nobody:a-password@127.0.0.1:9/nothing"
    environment = {
        **os.environ,
        "AIRFLOW__ATTRACTOR__PYTHON": str(python_without_airflow(tmp_path)),
        "ATTRACTOR_CONFIG": str(file),
        "NO_WAREHOUSE_THERE": unreachable,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.rpartition("told:")[2])
    here = {name for name, kind in told["types"].items() if kind != "_PythonExternalDecoratedOperator"}
    assert here == {"nightly.announce"}  # only Airflow knows assets
    assert sorted(told["missing"]) == ["dicer", "karma"]
    action, sentence = told["answer"]
    assert (action, "was not scored" in sentence) == ("fail", True)
    assert told["trouble"][0] == "default"
    assert "a-password" not in done.stdout + done.stderr

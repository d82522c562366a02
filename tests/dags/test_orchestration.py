"""What the tasks do around the stages: who is told, and what consumers are told."""

from __future__ import annotations

import json
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

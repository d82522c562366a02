"""Trainings in MLflow: a real tracking database, read back by its own client; nothing where nothing is asked for."""

from __future__ import annotations

import datetime as dt
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.ledger import Job, open_ledger
from export.ledger_models import State
from export.stages import _run
from export.tracking import TrackingConfig
from features.configuration import Configuration
from features.errors import ConfigurationError
from features.releases import MANIFEST, RELEASES
from features.windows import night_window
from tests.ledger_workers import job
from tests.scored_nights import configuration_at, publish_night

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # of MLflow's queries

NIGHT = dt.date(2026, 3, 2)
VERSION = "karma-1"  # as hand-made nights have it
METRICS = {"steps": 20, "test": {"model": {"HR@10": 0.3, "MRR": None}, "popularity": {"HR@10": 0.1}}}
HISTORY = [[10, 2.5, 0.1], [20, 2.0, 0.3]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow database; its tables are made by the first who asks, which takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def configuration(tmp_path: Path, database: str) -> Configuration:
    return configuration_at(tmp_path, tracking={"uri": database, "experiment": tmp_path.name})


def runs(database: str, experiment: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(database)
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []


def stage_job(configuration: Configuration, stage: str, subject: str, figures: dict[str, Any], artifact: str) -> Job:
    made = configuration.state / "made"

    def work() -> dict[str, Any]:
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch()
        return figures

    inputs = {"training_set": "f00d", "config": {"steps": 20, "learning_rate": 0.001, "history": "full"}}
    one = job(made, work=work, stage=stage, subject=subject, window=night_window(NIGHT), inputs=inputs)
    return replace(one, artifact=lambda figures: artifact)


def train_job(configuration: Configuration) -> Job:
    state = configuration.state / "checkpoints/karma/abc/run/training/state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"history": HISTORY}))
    return stage_job(configuration, "train", f"{NIGHT}/karma", {"metrics": METRICS}, "checkpoints/karma/abc")


def export_job(configuration: Configuration) -> Job:
    figures = {"version": VERSION, "metrics": METRICS, "parity": {"encoder.onnx": {"worst": 1e-6, "holds": True}}}
    return stage_job(configuration, "export", f"{NIGHT}/karma", figures, VERSION)


def test_a_training_is_one_run_from_its_parameters_to_the_release_that_serves_it(
    configuration: Configuration, database: str
) -> None:
    from mlflow.tracking import MlflowClient

    _run(configuration, train_job(configuration))
    experiment = configuration.file.parent.name
    (trained,) = runs(database, experiment)
    assert trained.info.status == "FINISHED"
    assert trained.data.params == {"steps": "20", "learning_rate": "0.001", "history": "full"}
    told = {"steps": 20, "test/model/HR_at_10": 0.3, "test/popularity/HR_at_10": 0.1}
    assert told.items() <= trained.data.metrics.items()
    assert "test/model/MRR" not in trained.data.metrics
    curve = MlflowClient(database).get_metric_history(trained.info.run_id, "training/validation")
    assert [(point.step, point.value) for point in curve] == [(step, value) for step, _, value in HISTORY]
    tags = trained.data.tags
    assert (tags["mlflow.runName"], tags["attractor.window_end"]) == (f"karma {NIGHT}", "2026-03-02T00:00:00+00:00")
    assert (tags["attractor.code"], tags["attractor.training_set"]) == ("c0de", "f00d")

    _run(configuration, export_job(configuration))
    _run(configuration, stage_job(configuration, "promote", VERSION, {}, VERSION))
    release_id = publish_night(configuration, NIGHT)
    manifest = json.loads((configuration.releases / RELEASES / release_id / MANIFEST).read_text())
    assert manifest["models"]["karma"] == VERSION
    _run(configuration, stage_job(configuration, "publish", release_id, {"live": True}, release_id))
    (served,) = runs(database, experiment)
    assert served.info.run_id == trained.info.run_id
    assert served.data.tags["attractor.artifact"] == VERSION
    assert served.data.tags["attractor.release"] == release_id
    assert served.data.tags["attractor.promoted_at"]
    assert served.data.metrics["parity/encoder.onnx"] == 1e-6


def test_a_stage_that_is_re_used_is_not_told_again_and_an_export_tells_what_was_missed(
    configuration: Configuration, database: str
) -> None:
    silent = replace(configuration, sections={})
    training = train_job(configuration)
    _run(silent, training)
    assert _run(configuration, training).reused
    experiment = configuration.file.parent.name
    assert runs(database, experiment) == []
    _run(configuration, export_job(configuration))
    (run,) = runs(database, experiment)
    assert run.data.tags["attractor.artifact"] == VERSION
    assert run.data.metrics["training/loss"] == 2.0
    assert run.data.params["steps"] == "20"


def test_a_server_that_is_away_is_a_warning_and_the_training_stands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = configuration_at(tmp_path, tracking={"uri": "http://127.0.0.1:9"})
    with caplog.at_level(logging.WARNING, logger="export.tracking"):
        assert not _run(away, train_job(away)).reused
    assert open_ledger(away).runs()[0].state is State.DONE
    assert f"train {NIGHT}/karma was not tracked: " in caplog.text


def test_mlflow_that_is_missing_is_a_warning_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)  # what `import` makes of a package that is not there
    asked = configuration_at(tmp_path, tracking={"uri": "http://127.0.0.1:9"})
    with caplog.at_level(logging.WARNING, logger="export.tracking"):
        assert not _run(asked, train_job(asked)).reused
    assert "pip install 'attractor[tracking]'" in caplog.text


def test_where_nothing_is_configured_mlflow_is_not_imported() -> None:
    program = "import sys, export.tracking; sys.exit(any(name.partition('.')[0] == 'mlflow' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_password_belongs_into_the_environment() -> None:
    with pytest.raises(ValueError, match="without a password"):
        TrackingConfig(uri="postgresql://mlflow:hidden@db/mlflow")
    with pytest.raises(ValueError, match="got both"):
        TrackingConfig(uri="http://127.0.0.1:5000", uri_variable="MLFLOW_DATABASE")
    named = TrackingConfig(uri_variable="MLFLOW_DATABASE")
    assert named.address({"MLFLOW_DATABASE": "postgresql://mlflow:hidden@db/mlflow"}).endswith("/mlflow")
    with pytest.raises(ConfigurationError, match="MLFLOW_DATABASE, which is not set"):
        named.address({})
    assert not TrackingConfig().is_on

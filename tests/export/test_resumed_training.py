"""A worker that dies in the middle of a training: the retried task goes on from the checkpoint."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from export import tasks
from export.ledger import open_ledger
from export.ledger_models import State
from features.configuration import load
from features.files import read_json
from models.dicer.config import dicer_tiny
from tests.tiny_world import NIGHT, write_world

ROOT = Path(__file__).resolve().parents[2]
TRAIN = f"from export import tasks; tasks.train({str(NIGHT)!r}, 'dicer')"


def test_a_training_whose_worker_was_killed_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(dicer_tiny(), steps=400, validate_every=20, patience=99)
    file = write_world(tmp_path, dicer=asdict(config))
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(file))
    configuration, date = load(), str(NIGHT)
    tasks.land(date)
    tasks.build(date)
    tasks.register()
    tasks.training_sets(date)
    with subprocess.Popen([sys.executable, "-c", TRAIN], cwd=ROOT) as worker:
        while not (found := list(configuration.checkpoints.glob("dicer/*/whole/state.json"))):
            assert worker.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        worker.kill()
    killed_at = read_json(found[0])["step"]
    assert 0 < killed_at < config.steps, "it was killed too late to show anything"

    caplog.set_level(logging.INFO, logger="models.training")
    run_id = tasks.train(date, "dicer")
    validated = [record.args[1] for record in caplog.records if record.name == "models.training" and record.args]
    assert validated[0] == killed_at + config.validate_every
    assert validated[-1] == config.steps
    last, first = open_ledger(configuration).runs(stage="train")
    assert (first.state, last.state, last.id, last.artifact) == (State.LOST, State.DONE, run_id, last.artifact)
    assert "was last heard of" in last.reason

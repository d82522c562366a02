"""A fixed seed learns along a committed curve; `pytest --write-goldens` writes it anew, a reviewer reads the diff."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from features.files import read_json, write_text
from models.karma.config import karma_tiny
from models.karma.training import train_karma
from tests.karma_world import training_set

GOLDEN = Path(__file__).with_name("golden_curve.json")


def curve(folder: Path) -> dict[str, list[list[float]]]:
    """(step, loss, validation) of both loops of the tiny configuration."""
    config = replace(karma_tiny(), validate_every=2, pretraining_steps=8, steps=20, patience=99)
    train_karma(training_set(), config, seed=0, checkpoint=folder)
    (run,) = folder.iterdir()
    return {loop: read_json(run / loop / "state.json")["history"] for loop in ("pretraining", "training")}


def test_the_curve_is_the_committed_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = curve(tmp_path)
    if request.config.getoption("--write-goldens"):
        lines = [f'  "{loop}": [\n    ' + ",\n    ".join(map(json.dumps, found[loop])) + "\n  ]" for loop in found]
        write_text(GOLDEN, "{\n" + ",\n".join(lines) + "\n}\n")
    judge(found)


def judge(found: dict[str, list[list[float]]]) -> None:
    """Both loops follow the committed curve."""
    expected = read_json(GOLDEN)
    for loop in ("pretraining", "training"):
        assert len(found[loop]) == len(expected[loop])
        for now, then in zip(found[loop], expected[loop], strict=True):
            assert now == pytest.approx(then, rel=2e-3), "another processor rounds otherwise; another model does more"
    losses = [loss for _, loss, _ in expected["training"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("loop", "kept", "calls"), [("pretraining", 4, 6), ("training", 10, 20)])
def test_a_run_ended_by_kill_9_goes_on_along_the_same_curve(tmp_path: Path, loop: str, kept: int, calls: int) -> None:
    program = f"""
import os, signal
from pathlib import Path
from models import training
from tests.models.karma.test_golden_curve import curve

calls, draw = 0, training.step_generator

def draw_or_die(seed, step):
    global calls
    calls += 1
    if calls == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(seed, step)

training.step_generator = draw_or_die
curve(Path({str(tmp_path)!r}))
"""
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (state,) = tmp_path.glob(f"*/{loop}/state.json")
    assert read_json(state)["step"] == kept, "it was killed between two checkpoints"
    judge(curve(tmp_path))

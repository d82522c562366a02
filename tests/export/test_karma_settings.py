"""Which backbone a training uses: the section's, found beside its file, or the one a command names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from export import jobs, stages
from export.karma_settings import karma_config, with_backbone
from export.learning import SEED
from features.configuration import Configuration, load
from features.errors import ConfigurationError
from features.files import read_json
from features.training_sets import read_training_set
from models.karma.config import NAMED
from models.karma.training import train_karma
from tests.backbone_checkpoints import write_checkpoint
from tests.tiny_world import NIGHT, WORLD, write_world


def configured(root: Path, backbone: str) -> Configuration:
    return Configuration(root / "attractor.toml", root / "state", {"karma": {"backbone": backbone}})


def test_a_directory_beside_the_configuration_is_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "qwen").mkdir()
    assert karma_config(configured(tmp_path, "qwen")).backbone == str(tmp_path / "qwen")
    assert karma_config(configured(tmp_path, "Qwen/Qwen3-0.6B")).backbone == "Qwen/Qwen3-0.6B"
    assert karma_config(configured(tmp_path, "")).backbone == ""


def named(root: Path, name: str, **given: object) -> Configuration:
    return Configuration(root / "attractor.toml", root / "state", {"karma": {"named": name, **given}})


def test_an_arm_is_chosen_by_its_name(tmp_path: Path) -> None:
    lambdas = {"action_only": (0.0, 0.0), "plus_generation": (0.3, 0.0), "plus_reconstruction": (0.0, 0.3)}
    for name, expected in {**lambdas, "karma": (0.3, 0.3)}.items():
        chosen = karma_config(named(tmp_path, name))
        assert (chosen.lambda_generation, chosen.lambda_reconstruction) == expected
        assert chosen == NAMED[name]()
    changed = karma_config(with_backbone(named(tmp_path, "action_only", lambda_generation=0.1, steps=7), "org/model"))
    told = (changed.lambda_generation, changed.lambda_reconstruction, changed.steps, changed.backbone)
    assert told == (0.1, 0.0, 7, "org/model")


def test_another_name_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    known = "action_only, karma, plus_generation, plus_reconstruction"
    with pytest.raises(ConfigurationError, match=rf"\[karma\] named 'actions_only': it may be {known}"):
        karma_config(named(tmp_path, "actions_only"))


def test_a_command_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama").mkdir()
    monkeypatch.chdir(tmp_path)
    before = configured(tmp_path / "elsewhere", "qwen")
    assert with_backbone(before, None) is before
    assert karma_config(with_backbone(before, "llama")).backbone == str(tmp_path / "llama")
    assert karma_config(with_backbone(before, "org/model")).backbone == "org/model"


def test_what_processes_cannot_share_is_told_in_a_line(tmp_path: Path) -> None:
    file = write_world(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    asked = ["-m", "export.torchrun", "--date", NIGHT.isoformat(), "--config", str(file)]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([*launcher, *asked], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "[karma] accumulation must be a multiple of the 2" in line]
    assert told
    assert all("error: " in line and line.endswith("got 1") for line in told)
    assert "ConfigurationError" not in done.stderr, "no traceback of ours"


def test_two_processes_train_what_the_night_then_finds_finished(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "backbone", "smollm")
    settings = {"backbone": "backbone", "adaptation": "lora", "accumulation": 2, "steps": 6, "validate_every": 3}
    file = write_world(tmp_path, karma={**WORLD["karma"], **settings})
    configuration = load(file)
    stages.land(configuration, NIGHT)
    stages.build(configuration, NIGHT)
    stages.register(configuration)
    stages.training_sets(configuration, NIGHT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    asked = ["-m", "export.torchrun", "--date", NIGHT.isoformat(), "--config", str(file)]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([*launcher, *asked], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "FutureWarning" not in done.stderr
    run = jobs.run_directory(configuration, NIGHT, "karma")
    (state,) = run.glob("*/training/state.json")
    alone = train_karma(
        read_training_set(configuration, NIGHT, "karma_training_v1"),
        karma_config(configuration),
        seed=SEED,
        checkpoint=tmp_path / "alone",
    )
    assert alone.metrics["steps"] == 6
    for loop in ("pretraining", "training"):
        (one,) = (tmp_path / "alone").glob(f"*/{loop}/state.json")
        (two,) = run.glob(f"*/{loop}/state.json")
        for found, expected in zip(read_json(two)["history"], read_json(one)["history"], strict=True):
            assert found == pytest.approx(expected, rel=1e-3)
    written = state.stat().st_mtime_ns
    figures = stages.train(configuration, NIGHT, "karma").figures
    assert figures["metrics"]["steps"] == 6
    assert state.stat().st_mtime_ns == written, "it was trained again"
    (checkpoint / "model.safetensors").touch()
    assert jobs.run_directory(configuration, NIGHT, "karma") == run
    write_checkpoint(checkpoint, "qwen3")
    assert jobs.run_directory(configuration, NIGHT, "karma") != run, "other weights, another run"

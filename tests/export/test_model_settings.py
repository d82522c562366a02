"""A model that could not be served is refused before anything is trained, landed or planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export import jobs, stages
from export.model_settings import dicer_config, require_trainable
from export.night import run_night
from export.plan import plan
from features.configuration import Configuration, load
from features.errors import ConfigurationError
from features.files import write_json
from models.dicer.config import NAMED, paper
from tests.command_line import attractor
from tests.tiny_world import NIGHT, write_world

ATTENTION = {"named": "attention_instead_of_modulation"}
REFUSED = "modulation 'attention' can be trained and not exported"


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    """Of a model whose modulation has no tables."""
    return load(write_world(tmp_path, dicer=ATTENTION))


def no_clock() -> Any:
    raise AssertionError("it came as far as a promotion")


def test_other_models_are_taken_as_they_are(tmp_path: Path) -> None:
    assert dicer_config(load(write_world(tmp_path, dicer={"named": "dicer"}))) == paper()


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"attention_instead_of_modulation"}))
def test_an_ablation_is_chosen_by_its_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / "attractor.toml"
    assert dicer_config(Configuration(file, tmp_path, {"dicer": {"named": name}})) == NAMED[name]()
    smaller = dicer_config(Configuration(file, tmp_path, {"dicer": {"named": name, "dimension": 8}}))
    assert smaller == replace(NAMED[name](), dimension=8)


@pytest.mark.parametrize("name", ["gatt", 3, ["gat"], {"gat": 1}])
def test_what_names_no_model_is_refused_with_those_that_there_are(tmp_path: Path, name: object) -> None:
    section = {"dicer": {"named": name}}
    with pytest.raises(ConfigurationError, match=r"\[dicer\] named .*: it may be .*dicer_plus, gat, "):
        dicer_config(Configuration(tmp_path / "attractor.toml", tmp_path, section))


def test_a_night_is_refused_before_it_begins(configuration: Configuration) -> None:
    begun: list[str] = []
    with pytest.raises(ConfigurationError, match=REFUSED):
        run_night(configuration, NIGHT, clock=no_clock, announce=lambda stage, _: begun.append(stage))
    assert begun == []
    with pytest.raises(ConfigurationError, match=REFUSED):
        plan(configuration, NIGHT)


@pytest.mark.parametrize(
    ("section", "settings"), [("encoding", {"precision": "int4"}), ("alignment", {"align": True, "users": 0})]
)
def test_settings_of_the_export_are_read_before_anything_is_trained(
    tmp_path: Path, section: str, settings: dict[str, object]
) -> None:
    configuration = load(write_world(tmp_path))
    wrong = replace(configuration, sections={**configuration.sections, section: settings})
    require_trainable(wrong, "dicer")
    with pytest.raises(ConfigurationError, match=rf"\[{section}\]"):
        require_trainable(wrong, "karma")
    with pytest.raises(ConfigurationError, match=rf"\[{section}\]"):
        plan(wrong, NIGHT)


def test_a_night_that_trains_no_such_model_is_not_refused(configuration: Configuration) -> None:
    write_json(configuration.champions / "dicer.json", {"version": "dicer-1"})
    assert "train/dicer" not in [stage.stage for stage in plan(configuration, NIGHT).stages]


def test_the_training_command_tells_it_in_a_line(
    configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    told = ("--config", str(configuration.file), "--date", str(NIGHT), "--model", "dicer")
    assert attractor("train", *told) == 1
    assert REFUSED in caplog.text
    assert not configuration.raw.exists()


def test_a_training_task_is_refused_on_a_training_set_that_is_there(configuration: Configuration) -> None:
    stages.land(configuration, NIGHT)
    stages.build(configuration, NIGHT)
    stages.register(configuration)
    stages.training_sets(configuration, NIGHT)
    with pytest.raises(ConfigurationError, match=REFUSED):
        jobs.train(configuration, NIGHT, "dicer")
    assert not configuration.checkpoints.exists()

"""Training: it learns, each objective can be switched off, and a killed run ends like one that was not."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from features.errors import NothingToLearn
from features.files import read_json
from models.karma.batches import Sampler
from models.karma.config import (
    NAMED,
    KarmaConfig,
    action_only,
    karma,
    karma_tiny,
    plus_generation,
    plus_reconstruction,
)
from models.karma.network import Karma
from models.karma.text import vocabulary_size
from models.karma.training import TrainedKarma, karma_loss, prepare, read_world, train_karma
from models.training import step_generator
from tests.karma_world import training_set

TINY = karma_tiny()


@pytest.fixture(scope="module")
def trained() -> TrainedKarma:
    return train_karma(training_set(), replace(TINY, steps=60, validate_every=15), seed=1)


def weights(trained: TrainedKarma) -> dict[str, torch.Tensor]:
    return trained.network.state_dict()


def test_it_beats_popularity_where_users_keep_to_a_kind(trained: TrainedKarma) -> None:
    test = trained.metrics["test"]
    assert test["model"]["NDCG@10"] > 1.5 * test["popularity"]["NDCG@10"]
    assert trained.metrics["best_step"] > 0


def test_every_figure_is_a_number_in_a_flat_group(trained: TrainedKarma) -> None:
    for window in ("validation", "test"):
        for group in trained.metrics[window].values():
            assert all(math.isfinite(value) for value in group.values())
    assert trained.metrics["test"]["targets"] == {
        "users": 40,
        "all_targets": 40,
        "new_users": 1,
        "cold_items": 0,
        "labels_of_unknown_items": 1,
        "labels_of_seen_items": 0,
    }


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    config = replace(TINY, steps=60, patience=99)
    program = f"""
import torch
from pathlib import Path
from models.karma.config import KarmaConfig
from models.karma.training import train_karma
from tests.karma_world import training_set
torch.set_num_threads({torch.get_num_threads()})
train_karma(training_set(), {config!r}, seed=3, checkpoint=Path({str(tmp_path)!r}))
"""
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root) as process:
        while not list(tmp_path.glob("*/training/state.json")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
    (state,) = tmp_path.glob("*/training/state.json")
    assert read_json(state)["step"] < config.steps, "it was killed too late to show anything"
    resumed = train_karma(training_set(), config, seed=3, checkpoint=tmp_path)
    whole = train_karma(training_set(), config, seed=3)
    assert resumed.metrics == whole.metrics
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_other_settings_or_data_are_another_run(tmp_path: Path) -> None:
    config = replace(TINY, steps=5, pretraining_steps=5)
    for changed in (config, replace(config, steps=6)):
        train_karma(training_set(), changed, seed=0, checkpoint=tmp_path)
    train_karma(replace(training_set(), fingerprint="other"), config, seed=0, checkpoint=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_seed_decides(trained: TrainedKarma) -> None:
    config = replace(TINY, steps=5, pretraining_steps=5)
    first, again, other = (train_karma(training_set(), config, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert not torch.equal(weights(first)["interest.3.weight"], weights(other)["interest.1.weight"])


def gradients(config: KarmaConfig) -> set[str]:
    """Names of the parameters that one step's loss reaches."""
    features = training_set().train
    preparation = prepare(features, config)
    world = read_world(features, preparation)
    torch.manual_seed(0)
    network = Karma(config, vocabulary=vocabulary_size(preparation.tokenizer), items=34, picture_width=3)
    sampler = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, config)
    karma_loss(network, sampler.draw(step_generator(0, 0)), config).backward()  # type: ignore[no-untyped-call]
    return {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is not None}


ACTION = {"backbone", "interest", "item", "picture", "no_picture", "identity", "log_scale"}


@pytest.mark.parametrize(
    ("named", "reached"),
    [
        (action_only, ACTION),
        (plus_generation, ACTION),
        (plus_reconstruction, ACTION | {"soft"}),
        (karma, ACTION | {"soft"}),
    ],
)
def test_each_objective_can_be_switched_off(named: Callable[[], KarmaConfig], reached: set[str]) -> None:
    lambdas = {name: getattr(named(), name) for name in ("lambda_generation", "lambda_reconstruction")}
    assert gradients(replace(TINY, **lambdas)) == reached


@pytest.mark.parametrize("name", NAMED)
def test_every_named_configuration_trains_a_step(name: str) -> None:
    whole = NAMED[name]()
    tiny = {field: value for field, value in asdict(TINY).items() if not field.startswith("lambda_")}
    config = replace(whole, **{**tiny, "steps": 1, "pretraining_steps": 1, "validate_every": 1})
    assert (config.lambda_generation, config.lambda_reconstruction) == (
        whole.lambda_generation,
        whole.lambda_reconstruction,
    )
    metrics = train_karma(training_set(), config, seed=0).metrics
    assert metrics["steps"] == 1
    assert math.isfinite(metrics["test"]["model"]["NDCG@10"])


def test_the_picture_term_reaches_its_head() -> None:
    assert "painter" in gradients(replace(TINY, lambda_picture=0.5))


def test_what_nothing_can_be_learned_from_is_said() -> None:
    data = training_set()
    one = {**data.train, "item_catalog": data.train["item_catalog"].slice(0, 1)}
    with pytest.raises(NothingToLearn, match="at least 2 items to tell apart, got 1"):
        train_karma(replace(data, train=one), karma_tiny(), seed=0)
    silent = {**data.train, "user_history": data.train["user_history"].slice(0, 0)}
    with pytest.raises(NothingToLearn, match="histories with events"):
        train_karma(replace(data, train=silent), replace(karma_tiny(), pretraining_steps=0), seed=0)


def test_objectives_add_up() -> None:
    features = training_set().train
    preparation = prepare(features, TINY)
    world = read_world(features, preparation)
    torch.manual_seed(0)
    network = Karma(TINY, vocabulary=vocabulary_size(preparation.tokenizer), items=34, picture_width=3).eval()
    batch = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, TINY).draw(
        step_generator(0, 0)
    )

    def loss(generation: float, reconstruction: float) -> float:
        config = replace(TINY, lambda_generation=generation, lambda_reconstruction=reconstruction)
        return float(karma_loss(network, batch, config).detach())

    alone = loss(0, 0)
    assert loss(0.3, 0.2) - alone == pytest.approx(0.3 * (loss(1, 0) - alone) + 0.2 * (loss(0, 1) - alone), rel=1e-3)

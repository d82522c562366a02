"""The loop: it learns, stops, and a killed run ends exactly where an unbroken one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from features.errors import ConfigurationError, TrainingDiverged
from models import processes
from models.training import LoopConfig, fit, learning_rate_share, require_device, step_generator

CONFIG = LoopConfig(steps=40, validate_every=10, learning_rate=0.05, patience=10)


class Killed(Exception):
    """Stands for a SIGKILL between two checkpoints."""


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def learn(
    net: nn.Module, checkpoint: Path | None = None, *, killed_at: int | None = None, config: LoopConfig = CONFIG
) -> list[float]:
    truth = torch.tensor([1.0, -2.0, 0.5, 3.0])
    held_out = torch.randn(64, 4, generator=torch.Generator().manual_seed(9))

    def objective(step: int, generator: torch.Generator) -> Tensor:
        if step == killed_at:
            raise Killed
        rows = torch.randn(32, 4, generator=generator)
        return ((net(rows).squeeze(1) - rows @ truth) ** 2).mean()

    def validate() -> float:
        return -float(((net(held_out).squeeze(1) - held_out @ truth) ** 2).mean())

    result = fit(net, objective, validate, config=config, seed=5, checkpoint=checkpoint)
    return [value for _, _, value in result.history]


def test_it_learns() -> None:
    values = learn(network())
    assert values[-1] > values[0]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("killed_at", [5, 23, 39])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, killed_at: int, accumulate: int) -> None:
    config = replace(CONFIG, accumulate=accumulate)
    unbroken, broken = network(), network()
    expected = learn(unbroken, config=config)
    with pytest.raises(Killed):
        learn(broken, tmp_path / "run", killed_at=killed_at, config=config)
    resumed = network()
    assert learn(resumed, tmp_path / "run", config=config) == expected
    for name, weight in unbroken.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    first, second = network(), network()
    expected = learn(first, tmp_path / "run")
    assert learn(second, tmp_path / "run", killed_at=0) == expected
    assert torch.equal(first.state_dict()["0.weight"], second.state_dict()["0.weight"])


def test_it_stops_when_validation_stops_improving_and_keeps_the_best() -> None:
    net = nn.Linear(1, 1)
    values = iter([1.0, 3.0, 2.0, 2.0, 9.0])
    seen: list[Tensor] = []

    def validate() -> float:
        seen.append(net.weight.detach().clone())
        return next(values)

    config = LoopConfig(steps=100, validate_every=1, patience=2)
    result = fit(net, lambda step, g: net(torch.ones(1, 1)).sum(), validate, config=config, seed=0)
    assert (result.best_value, result.best_step, result.steps) == (3.0, 2, 4)
    assert torch.equal(net.weight, seen[1])


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 0: a lower learning_rate \(now"):
        fit(net, lambda step, g: net(torch.ones(1, 1)).sum() * float("nan"), lambda: 0.0, config=CONFIG, seed=0)


def test_gradients_weights_and_validations_that_are_not_finite_are_errors() -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(TrainingDiverged, match="gradients' norm is nan at step 0"):  # of a square root at 0
        fit(net, lambda step, g: (net.weight * 0).sqrt().sum(), lambda: 0.0, config=CONFIG, seed=0)
    assert torch.isfinite(net.weight).all()
    one = LoopConfig(steps=1, learning_rate=1e37, warmup_steps=1, weight_decay=0.0, validate_every=1)
    net.weight.data.fill_(3.4e38)
    with pytest.raises(TrainingDiverged, match="weights are not finite at step 1"):
        fit(net, lambda step, g: -net.weight.sum(), lambda: 0.0, config=one, seed=0)
    net = nn.Linear(1, 1)
    with pytest.raises(TrainingDiverged, match="validation is nan at step"):
        fit(net, lambda step, g: net.weight.sum(), lambda: float("nan"), config=CONFIG, seed=0)


def test_a_device_that_is_not_there_is_said() -> None:
    require_device("cpu")
    if torch.cuda.is_available():
        require_device("cuda")
    else:
        with pytest.raises(ConfigurationError, match="sees no CUDA device"):
            require_device("cuda")


def test_the_global_generator_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    fit(net, lambda step, g: net(torch.ones(1, 1)).sum(), lambda: 0.0, config=LoopConfig(steps=3), seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_the_learning_rate_rises_then_falls_to_its_final_share() -> None:
    falling = LoopConfig(steps=100, warmup_steps=10, final_share=0.1)
    shares = [learning_rate_share(step, falling) for step in range(100)]
    assert shares.index(max(shares)) == 9
    assert shares[9:] == sorted(shares[9:], reverse=True)
    assert shares[-1] == pytest.approx(0.1)
    level = LoopConfig(steps=100, warmup_steps=10)
    assert [learning_rate_share(step, level) for step in (0, 9, 99)] == [0.1, 1.0, 1.0]


def test_a_step_of_three_batches_follows_the_average_of_their_gradients() -> None:
    truth = torch.tensor([[1.0], [-2.0]])

    def loss(net: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randn(8, 2, generator=generator)
        return ((net(rows) - rows @ truth) ** 2).mean()

    def draws(step: int) -> list[torch.Generator]:
        made = [step_generator(5, 3 * step + part) for part in range(3)]
        for generator in made:
            torch.randint(2**31, (1,), generator=generator)  # the loop takes the seed of dropout first
        return made

    torch.manual_seed(1)
    accumulated, whole = nn.Linear(2, 1), nn.Linear(2, 1)
    whole.load_state_dict(accumulated.state_dict())
    short = replace(CONFIG, steps=10)
    fit(accumulated, lambda _, g: loss(accumulated, g), lambda: 0.0, config=replace(short, accumulate=3), seed=5)
    fit(
        whole,
        lambda step, _: torch.stack([loss(whole, g) for g in draws(step)]).mean(),
        lambda: 0.0,
        config=short,
        seed=5,
    )
    assert torch.allclose(accumulated.weight, whole.weight, atol=1e-6)
    assert not torch.allclose(whole.weight, truth.T, atol=1e-3), "it had arrived: nothing was compared"


def test_running_statistics_do_not_depend_on_the_order_of_a_steps_batches() -> None:
    def after(order: list[int]) -> nn.BatchNorm1d:
        net, seen = nn.BatchNorm1d(1), iter(order)
        net.train()

        def objective(step: int, generator: torch.Generator) -> Tensor:
            rows = torch.randn(8, 1, generator=torch.Generator().manual_seed(next(seen)))
            return net(rows).sum()

        fit(net, objective, lambda: 0.0, config=LoopConfig(steps=1, accumulate=2), seed=0)
        return net

    first, second = after([1, 2]), after([2, 1])
    assert torch.allclose(first.running_mean, second.running_mean, atol=1e-7)
    assert torch.allclose(first.running_var, second.running_var, atol=1e-7)
    assert int(first.num_batches_tracked) == 1


def test_a_checkpoint_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    learn(network(), tmp_path / "run")
    files = sorted((tmp_path / "run").iterdir())
    assert len(files) == 4
    assert len({path.stat().st_mode for path in files}) == 1


def test_what_is_frozen_is_not_written_and_stays_as_it_was(tmp_path: Path) -> None:
    net = network()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    learn(net, tmp_path / "run")
    assert torch.equal(net[0].weight, before)
    assert set(load_file(tmp_path / "run" / "best.safetensors")) == {"2.weight", "2.bias"}


PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn
from models import processes
from models.training import LoopConfig, fit
torch.set_num_threads(1)
torch.manual_seed(3)
net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
unused = nn.Linear(1, 1)
net.register_module("unused", unused)
truth = torch.tensor([1.0, -2.0, 0.5, 3.0])
def predicted(rows):
    return net[3](net[2](net[1](net[0](rows)))).squeeze(1)
def objective(step, generator):
    rows = torch.randn(32, 4, generator=generator)
    return ((predicted(rows) - rows @ truth) ** 2).mean()
held_out = torch.randn(64, 4, generator=torch.Generator().manual_seed(9))
def validate():
    return -float(((predicted(held_out) - held_out @ truth) ** 2).mean())
config = LoopConfig(steps=30, validate_every=10, learning_rate=0.05, accumulate=4)
with processes.joined():
    fitted = fit(net, objective, validate, config=config, seed=5, checkpoint=Path(sys.argv[1]) / "run")
    if processes.rank() == 0:
        (Path(sys.argv[1]) / "curve.json").write_text(json.dumps([processes.count(), fitted.history]))
"""


def curve(folder: Path, *launcher: str) -> tuple[int, list[list[float]]]:
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, *launcher, str(folder / "program.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    processes, history = json.loads((folder / "curve.json").read_text())
    return processes, history


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    alone, expected = curve(tmp_path / "alone")
    together, history = curve(tmp_path / "two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert (alone, together) == (1, 2)
    for one, two in zip(expected, history, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    assert expected[0] != expected[-1]


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    told = "a GPU for each process, got process 3 here and 2 GPUs"
    with pytest.raises(ConfigurationError, match=told), processes.joined("cuda"):
        raise AssertionError("it joined")


def test_batches_that_processes_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.processes.count", lambda: 2)
    with pytest.raises(ValueError, match="multiple of the 2 processes, got 3"):
        fit(nn.Linear(1, 1), lambda s, g: torch.ones(1), lambda: 0.0, config=LoopConfig(accumulate=3), seed=0)


def test_gentle_parameters_learn_at_their_share_of_the_rate() -> None:
    def moved(share: float) -> list[float]:
        net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        for layer in net:
            nn.init.ones_(layer.weight)
        config = replace(CONFIG, steps=1, warmup_steps=0, weight_decay=0.0, gentle="0.", gentle_share=share)
        fit(net, lambda step, g: net(torch.ones(1, 1)).sum(), lambda: 0.0, config=config, seed=0)
        return [1 - float(layer.weight.detach()) for layer in net]

    assert moved(0.1) == pytest.approx([0.005, 0.05], rel=1e-3)  # Adam's first step is the rate itself
    assert moved(0.0) == pytest.approx([0.0, 0.05], rel=1e-3)
    assert moved(1.0) == pytest.approx([0.05, 0.05], rel=1e-3)

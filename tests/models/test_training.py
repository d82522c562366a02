"""The loop: it learns, stops, and a killed run ends exactly where an unbroken one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.training import LoopConfig, fit, learning_rate_share

CONFIG = LoopConfig(steps=40, validate_every=10, learning_rate=0.05, patience=10)


class Killed(Exception):
    """Stands for a SIGKILL between two checkpoints."""


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def learn(
    net: nn.Module, checkpoint: Path | None = None, *, killed_at: int | None = None, steps: int = 40
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

    result = fit(net, objective, validate, config=CONFIG, seed=5, checkpoint=checkpoint)
    return [value for _, _, value in result.history]


def test_it_learns() -> None:
    values = learn(network())
    assert values[-1] > values[0]


@pytest.mark.parametrize("killed_at", [5, 23, 39])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, killed_at: int) -> None:
    unbroken, broken = network(), network()
    expected = learn(unbroken)
    with pytest.raises(Killed):
        learn(broken, tmp_path / "run", killed_at=killed_at)
    resumed = network()
    assert learn(resumed, tmp_path / "run") == expected
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
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(net, lambda step, g: net(torch.ones(1, 1)).sum() * float("nan"), lambda: 0.0, config=CONFIG, seed=0)


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

"""The one training loop: steps, validation, early stopping, and a checkpoint that resumes exactly.

A batch's randomness depends on the seed and its number only, so a run that was killed and resumed ends with the
same weights as one that was not. A step may average the gradients of several batches (`accumulate`); under `torchrun`
the processes share them out, so that the configuration alone, not how many processes there are, decides what is
learned: the same batches, the same averages, up to the order in which floating-point numbers are added.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from features.errors import ConfigurationError, TrainingDiverged
from features.files import read_json, replacing_directory, share_alike
from models import processes
from models.memory import keep_freed_memory

log = logging.getLogger(__name__)

Objective = Callable[[int, torch.Generator], Tensor]
"""`objective(step, generator) -> scalar loss` of one batch, drawn from the generator alone."""


def require_device(device: str) -> None:
    """Raise ConfigurationError if torch does not see the device that a configuration names."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f'device is "cuda", and torch {torch.__version__} sees no CUDA device on this machine')


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, how to step, when to look and when to stop."""

    steps: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    warmup_steps: int = 20
    final_share: float = 1.0  # of the learning rate that is left at the last step; it falls linearly
    gradient_norm: float = 1.0
    validate_every: int = 50
    patience: int = 4  # validations without a new best before stopping
    look_first: bool = False  # whether the weights as they come are a candidate for the best
    accumulate: int = 1  # batches a step; the processes of a run share them
    gentle: str = ""  # parameters whose names begin so learn at `gentle_share` of the rate; empty: none
    gentle_share: float = 1.0


@dataclass(frozen=True)
class Fit:
    """What a run came to: the best validation value, its step, and every (step, loss, value) on the way."""

    best_value: float
    best_step: int
    steps: int
    history: tuple[tuple[int, float, float], ...]


@dataclass
class _State:
    step: int
    best_value: float
    best_step: int
    history: list[tuple[int, float, float]]
    best: dict[str, Tensor]


def fit(
    network: nn.Module,
    objective: Objective,
    validate: Callable[[], float],
    *,
    config: LoopConfig,
    seed: int,
    checkpoint: Path | None = None,
    label: str = "train",
) -> Fit:
    """Train `network` in place and leave its best weights in it; `validate` returns higher for better.

    With `checkpoint`, a directory, the state is saved at every validation and found again after a kill.
    Raises TrainingDiverged if loss, gradients, weights or a validation are not finite, ValueError if processes cannot
    share the batches of a step.
    """
    if config.accumulate % processes.count():
        raise ValueError(f"accumulate must be a multiple of the {processes.count()} processes, got {config.accumulate}")
    keep_freed_memory()
    optimizer = torch.optim.AdamW(_groups(network, config), lr=config.learning_rate, weight_decay=config.weight_decay)
    state = _start(network, optimizer, checkpoint)
    loss_of = _differentiable(network, objective)
    if config.look_first and state.step == 0:
        network.eval()
        with torch.no_grad():
            state.best_value = _validated(validate, state, config)
    remaining = range(state.step, config.steps)
    for step in tqdm(remaining, desc=label, initial=state.step, total=config.steps, disable=None, leave=False):
        if _out_of_patience(state, config):
            break
        loss = _step(network, optimizer, loss_of, step, config=config, seed=seed)
        state.step = step + 1
        if state.step % config.validate_every == 0 or state.step == config.steps:
            _look(network, validate, state, loss, config)
            log.info("%s step %d loss %.4f validation %.4f", label, state.step, loss, state.history[-1][2])
            if checkpoint is not None:
                if processes.rank() == 0:
                    _save(network, optimizer, state, checkpoint)
                processes.wait()
    _restore(network, state.best)
    return Fit(state.best_value, state.best_step, state.step, tuple(state.history))


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of one step: a function of `(seed, step)`, whatever ran before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (2**63 - 1))


def learning_rate_share(step: int, config: LoopConfig) -> float:
    """Share of the learning rate at `step`: a linear rise over the warm-up, a linear fall over the whole run."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * (1.0 - (1.0 - config.final_share) * step / max(1, config.steps - 1))


def _groups(network: nn.Module, config: LoopConfig) -> list[dict[str, Any]]:
    """Parameters by their share of the learning rate."""
    named = list(network.named_parameters())
    gentle = [parameter for name, parameter in named if config.gentle and name.startswith(config.gentle)]
    others = [parameter for name, parameter in named if not (config.gentle and name.startswith(config.gentle))]
    groups = [{"params": others, "share": 1.0}, {"params": gentle, "share": config.gentle_share}]
    return [group for group in groups if group["params"]]


class _Loss(nn.Module):
    """The objective as a module of the network's weights, which is what gradients are averaged for."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, step: int, generator: torch.Generator) -> Tensor:
        return self.objective(step, generator)


def _differentiable(network: nn.Module, objective: Objective) -> nn.Module:
    loss_of = _Loss(network, objective)
    if processes.count() == 1:
        return loss_of
    # Buffers are averaged in `_step`: a broadcast would keep what the first process saw and forget the others'.
    return DistributedDataParallel(loss_of, forward_sync_buffers=False, find_unused_parameters=True)


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: nn.Module,
    step: int,
    *,
    config: LoopConfig,
    seed: int,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = group["share"] * config.learning_rate * learning_rate_share(step, config)
    network.train()
    optimizer.zero_grad(set_to_none=True)
    mine = range(processes.rank(), config.accumulate, processes.count())
    losses, buffers = [], _Buffers(network, batches=len(mine))
    for part in mine:
        # gradients meet once a step, after the last batch of each process
        alone = isinstance(loss_of, DistributedDataParallel) and part != mine[-1]
        with torch.random.fork_rng(devices=[]), loss_of.no_sync() if alone else nullcontext():  # type: ignore[operator]
            generator = step_generator(seed, step * config.accumulate + part)
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # for dropout; given back after
            loss = loss_of(step, generator)
            if not torch.isfinite(loss):
                raise TrainingDiverged(_diverged(f"the loss is {loss.item()}", step, config))
            (loss / len(mine)).backward()
        losses.append(loss.detach())
        buffers.seen()
    buffers.settle()
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
    if not torch.isfinite(norm):
        raise TrainingDiverged(_diverged(f"the gradients' norm is {norm.item()}", step, config))
    optimizer.step()
    return float(processes.average(torch.stack(losses).mean()))


def _diverged(what: str, step: int, config: LoopConfig) -> str:
    return f"{what} at step {step}: a lower learning_rate (now {config.learning_rate:g}) may do, or smaller inputs"


class _Buffers:
    """Running statistics of a step: every batch updates those from before the step, and the average stays.

    So they do not depend on the order of a step's batches, nor on which process saw which.
    """

    def __init__(self, network: nn.Module, *, batches: int) -> None:
        shared = batches > 1 or processes.count() > 1
        self.buffers = [buffer for buffer in network.buffers() if shared]
        self.before = [buffer.clone() for buffer in self.buffers]
        self.sums = [torch.zeros_like(buffer) for buffer in self.buffers]
        self.batches = batches

    def seen(self) -> None:
        """Take in what a batch left, and put back what was before it."""
        for buffer, before, total in zip(self.buffers, self.before, self.sums, strict=True):
            total += buffer
            buffer.copy_(before)

    def settle(self) -> None:
        """Leave the averages; a counter counts the step."""
        for buffer, total in zip(self.buffers, self.sums, strict=True):
            buffer.copy_(processes.average(total.double() / self.batches))


def _validated(validate: Callable[[], float], state: _State, config: LoopConfig) -> float:
    value = processes.decided(validate)
    if not math.isfinite(value):
        raise TrainingDiverged(_diverged(f"the validation is {value}", state.step, config))
    return value


def _look(network: nn.Module, validate: Callable[[], float], state: _State, loss: float, config: LoopConfig) -> None:
    network.eval()
    if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        raise TrainingDiverged(_diverged("weights are not finite", state.step, config))
    with torch.no_grad():
        value = _validated(validate, state, config)
    state.history.append((state.step, loss, value))
    if value > state.best_value:
        state.best_value, state.best_step = value, state.step
        state.best = _learned(network)


def _out_of_patience(state: _State, config: LoopConfig) -> bool:
    return sum(1 for step, _, _ in state.history if step > state.best_step) >= config.patience


def _start(network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path | None) -> _State:
    fresh = _learned(network)
    if checkpoint is None or not (checkpoint / "state.json").is_file():
        return _State(0, -math.inf, 0, [], fresh)
    saved = read_json(checkpoint / "state.json")
    _restore(network, load_file(checkpoint / "last.safetensors"))
    _load_optimizer(network, optimizer, load_file(checkpoint / "optimizer.safetensors"))
    history = [(int(step), float(loss), float(value)) for step, loss, value in saved["history"]]
    best = load_file(checkpoint / "best.safetensors")
    return _State(saved["step"], saved["best_value"], saved["best_step"], history, best)


def _save(network: nn.Module, optimizer: torch.optim.Optimizer, state: _State, checkpoint: Path) -> None:
    with replacing_directory(checkpoint) as directory:
        save_file(_learned(network), directory / "last.safetensors")
        save_file(state.best, directory / "best.safetensors")
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        moments = {
            f"{names[id(parameter)]}|{moment}": value.contiguous()
            for parameter, values in optimizer.state.items()
            for moment, value in values.items()
        }
        save_file(moments, directory / "optimizer.safetensors")
        summary = {
            "step": state.step,
            "best_value": state.best_value,
            "best_step": state.best_step,
            "history": state.history,
        }
        state_file = directory / "state.json"
        state_file.write_text(json.dumps(summary), encoding="utf-8")
        share_alike(directory, state_file)


def _load_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for key, value in moments.items():
        name, moment = key.rsplit("|", 1)
        # the count of steps stays where Adam keeps it, on the CPU
        optimizer.state[parameters[name]][moment] = value if moment == "step" else value.to(parameters[name].device)


def _frozen(network: nn.Module) -> set[str]:
    named = network.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def _learned(network: nn.Module) -> dict[str, Tensor]:
    """Copies of what training moves: all but frozen parameters, which are as they were when a run begins again.

    Copies, also because safetensors refuses two names for one memory.
    """
    frozen, state = _frozen(network), network.state_dict()
    return {name: value.detach().clone().contiguous() for name, value in state.items() if name not in frozen}


def _restore(network: nn.Module, learned: dict[str, Tensor]) -> None:
    """Put back what `_learned` took. Raises RuntimeError if it is of another network."""
    frozen = _frozen(network)
    rest = {name: value for name, value in network.state_dict().items() if name in frozen}
    network.load_state_dict({**rest, **learned})

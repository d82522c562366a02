"""The processes of one training run under `torchrun`: which this one is, and what they agree on.

Alone, everything here is the identity. Each process draws its own part of a step's batches; gradients, floating-point
buffers and losses are averaged, and the first process judges and writes for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, distributed

from features.errors import ConfigurationError


@contextmanager
def joined(device: Literal["cpu", "cuda"] = "cpu") -> Iterator[None]:
    """Join the group that `torchrun` started this process in: NCCL and a GPU of its own on `cuda`, else gloo.

    Without `torchrun` this process stays alone. Raises ConfigurationError if there is no GPU for it.
    """
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    if device == "cuda":
        place, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= gpus:
            raise ConfigurationError(f"expected a GPU for each process, got process {place} here and {gpus} GPUs")
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def average(value: Tensor) -> Tensor:
    """`value`, in place, averaged over the processes."""
    if count() > 1:
        distributed.all_reduce(value)
        value.div_(count())
    return value


def decided(judge: Callable[[], float]) -> float:
    """What `judge` says in the first process, in every one: they stop together whatever their rounding."""
    value = torch.tensor(judge() if rank() == 0 else 0.0, dtype=torch.float64, device=_device())
    if count() > 1:
        distributed.broadcast(value, src=0)
    return float(value)


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        distributed.barrier()


def _device() -> str:
    return "cuda" if count() > 1 and distributed.get_backend() == "nccl" else "cpu"

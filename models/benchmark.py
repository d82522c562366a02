"""What the benchmarks have in common: shares that processes do side by side, and the record of where a run was."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.cores import usable_cores
from features.errors import MissingInput

FIRST_SEED = 0
"""On which an arm's trials compete."""


@dataclass(frozen=True)
class Share:
    """Runs that one process does in their order: every arm on every seed."""

    arms: tuple[str, ...]
    seeds: tuple[int, ...]


def require_first_seed(trials: Mapping[str, int], seeds: Sequence[int], *, result: Callable[[str, int], Path]) -> None:
    """Raise MissingInput if an arm of several `trials` is asked for later seeds alone, and the first has no result."""
    for arm, count in trials.items():
        if count > 1 and FIRST_SEED not in seeds and not result(arm, FIRST_SEED).is_file():
            raise MissingInput(f"{arm}: seed {FIRST_SEED} chooses among its trials; run that first, or leave {arm} out")


def environment(libraries: Sequence[str]) -> dict[str, Any]:
    """Versions of Python and of `libraries`, and the machine."""
    import torch  # here, because the command line reads this module for every command

    return {
        **{name: importlib.metadata.version(name) for name in libraries},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
    }


def reset_peak_memory() -> None:
    """Forget the peak of earlier runs in this process; where the system does not let us, it counts from the start."""
    with suppress(FileNotFoundError, PermissionError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mib() -> int | None:
    """The most memory that this process held, in MiB; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) // 1024

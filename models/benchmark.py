"""What benchmarks share: the parts that processes may do side by side, and the record of the place they ran in."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """Runs that one process does in their order: every arm on every seed."""

    arms: tuple[str, ...]
    seeds: tuple[int, ...]


def environment(libraries: Sequence[str]) -> dict[str, Any]:
    """Versions of Python and of `libraries`, and the machine."""
    return {
        **{name: importlib.metadata.version(name) for name in libraries},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
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

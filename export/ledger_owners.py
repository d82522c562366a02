"""Who holds a claim, and whether that process still lives.

A process number is used again, on this host and on others. What tells a process from every other is the boot and the
process namespace that it lives in, and when it started, in clock ticks since the boot: setting the clock moves none.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Owner:
    """A process: `process` is empty where the system does not tell."""

    host: str
    pid: int
    process: str


def this_process() -> Owner:
    """The process that asks."""
    pid = os.getpid()
    started = _started(pid)
    return Owner(socket.gethostname(), pid, f"{_place()} {started}" if started else "")


def has_ended(owner: Owner) -> bool:
    """Whether `owner` is known to be gone; False for one that cannot be seen from here, whose lease must tell."""
    place, _, started = owner.process.rpartition(" ")
    return bool(started) and place == _place() and _started(owner.pid) != started


def _place() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:  # not Linux: nothing is told
        return ""


def _started(pid: int) -> str | None:
    """Clock ticks from boot to the start of `pid`; None if there is no such process, or a dead one not yet reaped."""
    try:
        # After the name, which may hold anything: state, then 18 numbers, then the start (proc_pid_stat(5), field 22).
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if fields[0] not in {"Z", "X"} else None

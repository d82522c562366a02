"""The largest memory that a stretch of work took, where the process has done more before."""

from __future__ import annotations

import resource
from pathlib import Path

_PROC = Path("/proc/self")


def reset_peak_memory() -> None:
    """Begin to measure anew; without Linux's /proc the peak stays that of the whole process."""
    try:
        (_PROC / "clear_refs").write_text("5")  # proc_pid_clear_refs(5): resets VmHWM
    except OSError:
        return


def peak_memory_mb() -> int:
    """The process's largest resident memory since `reset_peak_memory`, in MB of 2²⁰ bytes."""
    try:
        status = (_PROC / "status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024

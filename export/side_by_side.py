"""Parts of a benchmark in processes of their own: the same command, told its arms and seeds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from features.errors import BenchmarkFailed

_POLL_SECONDS = 0.2


def run_side_by_side(commands: Sequence[Sequence[str]], *, jobs: int) -> None:
    """Run each `attractor` command, `jobs` at a time with an equal share of the cores, in the order given.

    What they write goes where this process writes. Raises BenchmarkFailed once one of them fails, and ends the others;
    so does whatever else stops this process, a signal that kills it at once excepted.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting = list(commands)
    running: dict[int, subprocess.Popen[bytes]] = {}  # by its line of the terminal
    try:
        while waiting or running:
            for line in range(jobs):
                if waiting and line not in running:
                    running[line] = _start(waiting.pop(0), threads=threads, line=line)
            time.sleep(_POLL_SECONDS)
            for line, process in list(running.items()):
                if process.poll() is not None:
                    _require_success(process)
                    del running[line]
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(command: Sequence[str], *, threads: int, line: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_POSITION": str(line)}
    return subprocess.Popen([sys.executable, "-m", "export.cli", *command], env=environment)


def _require_success(process: subprocess.Popen[bytes]) -> None:
    if process.returncode:
        told = " ".join(map(str, process.args[3:]))  # type: ignore[index]
        raise BenchmarkFailed(f"{told}: ended with status {process.returncode}; what was finished is kept")

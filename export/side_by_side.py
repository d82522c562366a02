"""Shares of a benchmark in processes of their own: the same command, told its arms and seeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from features.cores import usable_cores
from features.errors import BenchmarkFailed

ATTRACTOR = (sys.executable, "-P", "-m", "export.cli")  # -P: modules of the folder that it runs in are not ours
_POLL_SECONDS = 0.2


def run_side_by_side(
    commands: Sequence[Sequence[str]],
    *,
    jobs: int,
    program: Sequence[str] = ATTRACTOR,
    finished: Callable[[], None] = lambda: None,
) -> None:
    """Run `program` with each of `commands`, `jobs` at a time, in the order given; `finished` is called after each.

    They share the cores equally, unless OMP_NUM_THREADS says how many threads each has; what they write goes where
    this process writes. Raises BenchmarkFailed once one of them fails, and ends the others; so does whatever else
    stops this process, SIGKILL excepted.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // max(1, min(jobs, len(commands)))))
    waiting = list(commands)
    running: dict[int, subprocess.Popen[bytes]] = {}  # by its line of the terminal
    with _termination_raises():
        try:
            while waiting or running:
                for line in range(jobs):
                    if waiting and line not in running:
                        environment = os.environ | {"OMP_NUM_THREADS": threads, "TQDM_POSITION": str(line)}
                        running[line] = subprocess.Popen([*program, *waiting.pop(0)], env=environment)
                time.sleep(_POLL_SECONDS)
                for line in [line for line, process in running.items() if process.poll() is not None]:
                    _require_success(running.pop(line))
                    finished()
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


@contextmanager
def _termination_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that what cleans up does so."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _require_success(process: subprocess.Popen[bytes]) -> None:
    if process.returncode:
        told = " ".join(map(str, process.args))  # type: ignore[arg-type]
        raise BenchmarkFailed(f"{told}: ended with status {process.returncode}; what was finished is kept")

"""Ledgers and jobs of tests, and what their worker processes do: importable, so that a fresh process can run it."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import URL
from sqlalchemy.orm import Session

from export.ledger import Figures, Job, Ledger
from export.ledger_database import connect, upgrade
from export.ledger_models import StageRun, State
from export.ledger_owners import this_process
from features.windows import night_window

DATE = dt.date(2026, 1, 21)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.ledger_workers"])


def ledger_at(url: URL, *, scope: str = "test", lease: float = 60) -> Ledger:
    """The ledger of the database at `url`, its schema made."""
    engine = connect(url)
    upgrade(engine)
    return Ledger(engine, scope, dt.timedelta(seconds=lease), this_process())


def job(output: Path, *, work: Callable[[], Figures], **changed: Any) -> Job:
    """A stage that makes the file `output`."""
    made = Job(
        stage="build",
        subject=DATE.isoformat(),
        window=night_window(DATE),
        inputs={"raw": "a"},
        code="c0de",
        work=work,
        artifact=lambda figures: output.name,
        outputs=lambda figures: [output],
    )
    return replace(made, **changed)


def writes(output: Path, figures: Figures) -> Callable[[], Figures]:
    """Work that leaves a line in `output` each time it is done."""

    def work() -> Figures:
        with output.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return figures

    return work


def race(url: URL, outputs: list[Path], start: Any, answers: Any) -> None:
    """Run a job for each output as soon as everybody is there; tell which were re-used."""
    start.wait()
    ledger = ledger_at(url)  # every process finds the database without a schema

    def slowly(output: Path) -> Figures:
        time.sleep(0.05)
        return writes(output, {"rows": 1})()

    for output in outputs:
        result = ledger.run(job(output, subject=output.name, work=lambda output=output: slowly(output)))
        answers.put((output.name, result.reused))


def hang(url: URL, output: Path, begun: Any, answers: Any, lease: float) -> None:
    """Begin a job and never end it by itself; whoever wakes this process finds it at work still."""
    ledger = ledger_at(url, lease=lease)

    def work() -> Figures:
        begun.set()
        while not output.exists():
            time.sleep(0.02)
        return {"rows": 99}

    answers.put(ledger.run(job(output, work=work)).figures)


def finished_run(
    ledger: Ledger,
    stage: str,
    date: dt.date,
    *,
    seconds: float = 1.0,
    memory: int = 100,
    size: int = 0,
    figures: Figures | None = None,
    inputs: Figures | None = None,
) -> None:
    """Write the row of a run that is done."""
    now, window = ledger.now(), night_window(date)
    row = StageRun(
        scope=ledger.scope,
        stage=stage,
        subject=date.isoformat(),
        window_start=window.start,
        window_end=window.end,
        inputs=inputs or {},
        inputs_sha256="",
        code_sha256="",
        attempt=1,
        reason="never ran",
        state=State.DONE,
        host=ledger.owner.host,
        pid=ledger.owner.pid,
        process=ledger.owner.process,
        started_at=now,
        heartbeat_at=now,
        ended_at=now,
        seconds=seconds,
        peak_memory_mb=memory,
        output_bytes=size,
        figures=figures or {},
    )
    with Session(ledger.engine) as session, session.begin():
        session.add(row)

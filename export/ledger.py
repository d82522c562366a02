"""The ledger: which stage ran for which date, on which inputs, and what came out.

A stage that finished on the same inputs is not run again; one that was killed left no row and simply runs.
"""

from __future__ import annotations

import datetime as dt
import logging
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, create_engine, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from features.files import sha256_of_json

log = logging.getLogger(__name__)

Figures = dict[str, Any]


@dataclass(frozen=True)
class StageResult:
    """What a stage came to. `key` is its date, with the model where there is one; memory is the process's peak."""

    stage: str
    key: str
    figures: Figures
    seconds: float
    peak_memory_mb: int
    reused: bool


class _Base(DeclarativeBase):
    type_annotation_map = {Figures: JSON}  # noqa: RUF012  SQLAlchemy reads a plain class attribute


class StageRun(_Base):
    """The last finished run of one stage for one key."""

    __tablename__ = "stage_runs"

    stage: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    inputs: Mapped[str]
    figures: Mapped[Figures]
    seconds: Mapped[float]
    peak_memory_mb: Mapped[int]


def open_ledger(path: Path) -> Engine:
    """The ledger at `path`, made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})
    _Base.metadata.create_all(engine)
    return engine


def once(
    ledger: Engine,
    stage: str,
    key: str,
    inputs: Mapping[str, Any],
    work: Callable[[], Figures],
    *,
    stands: Callable[[Figures], bool],
) -> StageResult:
    """Run `work` unless it finished before on the same `inputs` and its output still `stands`.

    The row is written after `work` returns, so a stage that was killed is run again.
    """
    identity = sha256_of_json(inputs)
    with Session(ledger) as session:
        found = session.get(StageRun, (stage, key))
        if found is not None and found.inputs == identity and stands(found.figures):
            log.info("%s %s: reused", stage, key)
            return _result(found, reused=True)
    log.info("%s %s: started", stage, key)
    began = time.perf_counter()
    figures = work()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    row = {"inputs": identity, "figures": figures, "seconds": seconds, "peak_memory_mb": peak}
    with Session(ledger) as session:
        session.execute(
            insert(StageRun)
            .values(stage=stage, key=key, **row)
            .on_conflict_do_update(index_elements=["stage", "key"], set_=row)
        )
        session.commit()
    log.info("%s %s: done in %.1f s", stage, key, seconds)
    return StageResult(stage, key, figures, seconds, peak, reused=False)


def finished(ledger: Engine, *, date: dt.date | None = None) -> list[StageResult]:
    """Every finished run, or those of one night, by key and stage."""
    query = select(StageRun).order_by(StageRun.key, StageRun.stage)
    if date is not None:
        query = query.where(StageRun.key.startswith(date.isoformat()))
    with Session(ledger) as session:
        return [_result(row, reused=True) for row in session.scalars(query)]


def _result(row: StageRun, *, reused: bool) -> StageResult:
    return StageResult(row.stage, row.key, dict(row.figures), row.seconds, row.peak_memory_mb, reused)

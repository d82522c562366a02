"""The ledger: what ran, for which window, on which inputs and code, how it ended, and what came out.

A stage is claimed by inserting its running row, of which the database allows one a subject; the owner answers for it by
a heartbeat. A stage that is done on the same inputs and code is not run again; one whose owner is gone is taken over.
"""

from __future__ import annotations

import contextvars
import datetime as dt
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from export.ledger_database import Clock, LedgerConfig, connect, database_clock, ledger_url, upgrade
from export.ledger_models import Figures, StageRun, State
from export.ledger_owners import Owner, has_ended, this_process
from export.logs import without_secrets
from export.memory import peak_memory_mb, reset_peak_memory
from features.configuration import Configuration
from features.errors import GateFailed
from features.files import sha256_of_json
from features.windows import Window, midnight

__all__ = ["Figures", "Job", "Ledger", "StageResult", "open_ledger"]

log = logging.getLogger(__name__)

_ERROR_LENGTH = 4000
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A stage of one subject: what it is made of, how it is done, and where what it makes lies.

    `reusable` is false where the answer depends on what the inputs do not tell, such as what is live.
    """

    stage: str
    subject: str
    window: Window | None
    inputs: Mapping[str, Any]
    code: str
    work: Callable[[], Figures]
    artifact: Callable[[Figures], str]
    outputs: Callable[[Figures], Sequence[Path]]
    reusable: bool = True

    def stands(self, figures: Figures) -> bool:
        """Whether everything that a run with these figures made is still there."""
        return all(path.exists() for path in self.outputs(figures))


@dataclass(frozen=True)
class StageResult:
    """What a stage came to. `key` is its subject: the date, with the model where there is one."""

    run_id: int
    stage: str
    key: str
    figures: Figures
    seconds: float
    peak_memory_mb: int
    reused: bool


@dataclass(frozen=True)
class Ledger:
    """The rows of one state directory, on behalf of one process."""

    engine: Engine
    scope: str
    lease: dt.timedelta
    owner: Owner
    clock: Clock = database_clock

    def run(self, job: Job) -> StageResult:
        """Do the job, unless it is done; wait while another owner does it.

        Whatever `job.work` raises is recorded and raised again.
        """
        waited_for = None
        while True:
            run, is_new = self._claimed(job)
            with bound_contextvars(**_labels(run)):
                if is_new and self._do(job, run):
                    return _result(run, reused=False)
                if not is_new and run.state is State.DONE:
                    log.info("%s %s: re-used, done in run %d", run.stage, run.subject, run.id)
                    return _result(run, reused=True)
                if not is_new and waited_for != run.id:
                    log.warning("%s %s is run by process %d on %s: waiting", run.stage, run.subject, run.pid, run.host)
                    waited_for = run.id
            time.sleep(_POLL_SECONDS)

    def runs(
        self,
        *,
        date: dt.date | None = None,
        stage: str | None = None,
        state: State | None = None,
        limit: int | None = None,
    ) -> list[StageRun]:
        """Every attempt, the latest first; of the night of `date`, of one stage, in one state."""
        query = select(StageRun).where(StageRun.scope == self.scope).order_by(StageRun.id.desc()).limit(limit)
        if date is not None:
            query = query.where(StageRun.window_end == midnight(date))
        if stage is not None:
            query = query.where(StageRun.stage == stage)
        if state is not None:
            query = query.where(StageRun.state == state)
        with self._session() as session:
            return list(session.scalars(query))

    def done(self, date: dt.date) -> dict[str, StageResult]:
        """The last finished run of each stage of a night, by stage, with the model where there is one."""
        found = reversed(self.runs(date=date, state=State.DONE))
        return {run.stage + _model(run.subject): _result(run, reused=True) for run in found}

    def why_again(self, job: Job) -> str | None:
        """Why the job would be run now; None if what is done stands for it."""
        with self._session() as session:
            return _why_again(self._last(session, job), job)

    def is_abandoned(self, run: StageRun, now: dt.datetime) -> bool:
        """Whether a running row's owner is gone or silent, so that the next run of the stage takes over."""
        return has_ended(_owner(run)) or now - run.heartbeat_at > self.lease

    def now(self) -> dt.datetime:
        """The ledger's time."""
        with self.engine.begin() as connection:
            return self.clock(connection)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _claimed(self, job: Job) -> tuple[StageRun, bool]:
        """The run that is done and stands, or that another owner answers for, and False; or a new one, and True."""
        try:
            with self._session() as session:
                last = self._last(session, job)
                now = self.clock(session.connection())
                reason = _why_again(last, job)
                if last is not None and (reason is None or self._is_held(last, now)):
                    return last, False
                if last is not None and last.state is State.RUNNING:
                    last.state, last.ended_at = State.LOST, now
                    reason = f"process {last.pid} on {last.host} was last heard of at {last.heartbeat_at.isoformat()}"
                    session.flush()  # before the new claim, which the index would refuse beside it
                run = self._new_run(job, last.attempt + 1 if last else 1, reason or "", now)
                session.add(run)
            return run, True
        except IntegrityError:  # another owner claimed it between the reading and the writing
            return self._claimed(job)

    def _last(self, session: Session, job: Job) -> StageRun | None:
        query = (
            select(StageRun)
            .where(StageRun.scope == self.scope, StageRun.stage == job.stage, StageRun.subject == job.subject)
            .order_by(StageRun.attempt.desc())
            .limit(1)
            .with_for_update()
        )
        return session.scalar(query)

    def _new_run(self, job: Job, attempt: int, reason: str, now: dt.datetime) -> StageRun:
        return StageRun(
            scope=self.scope,
            stage=job.stage,
            subject=job.subject,
            window_start=job.window.start if job.window else None,
            window_end=job.window.end if job.window else None,
            inputs=dict(job.inputs),
            inputs_sha256=sha256_of_json(job.inputs),
            code_sha256=job.code,
            attempt=attempt,
            reason=reason,
            state=State.RUNNING,
            host=self.owner.host,
            pid=self.owner.pid,
            process=self.owner.process,
            started_at=now,
            heartbeat_at=now,
        )

    def _is_held(self, run: StageRun, now: dt.datetime) -> bool:
        return run.state is State.RUNNING and not self.is_abandoned(run, now)

    def _do(self, job: Job, run: StageRun) -> bool:
        """Whether the run counts: not where this process was silent so long that another one took over."""
        log.info("%s %s: run %d, attempt %d: %s", run.stage, run.subject, run.id, run.attempt, run.reason)
        with ExitStack() as ending:
            ending.push(partial(self._record_failure, run))
            ending.enter_context(self._heartbeat(run))
            reset_peak_memory()
            began = time.perf_counter()
            figures = job.work()
            seconds = time.perf_counter() - began
            told = {
                "state": State.DONE,
                "seconds": seconds,
                "peak_memory_mb": peak_memory_mb(),
                "output_bytes": sum(map(_size, job.outputs(figures))),
                "artifact": job.artifact(figures),
                "figures": _finite(figures),
            }
        counts = self._end(run, **told)
        fields = {name: told[name] for name in ("seconds", "peak_memory_mb", "output_bytes", "artifact")}
        taken = "" if counts else ", but taken over"
        log.info("%s %s: done in %.1f s%s", run.stage, run.subject, seconds, taken, extra={"state": "done", **fields})
        return counts

    def _record_failure(
        self, run: StageRun, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            refused = list(error.verdicts) if isinstance(error, GateFailed) else []
            state = State.REFUSED if isinstance(error, GateFailed) else State.FAILED
            told = without_secrets(f"{type(error).__name__}: {error}")[:_ERROR_LENGTH]
            fields = {"state": state.value, "refused": refused}
            log.warning("%s %s: %s: %s", run.stage, run.subject, state.value, told, extra=fields)
            self._end(run, state=state, error=told, figures={"refused": refused} if refused else None)

    def _end(self, run: StageRun, **values: Any) -> bool:
        mine = (StageRun.id == run.id, StageRun.state == State.RUNNING)
        with self._session() as session:
            values["ended_at"] = self.clock(session.connection())
            ended = session.scalar(update(StageRun).where(*mine).values(**values).returning(StageRun.id))
        for name, value in values.items():
            setattr(run, name, value)
        return ended is not None

    @contextmanager
    def _heartbeat(self, run: StageRun) -> Iterator[None]:
        """Answer for the claim while the body runs; a database that is away for less than the lease does no harm."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.lease.total_seconds() / 4):
                try:
                    with self._session() as session:
                        now = self.clock(session.connection())
                        held = (StageRun.id == run.id, StageRun.state == State.RUNNING)
                        session.execute(update(StageRun).where(*held).values(heartbeat_at=now))
                except OperationalError as error:
                    log.warning("%s %s: no heartbeat: %s", run.stage, run.subject, error)

        labelled = contextvars.copy_context()  # what the run's log lines carry
        thread = threading.Thread(target=labelled.run, args=(beat,), name=f"heartbeat of run {run.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def open_ledger(configuration: Configuration) -> Ledger:
    """The ledger of a configuration, its schema brought up to date first."""
    config = configuration.section("ledger", LedgerConfig)
    engine = connect(ledger_url(configuration))
    upgrade(engine)
    lease = dt.timedelta(seconds=config.lease_seconds)
    return Ledger(engine, config.scope or configuration.state.name, lease, this_process())


def _why_again(last: StageRun | None, job: Job) -> str | None:
    """Why a job is run although there is a run before it; None if that one is done and stands for it."""
    if last is None:
        return "never ran"
    if last.state is not State.DONE:
        return f"attempt {last.attempt} is {last.state.value}"
    if not job.reusable:
        return "runs each time"
    names = sorted(last.inputs.keys() | job.inputs.keys())
    changed = [name for name in names if _canonical(last.inputs.get(name)) != _canonical(job.inputs.get(name))]
    if changed:
        return f"other inputs: {', '.join(changed)}"
    if last.code_sha256 != job.code:
        return "other code"
    if not job.stands(last.figures or {}):
        return "what it made is gone"
    return None


def _canonical(value: Any) -> str:
    return sha256_of_json(value)


def _labels(run: StageRun) -> dict[str, Any]:
    """What every log line of a run carries."""
    window = run.window
    instants = {"window_start": window.start.isoformat(), "window_end": window.end.isoformat()} if window else {}
    return {"run": run.id, "stage": run.stage, "subject": run.subject, "attempt": run.attempt, **instants}


def _owner(run: StageRun) -> Owner:
    return Owner(run.host, run.pid, run.process)


def _result(run: StageRun, *, reused: bool) -> StageResult:
    assert run.figures is not None
    assert run.seconds is not None
    assert run.peak_memory_mb is not None
    return StageResult(run.id, run.stage, run.subject, run.figures, run.seconds, run.peak_memory_mb, reused)


def _model(subject: str) -> str:
    """`/karma` of `2026-03-02/karma`, else nothing."""
    return "".join(subject.partition("/")[1:])


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity; PostgreSQL refuses them."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

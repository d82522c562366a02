"""What a night will cost before it starts: by the ledger's figures of earlier nights and by the source's size.

Nothing is invented: what no earlier run tells is unknown, with the reason.
"""

from __future__ import annotations

import datetime as dt
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from export import champions, jobs
from export.ledger import Job, Ledger, open_ledger
from export.ledger_models import StageRun, State
from export.model_settings import require_trainable
from features.configuration import Configuration
from features.errors import MissingInput
from features.windows import midnight

EARLIER_RUNS = 7
"""Runs that an expectation looks back on."""

_MB = 2**20


@dataclass(frozen=True)
class Expectation:
    """One stage's: nothing where it is re-used; None is unknown, and `basis` says why."""

    stage: str
    runs: bool
    why: str
    rows: int | None
    output_bytes: int | None
    minutes: float | None
    memory_mb: int | None
    basis: str


@dataclass(frozen=True)
class Plan:
    """A night's stages in order, their sums, and what this machine has for them.

    A sum is over what is known; `unknown` names the stages that are not in it.
    """

    date: dt.date
    source: str
    stages: tuple[Expectation, ...]
    rows: int
    output_bytes: int
    minutes: float
    memory_mb: int | None
    unknown: tuple[str, ...]
    free_disk_bytes: int
    memory_mb_here: int

    def record(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self) | {"date": self.date.isoformat()}


def plan(configuration: Configuration, date: dt.date) -> Plan:
    """The plan of the night of `date`.

    Raises ConfigurationError if the source cannot be opened, or a model that the night has to train not be trained.
    """
    for model in champions.missing_champions(configuration):
        require_trainable(configuration, model)
    ledger = open_ledger(configuration)
    size, told = _source_rows(configuration)
    growth = _growth(ledger, date, size)
    stages = tuple(_expectations(configuration, ledger, date, growth))
    running = [stage for stage in stages if stage.runs]
    known_memory = [stage.memory_mb for stage in running if stage.memory_mb is not None]
    return Plan(
        date=date,
        source=told,
        stages=stages,
        rows=sum(stage.rows or 0 for stage in running),
        output_bytes=sum(stage.output_bytes or 0 for stage in running),
        minutes=sum(stage.minutes or 0 for stage in running),
        memory_mb=max(known_memory, default=None) if running else 0,
        unknown=tuple(stage.stage for stage in running if stage.minutes is None),
        free_disk_bytes=free_bytes(configuration.state),
        memory_mb_here=psutil.virtual_memory().total // _MB,
    )


def free_bytes(path: Path) -> int:
    """What is free on the disk of `path`, which need not exist yet."""
    standing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(standing).free


def night_bytes(ledger: Ledger, date: dt.date) -> int | None:
    """What the latest night up to `date` that got as far as its release wrote; None if there is none."""
    sizes = [_earlier(ledger, date, stage) for stage in ("land", "build", "score", "stage")]
    if not all(sizes):
        return None
    return sum(runs[0].output_bytes or 0 for runs in sizes)


def _expectations(
    configuration: Configuration, ledger: Ledger, date: dt.date, growth: float | None
) -> Iterator[Expectation]:
    missing = champions.missing_champions(configuration)
    before = ""  # the first stage that will run; what comes after it may get other inputs
    for name, model, job in _stages(configuration, date, missing):
        why = _why(ledger, job, before if name != "register" else "") if job is not None else _always(name, missing)
        if why is None:
            yield Expectation(name, False, "done on the same inputs", None, 0, 0.0, 0, "re-used")
            continue
        before = before or ("" if name == "register" else name)
        yield _expected(name, why, _earlier(ledger, date, name.partition("/")[0], model), growth)


def _stages(
    configuration: Configuration, date: dt.date, missing: Sequence[str]
) -> Iterator[tuple[str, str | None, Callable[[], Job] | None]]:
    """Stages of a night in order, with their model, and their job where a finished one may stand for it."""
    yield "land", None, lambda: jobs.land(configuration, date)
    yield "build", None, lambda: jobs.build(configuration, date)
    yield "register", None, lambda: jobs.register(configuration)
    if missing:
        yield "training_sets", None, lambda: jobs.training_sets(configuration, date)
    for model in missing:
        yield f"train/{model}", model, lambda model=model: jobs.train(configuration, date, model)  # type: ignore[misc]
        yield f"export/{model}", model, lambda model=model: jobs.export(configuration, date, model)  # type: ignore[misc]
        yield f"promote/{model}", model, None
    yield "score", None, lambda: jobs.score(configuration, date)
    yield "stage", None, lambda: jobs.stage(configuration, date)
    yield "audit", None, None
    yield "publish", None, None


def _why(ledger: Ledger, job: Callable[[], Job], before: str) -> str | None:
    if before:
        return f"{before} runs before it"
    try:
        return ledger.why_again(job())
    except (MissingInput, FileNotFoundError):
        return "its inputs are not there yet"


def _always(name: str, missing: Sequence[str]) -> str:
    return f"no champion of {name.partition('/')[2]}" if name.startswith("promote") and missing else "runs each time"


def _expected(name: str, why: str, earlier: Sequence[StageRun], growth: float | None) -> Expectation:
    if not earlier:
        stage = name.partition("/")[0]
        return Expectation(name, True, why, None, None, None, None, f"unknown: no earlier run of {stage} in the ledger")
    latest, scale = earlier[0], growth if growth is not None else 1.0
    rows = _rows(latest.figures or {})
    memory = max(run.peak_memory_mb or 0 for run in earlier)
    return Expectation(
        stage=name,
        runs=True,
        why=why,
        rows=None if rows is None else round(rows * scale),
        output_bytes=round((latest.output_bytes or 0) * scale),
        minutes=statistics.median(run.seconds or 0.0 for run in earlier) / 60 * scale,
        memory_mb=round(memory * max(1.0, scale)),
        basis=f"{len(earlier)} earlier run{'s' * (len(earlier) > 1)}, the last for {latest.subject}"
        + ("" if growth is None else f"; the source has {growth:.2f} times its rows"),
    )


def _earlier(ledger: Ledger, date: dt.date, stage: str, model: str | None = None) -> list[StageRun]:
    """Finished runs of a stage for nights up to `date`, or for none, the latest night first."""
    runs = [
        run
        for run in ledger.runs(stage=stage, state=State.DONE)
        if (run.window_end is None or run.window_end <= midnight(date)) and (model is None or model in run.subject)
    ]
    return sorted(runs, key=lambda run: run.subject, reverse=True)[:EARLIER_RUNS]


def _rows(figures: Mapping[str, Any]) -> int | None:
    rows = figures.get("rows")
    return sum(rows.values()) if isinstance(rows, Mapping) else None


def _growth(ledger: Ledger, date: dt.date, size: int | None) -> float | None:
    """How many times the rows of the last landed night the source has now; None where either is unknown."""
    landed = _earlier(ledger, date, "land")
    rows = _rows(landed[0].figures or {}) if landed else None
    return size / rows if size is not None and rows else None


def _source_rows(configuration: Configuration) -> tuple[int | None, str]:
    """Rows of all tables, where a source tells them without being read, and the sentence about it."""
    from features.sources import SourceConfig, open_source
    from features.sources.parquet import ParquetSource

    config = configuration.section("source", SourceConfig)
    source = open_source(config, configuration.file.parent)
    if not isinstance(source, ParquetSource):
        return None, f"rows unknown: a {config.kind} source does not tell them before it is read"
    rows = {name: sum(pq.read_metadata(path).num_rows for path in paths) for name, paths in source.files.items()}
    return sum(rows.values()), "rows: " + ", ".join(f"{count:,} {name}" for name, count in rows.items())

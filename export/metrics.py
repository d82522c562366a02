"""Stages and releases as Prometheus metrics, from the ledger and the release store: what is there, not what was said.

```toml
[metrics]
textfile = "/var/lib/prometheus/node-exporter/attractor.prom"
```

A night has no process that lives long enough to be scraped, so that the file is written for node_exporter's textfile
collector, after every stage. What changes by itself, such as an age, would be frozen in it: the file has the instants
to take an age from, and `attractor metrics`, which is asked at a moment, has the ages too.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from export.audit_subjects import EXPECTED
from export.ledger import Ledger, open_ledger
from export.ledger_models import StageRun, State
from export.remote import described
from features import freshness
from features.configuration import Configuration
from features.errors import AttractorError
from features.files import read_sealed_json, write_text
from features.releases import MANIFEST, READY, Release, read_object

log = logging.getLogger(__name__)

STAGE = ("stage", "model")
GATED = ("audit", "promote", "publish")


@dataclass(frozen=True)
class MetricsConfig:
    """Where metrics are left for whoever collects them."""

    textfile: str | None = None  # written after every stage, relative to attractor.toml; left out: nothing is written

    def __post_init__(self) -> None:
        if self.textfile is not None and not self.textfile.endswith(".prom"):
            raise ValueError(f"expected a textfile that ends in .prom, which collectors look for, got {self.textfile}")


@dataclass(frozen=True)
class Described:
    """A metric: its name without a counter's `_total`, what it tells, and its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    counts: bool = False

    def family(self) -> Metric:
        """Of it, without a sample yet."""
        kind = CounterMetricFamily if self.counts else GaugeMetricFamily
        return kind(self.name, self.help, labels=self.labels)


RUNS = Described("attractor_stage_runs", "Runs of a stage that ended, by how", (*STAGE, "state"), counts=True)
STAGE_STATE = Described("attractor_stage_state", "1 for the state of a stage's last run, else 0", (*STAGE, "state"))
SUCCESS = Described("attractor_stage_last_success_timestamp_seconds", "When a stage was last done", STAGE)
WINDOW = Described(
    "attractor_stage_window_end_timestamp_seconds", "End of the latest window a stage is done for", STAGE
)
DURATION = Described("attractor_stage_duration_seconds", "What a stage's last run that was done took", STAGE)
MEMORY = Described("attractor_stage_peak_memory_bytes", "Largest resident memory of that run", STAGE)
OUTPUT = Described("attractor_stage_output_size_bytes", "What that run made, on disk", STAGE)
ROWS = Described("attractor_stage_rows", "Rows that run made, by table", (*STAGE, "table"))
REFUSED = Described("attractor_gates_refused", "Gates that refused in the last run of a stage that has gates", STAGE)
LIVE = Described("attractor_release_live", "1 if a release is served, else 0")
INFO = Described("attractor_release_info", "The release that is served", ("release_id", "window_end", "karma", "dicer"))
DATA_END = Described("attractor_release_data_end_timestamp_seconds", "Everything before it is known to the release")
PUBLISHED_AT = Described("attractor_release_published_timestamp_seconds", "When the release went live")
MAX_AGE = Described("attractor_release_max_age_seconds", "[freshness] max_age; absent where none is declared")
FORCED = Described("attractor_release_forced", "1 if it was published although a gate refused, else 0")
RELEASE_ROWS = Described("attractor_release_rows", "Rows served, by view", ("view",))
COVERAGE = Described("attractor_release_coverage_ratio", "Users or items with a row, of those that should", ("view",))
AGE = Described("attractor_release_age_seconds", "Since the end of the release's data; not in the textfile")
FRESHNESS = Described("attractor_release_freshness", "1 for the verdict on the age; not in the textfile", ("state",))

METRICS = (
    *(RUNS, STAGE_STATE, SUCCESS, WINDOW, DURATION, MEMORY, OUTPUT, ROWS, REFUSED),
    *(LIVE, INFO, DATA_END, PUBLISHED_AT, MAX_AGE, FORCED, RELEASE_ROWS, COVERAGE, AGE, FRESHNESS),
)


@dataclass(frozen=True, eq=False)  # a registry keeps collectors by identity
class NightCollector(Collector):
    """Metrics as they are when they are collected; with `now`, those too that change while nothing happens."""

    configuration: Configuration
    ledger: Ledger
    now: Callable[[], dt.datetime] | None = None

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a sample."""
        families = {metric.name: metric.family() for metric in METRICS}
        _add_stages(families, self.ledger)
        _add_release(families, self.configuration, self.now() if self.now else None)
        yield from (family for family in families.values() if family.samples)


def registry(
    configuration: Configuration, ledger: Ledger, *, now: Callable[[], dt.datetime] | None = None
) -> CollectorRegistry:
    """What prometheus_client shows or serves."""
    made = CollectorRegistry()
    made.register(NightCollector(configuration, ledger, now))
    return made


def write_metrics(configuration: Configuration, ledger: Ledger | None = None) -> None:
    """Write the textfile, where one is configured; what hinders it is logged and stops nothing."""
    textfile = configuration.section("metrics", MetricsConfig).textfile
    if textfile is None:
        return
    try:
        told = generate_latest(registry(configuration, ledger or open_ledger(configuration)))
        write_text(configuration.file.parent / textfile, told.decode())
    except (AttractorError, SQLAlchemyError, OSError) as error:
        log.warning("metrics were not written to %s: %s", textfile, error)


Families = Mapping[str, Metric]


def _add(families: Families, metric: Described, value: float | None, *labels: str) -> None:
    if value is not None:
        families[metric.name].add_metric(list(labels), value)  # type: ignore[attr-defined]  # of the two families


def _add_stages(families: Families, ledger: Ledger) -> None:
    last: dict[tuple[str, str], int] = {}
    done: dict[tuple[str, str], int] = {}
    windows: dict[tuple[str, str], dt.datetime] = {}
    ended: Counter[tuple[str, str, str]] = Counter()
    columns = (StageRun.id, StageRun.stage, StageRun.subject, StageRun.state, StageRun.window_end)
    with Session(ledger.engine) as session:
        # figures are large and a ledger is long: only the last runs are read whole
        for run_id, stage, subject, state, end in session.execute(
            select(*columns).where(StageRun.scope == ledger.scope).order_by(StageRun.id)
        ):
            key = (stage, _model(stage, subject))
            last[key] = run_id
            if state is not State.RUNNING:
                ended[*key, state.value] += 1
            if state is State.DONE:
                done[key] = run_id
            if state is State.DONE and end is not None:
                windows[key] = max(end, windows.get(key, end))
        runs = {
            run.id: run
            for run in session.scalars(select(StageRun).where(StageRun.id.in_({*last.values(), *done.values()})))
        }
    for labels, count in ended.items():
        _add(families, RUNS, count, *labels)
    for key, run_id in last.items():
        _add_last(families, key, runs[run_id])
    for key, run_id in done.items():
        _add_done(families, key, runs[run_id])
    for key, end in windows.items():
        _add(families, WINDOW, end.timestamp(), *key)


def _add_last(families: Families, key: tuple[str, str], run: StageRun) -> None:
    for state in State:
        _add(families, STAGE_STATE, float(run.state is state), *key, state.value)
    if run.stage in GATED and run.state in (State.DONE, State.REFUSED):
        refused = len((run.figures or {}).get("refused", ()))
        _add(families, REFUSED, max(refused, int(run.state is State.REFUSED)), *key)


def _add_done(families: Families, key: tuple[str, str], run: StageRun) -> None:
    _add(families, SUCCESS, run.ended_at.timestamp() if run.ended_at else None, *key)
    _add(families, DURATION, run.seconds, *key)
    _add(families, MEMORY, run.peak_memory_mb * 2**20 if run.peak_memory_mb is not None else None, *key)
    _add(families, OUTPUT, run.output_bytes, *key)
    for table, rows in ((run.figures or {}).get("rows") or {}).items():
        _add(families, ROWS, rows, *key, table)


def _model(stage: str, subject: str) -> str:
    """Of `2026-03-02/karma`, or of the artifact `karma-0123456789ab` that is promoted; else none."""
    return subject.rpartition("-")[0] if stage == "promote" else subject.partition("/")[2]


def _add_release(families: Families, configuration: Configuration, now: dt.datetime | None) -> None:
    config = configuration.section("freshness", freshness.FreshnessConfig)
    release, forced = _live(configuration)
    _add(families, LIVE, float(release is not None))
    _add(families, MAX_AGE, freshness.duration(config.max_age).total_seconds() if config.max_age else None)
    if release is not None:
        models = release.manifest["models"]
        _add(families, INFO, 1, release.release_id, release.as_of.isoformat(), models["karma"], models["dicer"])
        _add(families, DATA_END, freshness.data_end(release).timestamp())
        _add(families, PUBLISHED_AT, release.published_at.timestamp() if release.published_at else None)
        _add(families, FORCED, float(forced))
        for view, told in release.manifest["views"].items():
            _add(families, RELEASE_ROWS, told["rows"], view)
            expected = release.manifest["figures"].get(EXPECTED.get(view))
            _add(families, COVERAGE, told["rows"] / expected if expected else None, view)
    if now is not None:
        verdict = freshness.judge(release, config, now=now) if release else None
        _add(families, AGE, verdict.age.total_seconds() if verdict and verdict.age is not None else None)
        found = verdict.state if verdict else freshness.State.MISSING
        for state in freshness.State:
            _add(families, FRESHNESS, float(state is found), state.value)


def _live(configuration: Configuration) -> tuple[Release | None, bool]:
    """The release that is served, described without its tables, and whether it was forced."""
    with described(configuration) as (pointer, directories):
        ready = [one for one in directories if (one / READY).is_file() and pointer and one.name == pointer.release_id]
        if pointer is None or not ready:
            return None, False
        told = read_sealed_json(ready[0] / READY)
        admitted_at = dt.datetime.fromisoformat(told["admitted_at"])
        manifest = read_object(ready[0] / MANIFEST)
        return Release(ready[0], manifest, pointer.published_at, {}, admitted_at), told["force_reason"] is not None

"""The stages of a night and of a training, as plain functions that the command line and the DAGs both call.

Each takes the configuration first, is a row of the ledger, is skipped where it is done, and can be killed and
run again; `export/jobs.py` says what each is made of.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from export import champions, jobs
from export.ledger import Figures, Job, StageResult, open_ledger
from export.metrics import MetricsConfig, write_metrics
from export.tracking import TrackingConfig, track
from features.configuration import Configuration
from features.sources import SourceConfig, provide_url


def land(configuration: Configuration, date: dt.date, *, uri_of: Callable[[str], str] | None = None) -> StageResult:
    """Land the raw tables that the night of `date` may know.

    `uri_of` tells the URI of a scheduler's connection, where `[source]` names one.
    """
    if uri_of is not None:
        provide_url(configuration.section("source", SourceConfig), uri_of)
    return _run(configuration, jobs.land(configuration, date))


def build(configuration: Configuration, date: dt.date) -> StageResult:
    """Build the feature partitions of `date`, checked against their contracts."""
    return _run(configuration, jobs.build(configuration, date))


def register(configuration: Configuration) -> StageResult:
    """Register entities, views and services in Feast, as `feast apply` does."""
    return _run(configuration, jobs.register(configuration))


def missing_champions(configuration: Configuration) -> list[str]:
    """Models that have no promoted artifact yet."""
    return champions.missing_champions(configuration)


def training_sets(configuration: Configuration, date: dt.date) -> StageResult:
    """Retrieve both services' training sets from Feast, point in time."""
    return _run(configuration, jobs.training_sets(configuration, date))


def train(configuration: Configuration, date: dt.date, model: str) -> StageResult:
    """Train `model`, resuming a run that was killed; the result stays in its checkpoint directory."""
    return _run(configuration, jobs.train(configuration, date, model))


def export(configuration: Configuration, date: dt.date, model: str) -> StageResult:
    """Export the trained `model` to ONNX with its parity; `figures["version"]` is the stored artifact."""
    return _run(configuration, jobs.export(configuration, date, model))


def promote(configuration: Configuration, version: str, *, promoted_at: dt.datetime) -> Figures:
    """Make an artifact the champion of its model. Raises GateFailed."""
    return _run(configuration, jobs.promote(configuration, version, promoted_at=promoted_at)).figures


def score(configuration: Configuration, date: dt.date) -> StageResult:
    """Compute the night of `date` with the champions, on ONNX Runtime alone."""
    return _run(configuration, jobs.score(configuration, date))


def stage(configuration: Configuration, date: dt.date) -> StageResult:
    """Lay the scored night out as a release; `figures["release_id"]` is its content address."""
    return _run(configuration, jobs.stage(configuration, date))


def audit(configuration: Configuration, release_id: str) -> Figures:
    """Judge a staged release; `figures["release_id"]` is what may be published.

    That is another one where only one model's part was refused: composed of the sound part and the standing other one.
    Raises GateFailed if a gate refuses and nothing can be composed that passes; what is served stays.
    """
    return _run(configuration, jobs.audit(configuration, release_id)).figures


def publish(
    configuration: Configuration, release_id: str, *, published_at: dt.datetime, force_reason: str | None = None
) -> Figures:
    """Put an audited release live by one pointer swap, never backwards in date."""
    job = jobs.publish(configuration, release_id, published_at=published_at, force_reason=force_reason)
    return _run(configuration, job).figures


def _run(configuration: Configuration, job: Job) -> StageResult:
    """Do the job, and let those who watch see how it ended."""
    configuration.section("metrics", MetricsConfig)  # what is wrong in them is told before the work
    configuration.section("tracking", TrackingConfig)
    ledger = open_ledger(configuration)
    try:
        result = ledger.run(job)
    finally:
        write_metrics(configuration, ledger)
    track(configuration, ledger, job, result)
    return result

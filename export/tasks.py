"""The stages as a scheduler calls them: text in, ids out, the configuration found by each.

What passes between tasks is dates, ids and instants; figures are in the ledger. Nothing here knows Airflow, so that an
environment without it can run them.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from features.configuration import load
from features.errors import GateFailed
from features.windows import parse_date

log = logging.getLogger(__name__)


def land(date: str) -> int:
    """Land the raw tables that the night may know; rows that break a rule are set aside and counted."""
    from export import stages

    return stages.land(load(), parse_date(date)).run_id


def build(date: str) -> int:
    """Build the feature partitions of the date, checked against their contracts."""
    from export import stages

    return stages.build(load(), parse_date(date)).run_id


def register() -> int:
    """Register entities, views and services in Feast; writes nothing where nothing changed."""
    from export import stages

    return stages.register(load()).run_id


def missing_champions() -> list[str]:
    """Name the models that have no champion yet: they are trained before the night is scored."""
    from export import stages

    return stages.missing_champions(load())


def training_sets(date: str) -> int:
    """Retrieve both services' training sets from Feast, point in time."""
    from export import stages

    return stages.training_sets(load(), parse_date(date)).run_id


def train(date: str, model: str) -> int:
    """Train the model; a run whose worker died goes on from its checkpoint."""
    from export import stages

    return stages.train(load(), parse_date(date), model).run_id


def export(date: str, model: str) -> str:
    """Export the trained model to ONNX and prove that it computes the same; the artifact's version."""
    from export import stages

    return str(stages.export(load(), parse_date(date), model).figures["version"])


def promote(version: str, at: str) -> str:
    """Make the artifact the champion, if the gates let it."""
    from export import stages

    return str(stages.promote(load(), version, promoted_at=dt.datetime.fromisoformat(at))["version"])


def score(date: str) -> int:
    """Compute embeddings and attraction lists with the champions, on ONNX Runtime."""
    from export import stages

    return stages.score(load(), parse_date(date)).run_id


def open_staging(date: str) -> int:
    """Clear what killed runs left and see that the disk holds the night once more; the bytes that it needs."""
    from export import staging_area

    return staging_area.open_staging(load(), parse_date(date))


def stage(date: str) -> str:
    """Lay the scored night out as a release that is not yet served; its id."""
    from export import stages

    return str(stages.stage(load(), parse_date(date)).figures["release_id"])


def audit(release_id: str, force: str) -> str:
    """Judge the release by every gate; the id of what may be published.

    With a reason in `force` a refusal is recorded and does not stop the night. Raises GateFailed.
    """
    from export import stages

    try:
        return str(stages.audit(load(), release_id)["release_id"])
    except GateFailed as refusal:
        if not force.strip():
            raise
        log.warning("%s; published all the same: %s", refusal, force)
        return release_id


def publish(release_id: str, at: str, force: str) -> dict[str, Any]:
    """Put the release live by one pointer swap, never backwards in date; what consumers are told of it."""
    from export import stages

    told = stages.publish(
        load(), release_id, published_at=dt.datetime.fromisoformat(at), force_reason=force.strip() or None
    )
    date = release_id[:10]
    return {
        "release_id": release_id,
        "date": date,
        "window_end": f"{date}T00:00:00+00:00",
        "published_at": told["published_at"],
        "live": told["live"],
        "sentence": told["sentence"],
    }


def close_staging() -> list[str]:
    """Remove the drafts of killed runs, whatever became of the night; refused releases stay to be looked at."""
    from export import staging_area

    return staging_area.close_staging(load())


def freshness(at: str) -> str:
    """Judge the age of what is served against [freshness] max_age. Raises GateFailed where it is STALE or MISSING."""
    from export.metrics import write_metrics
    from features.freshness import open_reader

    configuration = load()
    write_metrics(configuration)  # retention and repairs by hand are no stages
    verdict = open_reader(configuration).read(now=dt.datetime.fromisoformat(at)).freshness
    if verdict.refused:
        raise GateFailed("what is served", [f"{verdict.state}: {verdict.sentence}"])
    return verdict.sentence


def consistency(at: str) -> str:
    """Read sampled rows online and from the offline store. Raises GateFailed where more differ than may."""
    from export.consistency import ConsistencyConfig, compare

    configuration = load()
    config = configuration.section("consistency", ConsistencyConfig)
    seed = int(dt.datetime.fromisoformat(at).timestamp())  # other rows each time, the same on a retry
    compared = compare(configuration, sample=config.sample, seed=seed)
    refused = compared.refused(config)
    if refused:
        raise GateFailed(f"online/offline consistency of {compared.release_id}", refused)
    return compared.sentence


def retention(at: str) -> list[str]:
    """Delete old releases; the live one, the one before it and the newest few stay. What was deleted."""
    from export.retention import KEEP_RELEASES, collect

    told = collect(load(), keep=KEEP_RELEASES, now=dt.datetime.fromisoformat(at))
    return [*told.deleted, *told.unfinished]

"""What is killed and failed at every step: a state, and what is done to it next."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export import artifacts, release, retention
from export.audit import audit
from export.champions import champion_version, demote
from export.composition import compose
from export.held_out import HELD_OUT
from export.promotion import promote
from features.configuration import Configuration
from features.releases import STAGING
from tests.scored_nights import about, publish_night, stage_night, tables, write_scored

NIGHT = dt.date(2026, 3, 10)
DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 3, 14, 12, tzinfo=dt.UTC)
SMALL: dict[str, int] = {"users": 6, "items": 4}
Action = Callable[[], object]


def columns(date: dt.date) -> dict[str, dict[str, Any]]:
    return tables(seed=date.toordinal(), **SMALL)


def nights(configuration: Configuration, count: int) -> list[str]:
    return [publish_night(configuration, NIGHT + day * DAY, columns(NIGHT + day * DAY)) for day in range(count)]


def staging(configuration: Configuration, date: dt.date, **changed: Any) -> Action:
    """What stages the night of `date`, its scores written already."""
    made = columns(date)
    scored = write_scored(configuration.scored / date.isoformat(), made)
    note = about(date, made) | changed
    return lambda: release.stage(configuration, date, scored, note)


def publishing(configuration: Configuration, release_id: str, reason: str | None = None) -> Action:
    return lambda: release.publish(configuration, release_id, published_at=NOON, force_reason=reason)


def stage_refused(configuration: Configuration, date: dt.date) -> str:
    """A night whose lists are out of order: the audit refuses DICER's part alone."""
    spoilt = columns(date)
    spoilt["dicer_user_attraction"]["scores"] = [row[::-1] for row in spoilt["dicer_user_attraction"]["scores"]]
    return stage_night(configuration, date, spoilt)


def staged_again(configuration: Configuration) -> Action:
    """The same night with other figures: its twin gives way."""
    nights(configuration, 1)
    staging(configuration, NIGHT + DAY)()
    return staging(configuration, NIGHT + DAY, metrics={})


def audited(configuration: Configuration) -> Action:
    nights(configuration, 1)
    release_id = str(staging(configuration, NIGHT + DAY)())
    return lambda: audit(configuration, release_id)


def composed(configuration: Configuration) -> Action:
    nights(configuration, 1)
    refused = stage_refused(configuration, NIGHT + DAY)
    return lambda: compose(configuration, audit(configuration, refused))


def published_first(configuration: Configuration) -> Action:
    return publishing(configuration, str(staging(configuration, NIGHT)()))


def published_by_force_and_retired(configuration: Configuration) -> Action:
    """A refused night takes the place of its date; a release and an old refused night are more than what is kept."""
    nights(configuration, 4)
    refused, *others = [stage_refused(configuration, NIGHT + day * DAY) for day in (3, 5, 6, 7)]
    for staged in others:
        os.utime(configuration.releases / STAGING / staged, times=2 * ((NOON - 2 * DAY).timestamp(),))
    return publishing(configuration, refused, "the lists are meant to be so")


def collected(configuration: Configuration) -> Action:
    nights(configuration, 4)
    return lambda: retention.collect(configuration, keep=3, now=NOON)


def rolled_back(configuration: Configuration) -> Action:
    first, _, _ = nights(configuration, 3)
    return lambda: release.rollback(configuration, published_at=NOON, to=first)


def artifact(configuration: Configuration, gain: float) -> str:
    graph = {"holds": True, "worst": 1e-6, "tolerance": 1e-4}
    told = {
        "parity": {"encoder": graph},
        "metrics": {part: {"model": {"HR@10": 0.3}, "popularity": {"HR@10": 0.1}} for part in ("validation", "test")},
        "training_set": "window 1",
        "split": {"train_end": "2026-02-01", "valid_end": "2026-02-15", "test_end": "2026-03-01"},
    }

    def fill(directory: Path) -> Mapping[str, Any]:
        gains = np.random.default_rng(3).random(20) + gain
        users = [f"user {number}" for number in range(len(gains))]
        pq.write_table(pa.table({"user_id": users, "gain": gains}), directory / HELD_OUT)
        return told

    return artifacts.save(configuration.artifacts, "karma", fill).version


def promoted(configuration: Configuration) -> Action:
    promote(configuration, artifact(configuration, 0.0), promoted_at=NOON)
    challenger = artifact(configuration, 0.5)
    return lambda: promote(configuration, challenger, promoted_at=NOON)


def demoted(configuration: Configuration) -> Action:
    promoted(configuration)()
    standing = champion_version(configuration, "karma")

    def once() -> None:  # a demotion goes one back from whatever stands: asked again only where it was not done
        if champion_version(configuration, "karma") == standing:
            demote(configuration, "karma", at=NOON, reason="clicks fell")

    return once


SCENARIOS = (
    staged_again,
    audited,
    composed,
    published_first,
    published_by_force_and_retired,
    collected,
    rolled_back,
    promoted,
    demoted,
)

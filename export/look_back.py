"""What changed from one release to another: users, lists, exposure of items, and where interests went.

Both releases are read in one pass over record batches. Nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from export.interest_drift import Activity, SegmentDrift, cosines, drift_by_segment
from export.list_changes import ListChanges, list_changes
from features.configuration import Configuration
from features.contracts import PUBLISHED
from features.partitions import partition_path, read_partition
from features.releases import Release

INTEREST, LISTS = "karma_user_interest", "dicer_user_attraction"
_QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


@dataclass(frozen=True)
class ListChange:
    """One user whose list changed: how much agrees (average overlap), what entered, what left, best first."""

    user_id: str
    agreement: float
    entered: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True)
class ExposureChange:
    """One item: places in lists before and now, and the change of its share of all places."""

    item_id: str
    before: int
    now: int
    share_change: float


@dataclass(frozen=True)
class Difference:
    """From release `before` to release `now`."""

    before: str
    now: str
    rows: Mapping[str, Mapping[str, int]]  # by view: before, now, joined, left
    models_changed: tuple[str, ...]
    lists: Mapping[str, float | int | None]  # users, unchanged, mean agreement and quantiles of it
    most_changed: tuple[ListChange, ...]
    gained: tuple[ExposureChange, ...]
    lost: tuple[ExposureChange, ...]
    drift: tuple[SegmentDrift, ...]
    remarks: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def difference(before: Release, now: Release, *, activity: Activity | None, most: int) -> Difference:
    """Compare two releases; `most` users and items are named on each side, ties in order of their ids.

    Interest embeddings are compared only within one space. Without `activity` their drift is told of all users.
    """
    changes = list_changes(before.tables[LISTS], now.tables[LISTS])
    drift, remarks = _drift(before, now, activity)
    gained, lost = _exposure(changes, most)
    models = [name for name, version in now.manifest["models"].items() if before.manifest["models"][name] != version]
    return Difference(
        before.release_id,
        now.release_id,
        {view: _rows(before, now, view) for view in PUBLISHED},
        tuple(models),
        _agreement(changes),
        _most_changed(before, now, changes, most),
        gained,
        lost,
        tuple(drift),
        tuple(remarks),
    )


def activity_of(configuration: Configuration, before: Release, now: Release) -> Activity | None:
    """Events of the users of `now` until each of the two nights, None if one of the nights' features are gone."""
    columns = ["user_id", "user_event_count"]
    if not all(partition_path(configuration, "user_history", one.date).is_file() for one in (before, now)):
        return None
    histories = [read_partition(configuration, "user_history", one.date, columns) for one in (now, before)]
    return Activity.of(now.tables[INTEREST], *histories)


def _drift(before: Release, now: Release, activity: Activity | None) -> tuple[list[SegmentDrift], list[str]]:
    if before.space_id != now.space_id:
        return [], [f"drift of interests: not comparable, {before.space_id} and {now.space_id} are two spaces"]
    remarks = [] if activity else [f"segments: user_history of {before.date} or {now.date} is not on disk"]
    cosine = cosines(before.tables[INTEREST], now.tables[INTEREST], "interest_embedding")
    return drift_by_segment(cosine, activity), remarks


def _rows(before: Release, now: Release, view: str) -> dict[str, int]:
    then, today = before.tables[view], now.tables[view]
    shared = sum(
        int((then.locate([batch.column(name) for name in today.table.key]) >= 0).sum()) for batch in today.batches
    )
    return {
        "before": then.row_count,
        "now": today.row_count,
        "joined": today.row_count - shared,
        "left": then.row_count - shared,
    }


def _agreement(changes: ListChanges) -> dict[str, float | int | None]:
    values = changes.agreement
    known = len(values) > 0
    return {
        "users": len(values),
        "unchanged": int((values > 1 - 1e-9).sum()),  # sums of fractions: equal lists end within 1e-14 of 1
        "mean_agreement": float(values.mean()) if known else None,
        **{name: float(np.quantile(values, q)) if known else None for name, q in _QUANTILES.items()},
    }


def _most_changed(before: Release, now: Release, changes: ListChanges, most: int) -> tuple[ListChange, ...]:
    chosen = np.argsort(changes.agreement.round(9), kind="stable")[:most]
    chosen = chosen[changes.agreement[chosen] <= 1 - 1e-9]
    rows, earlier = changes.rows[chosen], changes.earlier[chosen]
    users = now.tables[LISTS].column("user_id", rows).to_pylist()
    ours = now.tables[LISTS].column("item_ids", rows).to_pylist()
    theirs = before.tables[LISTS].column("item_ids", earlier).to_pylist()
    return tuple(
        ListChange(
            user,
            float(agreement),
            tuple(item for item in one if item not in set(other)),
            tuple(item for item in other if item not in set(one)),
        )
        for user, agreement, one, other in zip(users, changes.agreement[chosen], ours, theirs, strict=True)
    )


def _exposure(changes: ListChanges, most: int) -> tuple[tuple[ExposureChange, ...], tuple[ExposureChange, ...]]:
    """Items by the change of their share of all places: those that gained most, and those that lost most."""
    together = changes.exposure.join(
        changes.exposure_before.rename_columns(["item_id", "before"]), "item_id", join_type="full outer"
    )
    now, before = (pc.fill_null(together.column(name), 0).to_numpy() for name in ("places", "before"))
    change = now / max(now.sum(), 1) - before / max(before.sum(), 1)
    names = together.column("item_id").to_numpy()
    up = np.lexsort((names, -change))[:most]
    down = np.lexsort((names, change))[:most]
    gained, lost = (
        tuple(ExposureChange(str(names[i]), int(before[i]), int(now[i]), float(change[i])) for i in chosen)
        for chosen in (up[change[up] > 0], down[change[down] < 0])
    )
    return gained, lost

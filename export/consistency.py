"""Online against offline: sampled rows as Feast serves them, and as its point-in-time join computes them.

The online answer comes from the live release, the offline one from the history of what was served. Where they differ, a
model would be trained on other features than those that it is asked with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export.history import partition
from features.configuration import Configuration
from features.contracts import PROVENANCE, PUBLISHED
from features.release_storage import open_configured
from features.releases import Release

EXAMPLES = 5


@dataclass(frozen=True)
class ConsistencyConfig:
    """How much is compared, and how much may differ."""

    sample: int = 200  # rows of each view, from either side
    max_mismatch_rate: float = 0.0  # share of compared rows that may differ

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise ValueError(f"expected sample >= 1, got {self.sample}")
        if not 0 <= self.max_mismatch_rate < 1:
            raise ValueError(f"expected 0 <= max_mismatch_rate < 1, got {self.max_mismatch_rate}")


@dataclass(frozen=True)
class ViewComparison:
    """One view: rows compared, rows that differ in any column, and a few of them as `key: column`."""

    view: str
    compared: int
    mismatches: int
    examples: tuple[str, ...]

    @property
    def mismatch_rate(self) -> float:
        """Share of the compared rows that differ; NaN where none was compared."""
        return self.mismatches / self.compared if self.compared else math.nan


@dataclass(frozen=True)
class Comparison:
    """Every published view of one release."""

    release_id: str
    views: tuple[ViewComparison, ...]

    @property
    def sentence(self) -> str:
        """What was compared, in words."""
        told = ", ".join(f"{view.view} {view.mismatches} of {view.compared}" for view in self.views)
        return f"{self.release_id}, rows that differ online and offline: {told}"

    def refused(self, config: ConsistencyConfig) -> list[str]:
        """A sentence for each view of which too many rows differ, or none could be compared."""
        return [
            f"{view.view}, consistency: mismatch_rate {view.mismatch_rate:.6g}, at most {config.max_mismatch_rate:g} "
            f"asked (max_mismatch_rate); {view.mismatches} of {view.compared} rows"
            + (f", such as {'; '.join(view.examples)}" if view.examples else "")
            for view in self.views
            if not view.mismatch_rate <= config.max_mismatch_rate  # NaN refuses
        ]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        views = [asdict(view) | {"mismatch_rate": view.mismatch_rate if view.compared else None} for view in self.views]
        return {"release_id": self.release_id, "views": views}


def compare(configuration: Configuration, *, sample: int, seed: int) -> Comparison:
    """Compare up to `sample` rows of each published view from either side, drawn by `seed`.

    Keys are drawn from the release and from the offline partition, so that a row that only one of them has is found.
    Raises MissingInput if nothing is published.
    """
    release = open_configured(configuration).current()
    return Comparison(
        release.release_id,
        tuple(_compare_view(configuration, release, view, sample=sample, seed=seed) for view in PUBLISHED),
    )


def _compare_view(
    configuration: Configuration, release: Release, view: str, *, sample: int, seed: int
) -> ViewComparison:
    from features.served_rows import offline_rows, online_rows
    from features.store import open_store

    ids, columns = _sampled(configuration, release, view, sample=sample, seed=seed), _columns(view)
    if not ids:
        return ViewComparison(view, 0, 0, ())
    store, instant = open_store(configuration), release.as_of_view(view)
    online = _by_key(online_rows(store, view, columns, ids))
    offline = _by_key(offline_rows(store, view, columns, ids, instant=instant))
    differing = list(_differing(online, offline, columns))
    return ViewComparison(view, len(ids), len(differing), tuple(differing[:EXAMPLES]))


def _sampled(configuration: Configuration, release: Release, view: str, *, sample: int, seed: int) -> list[str]:
    """Keys of both sides, each once, in order."""
    key, random = PUBLISHED[view].key[0], np.random.default_rng(seed)
    table = release.tables[view]
    rows = random.choice(table.row_count, size=min(sample, table.row_count), replace=False)
    keys = set(table.column(key, np.sort(rows)).to_pylist())
    file = partition(configuration, view, release.as_of_view(view).date())
    if file.is_file():
        column = pq.read_table(file, columns=[key])[key]
        keys |= set(column.take(random.choice(len(column), size=min(sample, len(column)), replace=False)).to_pylist())
    return sorted(keys)


def _columns(view: str) -> list[str]:
    """What is compared: all but the key, and when the release went live, which a rollback moves."""
    named = [*PUBLISHED[view].schema.names, *(column.name for column in PROVENANCE[view])]
    return [name for name in named if name not in PUBLISHED[view].key and not name.endswith("published_at")]


def _by_key(table: pa.Table) -> dict[str, tuple[Any, ...]]:
    keys, *values = (column.to_pylist() for column in table.columns)
    return dict(zip(keys, zip(*values, strict=True), strict=True))


def _differing(
    online: Mapping[str, tuple[Any, ...]], offline: Mapping[str, tuple[Any, ...]], columns: Sequence[str]
) -> Iterator[str]:
    """`key: columns` of each row that is not the same on both sides; NaN is no value to serve, and equals nothing."""
    for key, served in online.items():
        kept = offline.get(key, (None,) * len(columns))
        names = [name for name, ours, theirs in zip(columns, served, kept, strict=True) if ours != theirs]
        if names:
            yield f"{key}: {', '.join(names)}"

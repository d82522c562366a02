"""Scored nights by hand, for the tests of whatever stages, publishes or reads releases."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export import release
from features.configuration import Configuration
from features.contracts import PUBLISHED

DIMENSION = 8
PARITY = {"encoder.onnx": {"worst": 1e-6, "tolerance": 1e-4, "holds": True}}
MIDDAY = dt.time(12, tzinfo=dt.UTC)


def configuration_at(folder: Path, **sections: Mapping[str, Any]) -> Configuration:
    """A configuration whose state is below `folder`."""
    return Configuration(folder / "attractor.toml", folder / "state", sections)


def unit_vectors(count: int, *, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random directions, float32."""
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drifted(vectors: np.ndarray[Any, np.dtype[np.float32]], *, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors near to `vectors`, as those of the next night are."""
    rows = vectors + 0.02 * np.random.default_rng(seed).normal(size=vectors.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def tables(*, users: int = 20, items: int = 12, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The columns of every published view, in no order of keys; those of two seeds differ as two nights do."""
    user_ids = [f"user {number}" for number in range(users)]
    item_ids = [f"item {number}" for number in range(items)]
    interests = list(drifted(unit_vectors(users, seed=0), seed=seed))
    embeddings = list(drifted(unit_vectors(items, seed=1), seed=seed + 1))
    return {
        "karma_user_interest": {"user_id": user_ids, "interest_embedding": interests},
        "karma_item_embedding": {"item_id": item_ids, "item_embedding": embeddings},
        "dicer_user_attraction": {
            "user_id": user_ids[::-1],
            "item_ids": [item_ids[: 2 + number % 2] for number in range(users)],
            "scores": [[0.75, 0.5, 0.25][: 2 + number % 2] for number in range(users)],
        },
    }


def about(date: dt.date, columns: Mapping[str, Mapping[str, Any]], *, space_id: str = "space-1") -> dict[str, Any]:
    """The `scored.json` of these tables."""
    return {
        "date": date.isoformat(),
        "models": {"karma": "karma-1", "dicer": "dicer-1"},
        "space_id": space_id,
        "metrics": {"karma": {"test": {"model": {"HR@10": 0.3}, "popularity": {"HR@10": 0.1}}}},
        "evidence": {model: {"parity": dict(PARITY), "quality": None} for model in ("karma", "dicer")},
        "popular_items": sorted(columns["karma_item_embedding"]["item_id"])[:3],
        "figures": {
            "users_expected": len(columns["karma_user_interest"]["user_id"]),
            "items_expected": len(columns["karma_item_embedding"]["item_id"]),
            "users_known": len(columns["dicer_user_attraction"]["user_id"]),
            "newest_event": dt.datetime.combine(date - dt.timedelta(days=1), MIDDAY).isoformat(),
            "attraction_users_expected": len(columns["dicer_user_attraction"]["user_id"]),
        },
    }


def write_scored(folder: Path, columns: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the Parquet files as scoring does."""
    folder.mkdir(parents=True, exist_ok=True)
    for view, values in columns.items():
        pq.write_table(pa.table(dict(values), schema=PUBLISHED[view].schema), folder / f"{view}.parquet")
    return folder


def stage_night(
    configuration: Configuration,
    date: dt.date,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    space_id: str = "space-1",
) -> str:
    """Write and stage a night; by default one that differs from date to date."""
    columns = columns or tables(seed=date.toordinal())
    scored = write_scored(configuration.scored / date.isoformat(), columns)
    return release.stage(configuration, date, scored, about(date, columns, space_id=space_id))


def publish_night(
    configuration: Configuration, date: dt.date, columns: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Stage a night and publish it at midday of its date."""
    release_id = stage_night(configuration, date, columns)
    release.publish(configuration, release_id, published_at=dt.datetime.combine(date, MIDDAY))
    return release_id

"""A market small enough to know by heart: users keep to one kind of item, and their queries name its colour."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from export.artifacts import Artifact
from features.contracts import ITEM_CATALOG, USER_HISTORY
from features.training_sets import LABELS, Split, TrainingSet
from models.karma.config import karma_tiny
from models.karma.training import TrainedKarma

COLOURS, KINDS = ("red", "blue", "green"), ("shirt", "lamp")
SPLIT = Split(dt.date(2026, 1, 20), dt.date(2026, 1, 25), dt.date(2026, 1, 30))
KARMA_EXPORTED = replace(karma_tiny(), steps=10, pretraining_steps=5, embedding=12, soft_tokens=3)
INSTANT = dt.datetime(2026, 1, 20, tzinfo=dt.UTC)


@dataclass(frozen=True)
class ExportedKarma:
    """A trained network and its artifact."""

    trained: TrainedKarma
    artifact: Artifact


def catalogue(items: int = 36) -> pa.Table:
    """`i000`, `i001`, ...; every fifth has no picture, every seventh no text, the last two no event."""
    rows = []
    for i in range(items):
        kind, colour = KINDS[i % 2], COLOURS[i % 3]
        title = "" if i % 7 == 6 else f"{colour} {kind} {i}"
        rows.append(
            {
                "item_id": f"i{i:03}",
                "event_timestamp": INSTANT,
                "title": title,
                "category": kind,
                "tags": [colour],
                "text": f"{kind}; {colour}; {title}" if title else "",
                "picture": None if i % 5 == 0 else [float(i % 3 == j) for j in range(3)],
                "item_event_count": 0 if i >= items - 2 else 3 + i % 4,
            }
        )
    return pa.Table.from_pylist(rows, ITEM_CATALOG.schema)


def histories(taken: dict[str, Sequence[int]], queries: dict[str, Sequence[str]] | None = None) -> pa.Table:
    """Rows of `user_history` for users and the numbers of their items, oldest first."""
    rows: list[dict[str, Any]] = [
        {
            "user_id": user,
            "event_timestamp": INSTANT,
            "item_ids": [f"i{i:03}" for i in items],
            "queries": list((queries or {}).get(user, [COLOURS[i % 3] if i % 2 else "" for i in items])),
            "event_times": [INSTANT - dt.timedelta(hours=len(items) - n) for n in range(len(items))],
            "history_length": len(items),
            "user_event_count": len(items),
        }
        for user, items in taken.items()
    ]
    return pa.Table.from_pylist(rows, USER_HISTORY.schema)


def labels(taken: Sequence[tuple[str, str, str]]) -> pa.Table:
    """Rows of labels from (user, item, query)."""
    rows = [{"user_id": u, "item_id": i, "query": q, "event_at": INSTANT} for u, i, q in taken]
    return pa.Table.from_pylist(rows, LABELS)


def training_set(users: int = 40, items: int = 36, seed: int = 0) -> TrainingSet:
    """Users who stay within one of six kinds; what they take next, they take in both windows."""
    rng = np.random.default_rng(seed)
    taken, following = {}, []
    for u in range(users):
        own = [i for i in rng.permutation(items - 2) if i % 6 == u % 6]
        count = 1 + int(rng.integers(3))
        taken[f"u{u:03}"] = own[:count]
        following.append((f"u{u:03}", f"i{own[count]:03}", COLOURS[own[count] % 3]))
    following += [("new user", "i001", ""), ("u000", "never seen", "")]
    features = {"item_catalog": catalogue(items), "user_history": histories(taken)}
    return TrainingSet(SPLIT, features, features, labels(following), labels(following), "tiny")

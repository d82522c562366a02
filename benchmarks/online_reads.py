"""Online reads of one published night: through Feast over releases, through Feast over its own SQLite store, and bulk.

    python benchmarks/online_reads.py --users 20000 --json

Both stores hold the same rows and answer the same requests in turn, so that the machine's mood falls on both alike.
Feast resolves a request's features anew when another registry answered in between; a service has one registry, so a
turn is several requests of one store and its first is not counted. `p50_ms` is wall time, `_cpu_ms` the thread's.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import FeatureStore, RepoConfig

from export import release
from features.configuration import Configuration
from features.contracts import PUBLISHED
from features.definitions import define
from features.releases import open_releases
from features.store import SETTINGS, open_store, register

NIGHT = dt.date(2026, 3, 1)
PUBLISHED_AT = dt.datetime(2026, 3, 1, 3, tzinfo=dt.UTC)
VECTORS = ("karma_user_interest", "interest_embedding")
REQUESTS = {
    "embedding": ["karma_user_interest:interest_embedding"],
    "list": ["dicer_user_attraction:item_ids", "dicer_user_attraction:scores"],
    "ranking_v1": None,
}
TURN = 5
"""Counted requests of one store before the other's turn."""

Request = Callable[[], Any]


def main() -> None:
    """Build both stores in a temporary folder, read them in turn, print medians in milliseconds and their ratio."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        configuration = Configuration(state / "attractor.toml", state / "state", {})
        seconds = {"stage and publish": _timed(lambda: _publish(configuration, options))}
        ours = open_store(configuration)
        theirs = _sqlite(configuration)
        seconds["materialise into SQLite"] = _timed(lambda: _materialise(theirs))
        figures = {
            "users": options.users,
            "dimension": options.dimension,
            "list_length": options.list_length,
            "seconds": seconds,
            "feast": _compare(ours, theirs, options),
            "bulk": _bulk(configuration, theirs, options),
        }
        figures["p50_ms"] = {store: {row["request"]: {} for row in figures["feast"]} for store in ("release", "sqlite")}
        for row in figures["feast"]:
            for store, by_request in figures["p50_ms"].items():
                by_request[row["request"]][row["keys"]] = row[f"{store}_ms"]
        figures["bulk_ratio"] = figures["bulk"][0]["times_faster"]
    _say(figures, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--list-length", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keys", type=int, nargs="+", default=[1, 2, 5, 10, 32, 100, 320, 1000])
    parser.add_argument("--bulk-keys", type=int, nargs="+", default=[1000])
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _publish(configuration: Configuration, options: argparse.Namespace) -> None:
    register(configuration)
    generator = np.random.default_rng(0)
    users = [f"user_{number:08d}" for number in range(options.users)]
    items = [f"item_{number:08d}" for number in range(options.items)]
    picks = np.argsort(generator.random((options.users, options.list_length * 2), np.float32), axis=1)[
        :, : options.list_length
    ]
    columns: dict[str, dict[str, Any]] = {
        "karma_user_interest": {"user_id": users, "interest_embedding": _vectors(generator, len(users), options)},
        "karma_item_embedding": {"item_id": items, "item_embedding": _vectors(generator, len(items), options)},
        "dicer_user_attraction": {
            "user_id": users,
            "item_ids": _lists(pa.array(items).take(pa.array(picks.ravel())), options),
            "scores": _lists(
                pa.array(np.tile(np.linspace(0.9, 0.1, options.list_length, dtype=np.float32), len(users))), options
            ),
        },
    }
    scored = configuration.scored / NIGHT.isoformat()
    scored.mkdir(parents=True)
    for view, table in columns.items():
        pq.write_table(pa.table(table, schema=PUBLISHED[view].schema), scored / f"{view}.parquet")
    counts = {name: len(users) for name in ("users_expected", "users_known", "attraction_users_expected")}
    parity = {"parity": {"graph.onnx": {"worst": 0.0, "tolerance": 1.0, "holds": True}}, "quality": None}
    newest = {"items_expected": len(items), "newest_event": f"{NIGHT - dt.timedelta(days=1)}T12:00:00+00:00"}
    models = {"karma": "karma-benchmark", "dicer": "dicer-benchmark"}
    about = {
        "date": NIGHT.isoformat(),
        "models": models,
        "space_id": "space",
        "metrics": {},
        "figures": counts | newest,
        "evidence": dict.fromkeys(models, parity),
    }
    release_id = release.stage(configuration, NIGHT, scored, about)
    reason = "random vectors: what the audit thinks of them is not measured here"
    release.publish(configuration, release_id, published_at=PUBLISHED_AT, force_reason=reason)


def _vectors(generator: np.random.Generator, count: int, options: argparse.Namespace) -> pa.Array:
    rows = generator.normal(size=(count, options.dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * options.dimension)
    return pa.ListArray.from_arrays(offsets, pa.array(rows.ravel()))


def _lists(values: pa.Array, options: argparse.Namespace) -> pa.Array:
    offsets = np.arange(len(values) // options.list_length + 1, dtype=np.int32) * options.list_length
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _sqlite(configuration: Configuration) -> FeatureStore:
    """The same registered views over Feast's SQLite store."""
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    settings["registry"]["path"] = str(configuration.state / "sqlite_registry.db")
    settings["online_store"] = {"type": "sqlite", "path": str(configuration.state / "online.db")}
    store = FeatureStore(config=RepoConfig(repo_path=SETTINGS.parent, **settings))
    known = define(configuration)
    sources = [view.batch_source for view in known.views.values()]
    store.apply([known.project, *sources, *known.entities.values(), *known.views.values(), *known.services.values()])
    return store


def _materialise(store: FeatureStore) -> None:
    day = dt.timedelta(days=1)
    views = ["karma_user_interest", "dicer_user_attraction"]
    with redirect_stdout(sys.stderr):  # Feast prints its progress, and --json is for machines
        store.materialize(PUBLISHED_AT - day, PUBLISHED_AT, feature_views=views)


def _compare(ours: FeatureStore, theirs: FeatureStore, options: argparse.Namespace) -> list[dict[str, Any]]:
    generator, figures = np.random.default_rng(1), []
    for name, references in REQUESTS.items():
        for count in options.keys:
            rows = [{"user_id": f"user_{n:08d}"} for n in generator.choice(options.users, count, replace=False)]
            requests = [
                _request(store, references or store.get_feature_service(name), rows) for store in (ours, theirs)
            ]
            one, other = (request().to_dict() for request in requests)
            assert _values(one) == _values(other), f"{name}: the two stores disagree"
            rounds = max(options.rounds // 4, min(options.rounds, 600 // count))
            figures.append({"request": name, "keys": count, **_medians(requests, rounds)})
    return figures


def _request(store: FeatureStore, features: Any, rows: list[dict[str, Any]]) -> Request:
    return lambda: store.get_online_features(features=features, entity_rows=rows)


def _values(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in answer.items() if name != "published_at"}


def _bulk(configuration: Configuration, theirs: FeatureStore, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Thousands of vectors as one NumPy block, against the same block made of Feast's answer."""
    store, generator, figures = open_releases(configuration.releases), np.random.default_rng(2), []
    for count in options.bulk_keys:
        ids = [f"user_{n:08d}" for n in generator.choice(options.users, count, replace=False)]
        rows = [{"user_id": one} for one in ids]
        through_feast = _request(theirs, REQUESTS["embedding"], rows)
        requests: list[Request] = [
            lambda ids=ids: store.current().embeddings(*VECTORS, ids)[0],
            lambda request=through_feast: np.array(request().to_dict()["interest_embedding"], np.float32),
        ]
        assert (requests[0]() == requests[1]()).all()
        figures.append({"keys": count, **_medians(requests, max(5, options.rounds // 3))})
    return figures


def _medians(requests: list[Request], rounds: int) -> dict[str, float]:
    """Median milliseconds of either store's request, wall and CPU, and how many times quicker ours is."""
    wall: list[list[float]] = [[] for _ in requests]
    cpu: list[list[float]] = [[] for _ in requests]
    for _ in range(rounds):
        for request, seconds, cpu_seconds in zip(requests, wall, cpu, strict=True):
            request()
            for _ in range(TURN):
                began, cpu_began = time.perf_counter(), time.thread_time()
                request()
                seconds.append(time.perf_counter() - began)
                cpu_seconds.append(time.thread_time() - cpu_began)
    (mine, feast), (mine_cpu, feast_cpu) = (
        [1000 * statistics.median(seconds) for seconds in clock] for clock in (wall, cpu)
    )
    return {
        "release_ms": mine,
        "sqlite_ms": feast,
        "times_faster": feast / mine,
        "release_cpu_ms": mine_cpu,
        "sqlite_cpu_ms": feast_cpu,
        "times_faster_cpu": feast_cpu / mine_cpu,
    }


def _timed(work: Request) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _say(figures: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for step, seconds in figures["seconds"].items():
        print(f"{step}: {seconds:.1f} s for {figures['users']} users")
    for row in [*figures["feast"], *({"request": "bulk reader"} | row for row in figures["bulk"])]:
        print(
            f"{row['request']:12} {row['keys']:5} keys: releases {row['release_ms']:8.2f} ms, "
            f"SQLite {row['sqlite_ms']:8.2f} ms, {row['times_faster']:.2f} times, of CPU {row['times_faster_cpu']:.2f}"
        )


if __name__ == "__main__":
    main()

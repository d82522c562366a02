"""Time and memory of `attractor diff` over two nights of many users and long lists.

    python benchmarks/look_back.py --users 200000 --items 100000 --list-length 50 --json

The nights are made in another process, so that the peak is of the comparison alone; what is mapped into memory counts.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export.look_back import difference
from export.staging import stage
from features.configuration import Configuration
from features.contracts import PUBLISHED
from features.releases import STAGING, open_release

DATES = (dt.date(2026, 3, 1), dt.date(2026, 3, 2))


def main() -> None:
    """Stage two nights in a temporary folder, compare them, print seconds and megabytes."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        maker = multiprocessing.get_context("spawn").Process(target=_make, args=(folder, options))
        maker.start()
        maker.join()
        staging = _configuration(folder).releases / STAGING
        before, now = (open_release(path) for path in sorted(staging.glob("20*")))
        idle = _peak_mb()
        began, worked = time.perf_counter(), time.process_time()
        told = difference(before, now, activity=None, most=20)
        figures = {
            "users": options.users,
            "list_length": options.list_length,
            "items": options.items,
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - worked, 2),
            "peak_mb": _peak_mb(),
            "peak_mb_before": idle,
            "mean_agreement": told.lists["mean_agreement"],
        }
    print(json.dumps(figures, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--list-length", type=int, default=50)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _make(folder: str, options: argparse.Namespace) -> None:
    """Stage two nights; one list in two of the second is that of the first, the others are drawn anew."""
    generator = np.random.default_rng(0)
    drawn = _drawn(generator, options)
    for number, date in enumerate(DATES):
        if number:
            drawn = np.where(np.arange(options.users)[:, None] % 2 == 0, drawn, _drawn(generator, options))
        scored = Path(folder, f"scored-{number}")
        scored.mkdir()
        _write(scored, drawn, generator, options)
        about = {"date": date.isoformat(), "models": {"karma": "karma-1", "dicer": "dicer-1"}, "space_id": "space-1"}
        stage(_configuration(folder), date, scored, about | {"metrics": {}, "figures": {}})


def _drawn(generator: np.random.Generator, options: argparse.Namespace) -> np.ndarray:
    """Items [users, length], distinct within a list: a run of items from a random one, a few apart."""
    first = generator.integers(0, options.items, (options.users, 1))
    step = generator.integers(1, 7, (options.users, 1))
    return (first + step * np.arange(options.list_length)) % options.items


def _write(scored: Path, drawn: np.ndarray, generator: np.random.Generator, options: argparse.Namespace) -> None:
    users = pa.array([f"user {number}" for number in range(options.users)])
    items = pa.array([f"item {number}" for number in range(options.items)])
    offsets = pa.array(np.arange(options.users + 1, dtype=np.int32) * options.list_length)
    scores = np.tile(np.linspace(0.9, 0.1, options.list_length, dtype=np.float32), options.users)
    columns = {
        "karma_user_interest": [users, _vectors(len(users), generator, options.dimension)],
        "karma_item_embedding": [items, _vectors(len(items), generator, options.dimension)],
        "dicer_user_attraction": [
            users,
            pa.ListArray.from_arrays(offsets, items.take(pa.array(drawn.ravel()))),
            pa.ListArray.from_arrays(offsets, pa.array(scores)),
        ],
    }
    for view, values in columns.items():
        pq.write_table(pa.table(values, schema=PUBLISHED[view].schema), scored / f"{view}.parquet")


def _vectors(count: int, generator: np.random.Generator, dimension: int) -> pa.Array:
    rows = generator.normal(size=(count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * dimension), pa.array(rows.ravel()))


def _configuration(folder: str) -> Configuration:
    return Configuration(Path(folder, "attractor.toml"), Path(folder, "state"), {})


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()

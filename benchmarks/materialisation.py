"""Materialising the histories of a million users into SQLite or Redis: rows a second and peak memory.

    python benchmarks/materialisation.py --users 1000000 --json

`streamed` is our compute engine, `local` is Feast's own with the same batches written online; it holds the whole view,
so give it fewer users. A Redis of its own runs on loopback for as long as the benchmark does. Every
measurement is a process of its own, whose peak resident memory is its high-water mark; CPU is that process's.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb

from export.memory import peak_memory_mb
from features.configuration import Configuration
from features.partitions import partition_path
from features.windows import midnight

NIGHT = dt.date(2026, 3, 2)
ENGINES = {"streamed": {"type": "features.streamed_engine.StreamedComputeEngine"}, "local": {"type": "local"}}
HISTORIES = """
COPY (
    SELECT 'user-' || lpad(i::VARCHAR, 7, '0') AS user_id, TIMESTAMPTZ '{night} 00:00:00+00' AS event_timestamp,
        list_transform(range({history}), lambda k: 'item-' || (i * 7919 + k * 104729) % 200000) AS item_ids,
        list_transform(range({history}), lambda k: 'words ' || (i + k) % 1000) AS queries,
        list_transform(range({history}), lambda k: TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_seconds(i * 13 + k))
            AS event_times,
        {history}::BIGINT AS history_length, {history}::BIGINT AS user_event_count
    FROM range({users}) AS numbers(i)
) TO '{file}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 8192)
"""


def main() -> None:
    """Write the histories, materialise them in a process of its own, print figures."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_histories(options, _configuration(folder))
        with _online(options.store, folder) as online, ProcessPoolExecutor(1, get_context("spawn")) as process:
            figures = process.submit(_materialise, folder, online, options.engine, options.batch).result()
    figures = {"users": options.users, "history": options.history, "store": options.store} | figures
    print(json.dumps(figures, indent=2) if options.json else _sentence(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--history", type=int, default=50, help="events of each user")
    parser.add_argument("--batch", type=int, default=10_000, help="online_write_batch_size")
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--engine", choices=list(ENGINES), default="streamed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _configuration(folder: Path) -> Configuration:
    return Configuration(folder / "attractor.toml", folder / "state", {})


def _write_histories(options: argparse.Namespace, configuration: Configuration) -> None:
    file = partition_path(configuration, "user_history", NIGHT)
    file.parent.mkdir(parents=True)
    statement = HISTORIES.format(night=NIGHT, file=file, users=options.users, history=options.history)
    with duckdb.connect(config={"memory_limit": "1GB", "threads": 1}) as database:
        database.execute(statement)


@contextmanager
def _online(store: str, folder: Path) -> Iterator[Mapping[str, str]]:
    if store == "sqlite":
        yield {"type": "sqlite", "path": str(folder / "online.db")}
        return
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.redis_server import loopback_redis

    with loopback_redis(folder) as port:
        yield {"type": "redis", "connection_string": f"127.0.0.1:{port}"}


def _materialise(folder: Path, online: Mapping[str, str], engine: str, batch: int) -> dict[str, Any]:
    from feast import FeatureStore, RepoConfig

    from features.definitions import define

    os.dup2(2, 1)  # Feast tells its progress on standard output, and --json is for machines
    store = FeatureStore(
        config=RepoConfig(
            project="benchmark",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": "duckdb"},
            online_store=dict(online),
            batch_engine=ENGINES[engine],
            materialization={"online_write_batch_size": batch},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )
    definitions = define(_configuration(folder), online=["user_history"])
    store.apply([*definitions.entities.values(), definitions.views["user_history"]])
    before, night = peak_memory_mb(), midnight(NIGHT)
    began, cpu_began = time.perf_counter(), time.process_time()
    store.materialize(night - dt.timedelta(hours=1), night, ["user_history"])
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    users = [{"user_id": "user-0000000"}, {"user_id": "nobody"}]
    answer = store.get_online_features(["user_history:history_length"], users).to_dict()
    assert [length is not None for length in answer["history_length"]] == [True, False], answer
    return {
        "engine": engine,
        "batch": batch,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_memory_mb": peak_memory_mb(),
        "peak_memory_before_mb": before,
    }


def _sentence(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['users']:,} users of {figures['history']} events into {figures['store']} by the {figures['engine']} "
        f"engine: {figures['seconds']:,} s ({figures['cpu_seconds']:,} s of CPU, "
        f"{figures['users'] / figures['seconds']:,.0f} users a second), peak memory {figures['peak_memory_mb']:,} MB "
        f"({figures['peak_memory_before_mb']:,} MB before)"
    )


if __name__ == "__main__":
    main()

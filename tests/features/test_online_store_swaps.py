"""One request, one night: readers in processes of their own, while the pointer moves between two nights."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.configuration import Configuration
from features.contracts import PUBLISHED
from features.files import read_sealed_json, write_sealed_json
from features.releases import POINTER, open_releases
from tests.scored_nights import configuration_at, publish_night, tables

NIGHT = dt.date(2026, 3, 1)
READERS, SWAPS = 6, 300
USERS = [f"user {number}" for number in range(20)]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::FutureWarning:feast")


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def read_through_feast(configuration: Configuration, stop: Any, seen: Any) -> None:
    """Ask for both views until told to stop; put what each answer said of its night, and when it was asked for."""
    from features.store import open_store

    store = open_store(configuration)
    service, rows = store.get_feature_service("ranking_v1"), [{"user_id": user} for user in USERS]
    answers = []
    seen.put("ready")
    while not stop.is_set():
        began, answer = time.monotonic(), store.get_online_features(service, rows).to_dict()
        nights = {*answer["release_id"], *answer["attraction_release_id"]}
        vectors = round(float(np.sum(answer["interest_embedding"])), 4)
        answers.append((began, sorted(map(str, nights)), vectors))
        time.sleep(0.002)
    seen.put(answers)


def read_in_bulk(configuration: Configuration, stop: Any, seen: Any) -> None:
    """The same of the bulk reader, by the vectors alone."""
    store = open_releases(configuration.releases)
    answers = []
    seen.put("ready")
    while not stop.is_set():
        began, release = time.monotonic(), store.current()
        block, found = release.embeddings("karma_user_interest", "interest_embedding", USERS)
        assert found.all()
        answers.append((began, [release.release_id], round(float(block.astype(float).sum()), 4)))
        time.sleep(0.001)
    seen.put(answers)


def swap(configuration: Configuration, nights: Sequence[str], *, times: int, pause: float) -> None:
    """Replace the pointer as publication does, but for its fsyncs: hundreds of them take minutes on a busy disk."""
    pointer, temporary = configuration.releases / POINTER, configuration.releases / ".tmp-pointer"
    standing, written = read_sealed_json(pointer), []
    for night in nights:
        write_sealed_json(pointer, standing | {"release_id": night})
        written.append(pointer.read_bytes())
    for number in range(times):
        temporary.write_bytes(written[number % 2])
        os.replace(temporary, pointer)
        time.sleep(pause)


def test_no_answer_mixes_nights_and_readers_follow_within_a_second(configuration: Configuration) -> None:
    from features.store import register

    register(configuration)
    scored = [tables(seed=seed) for seed in (1, 2)]
    nights = [publish_night(configuration, NIGHT + dt.timedelta(days=day), scored[day]) for day in (0, 1)]
    sums = {
        night: float(np.sum(columns["karma_user_interest"]["interest_embedding"], dtype=np.float64))
        for night, columns in zip(nights, scored, strict=True)
    }
    context = multiprocessing.get_context("fork")  # what this process has imported need not be imported again
    stop = context.Event()
    inboxes = [context.Queue() for _ in range(READERS)]
    kinds = [read_in_bulk, read_in_bulk] + [read_through_feast] * (READERS - 2)
    readers = [
        context.Process(target=kind, args=(configuration, stop, inbox))
        for kind, inbox in zip(kinds, inboxes, strict=True)
    ]
    for reader in readers:
        reader.start()
    assert [inbox.get(timeout=60) for inbox in inboxes] == ["ready"] * READERS
    swap(configuration, nights, times=SWAPS, pause=0.005)
    last = time.monotonic()
    time.sleep(1.5)
    stop.set()
    answers = [inbox.get(timeout=60) for inbox in inboxes]
    for reader in readers:
        reader.join(timeout=60)
    assert [reader.exitcode for reader in readers] == [0] * READERS
    live = nights[(SWAPS - 1) % 2]
    for told in answers:
        assert {len(seen) for _, seen, _ in told} == {1}
        assert all(abs(vectors - sums[night]) < 1e-3 for _, (night,), vectors in told)
        assert {night for _, (night,), _ in told} == set(nights)
        assert {night for when, (night,), _ in told if when > last + 1.0} == {live}


def test_what_was_mapped_before_a_night_was_retired_stays_readable(configuration: Configuration) -> None:
    """Retention deletes the files of the release that a request in flight holds; every column can still be read."""
    scored = tables(seed=0)
    first = publish_night(configuration, NIGHT, scored)
    held = open_releases(configuration.releases).current()
    for day in range(1, 10):
        publish_night(configuration, NIGHT + dt.timedelta(days=day), tables(seed=day))
    assert not (configuration.releases / "releases" / first).exists()
    assert held.release_id == first
    for view, table in PUBLISHED.items():
        stored = held.tables[view]
        keys = [key for batch in stored for key in batch.column(table.key[0]).to_pylist()]
        assert sorted(keys) == sorted(scored[view][table.key[0]])
        everything = np.arange(stored.row_count)
        assert all(len(stored.column(name, everything)) == len(keys) for name in stored.names)
    block, found = held.embeddings("karma_user_interest", "interest_embedding", USERS)
    assert found.all()
    assert (block == np.stack(scored["karma_user_interest"]["interest_embedding"])).all()

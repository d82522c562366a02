"""The release reader: one pointer, memory maps that outlive retirement, and corruption that is named."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from export import release as writer
from export.retention import KEEP_RELEASES
from features.configuration import Configuration
from features.errors import ArtifactCorrupt, MissingInput
from features.releases import MANIFEST, POINTER, Release, open_releases, verify
from tests.scored_nights import DIMENSION, configuration_at, publish_night, tables

NIGHT = dt.date(2026, 3, 1)
VECTORS = ("karma_user_interest", "interest_embedding")


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def test_nothing_published_is_an_error_that_says_what_to_run(configuration: Configuration) -> None:
    with pytest.raises(MissingInput, match="attractor night"):
        open_releases(configuration.releases).current()


def test_embeddings_are_the_scored_ones_in_the_order_asked_for(configuration: Configuration) -> None:
    columns = tables(users=30)
    publish_night(configuration, NIGHT, columns)
    release = open_releases(configuration.releases).current()
    ids = ["user 7", "stranger", "user 0", "user 7"]
    block, found = release.embeddings(*VECTORS, ids)
    assert block.dtype == np.float32
    assert block.shape == (4, DIMENSION)
    assert found.tolist() == [True, False, True, True]
    scored = columns["karma_user_interest"]["interest_embedding"]
    assert (block == np.stack([scored[7], np.zeros(DIMENSION), scored[0], scored[7]])).all()
    for form in (np.array(ids), pa.array(ids)):
        again, _ = release.embeddings(*VECTORS, form)
        assert (again == block).all()


def test_vectors_of_another_space_are_refused(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    release = open_releases(configuration.releases).current()
    release.embeddings(*VECTORS, ["user 1"], space_id="space-1")
    with pytest.raises(ValueError, match="space-0"):
        release.embeddings(*VECTORS, ["user 1"], space_id="space-0")
    with pytest.raises(KeyError):
        release.embeddings("dicer_user_attraction", "scores", ["user 1"])


def test_a_reader_follows_the_pointer_and_keeps_what_it_holds(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    store = open_releases(configuration.releases)
    held = store.current()
    assert store.current() is held
    before, _ = held.embeddings(*VECTORS, ["user 3"])
    newer = publish_night(configuration, NIGHT + dt.timedelta(days=1))
    assert store.current().release_id == newer
    again, found = held.embeddings(*VECTORS, ["user 3"])
    assert found.all()
    assert (again == before).all()


def test_provenance_is_that_of_the_release_and_of_its_publication(configuration: Configuration) -> None:
    release_id = publish_night(configuration, NIGHT)
    provenance = open_releases(configuration.releases).current().provenance
    assert provenance["release_id"] == provenance["attraction_release_id"] == release_id
    assert provenance["release_date"] == "2026-03-01"
    assert provenance["published_at"] == dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    assert (provenance["model_version"], provenance["attraction_model_version"]) == ("karma-1", "dicer-1")


@pytest.mark.parametrize("change", ["size", "manifest", "gone", "syntax", "ready"])
def test_corruption_is_found_when_a_release_is_opened(configuration: Configuration, change: str) -> None:
    release_id = publish_night(configuration, NIGHT)
    directory = configuration.releases / "releases" / release_id
    rows = directory / "karma_user_interest" / "rows.arrow"
    if change == "size":
        rows.write_bytes(rows.read_bytes()[:-8])
    elif change == "manifest":
        manifest = json.loads((directory / MANIFEST).read_text())
        (directory / MANIFEST).write_text(json.dumps(manifest | {"space_id": "another"}))
    elif change == "gone":
        rows.unlink()
    elif change == "syntax":
        (directory / MANIFEST).write_text("{")
    else:
        (directory / "READY").unlink()
    with pytest.raises(ArtifactCorrupt, match=release_id):
        open_releases(configuration.releases).current()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_changed_byte_is_found_when_a_release_is_opened_and_by_whoever_holds_it(configuration: Configuration) -> None:
    release_id = publish_night(configuration, NIGHT)
    rows = configuration.releases / "releases" / release_id / "karma_item_embedding" / "rows.arrow"
    held = open_releases(configuration.releases).current()
    verify(held)
    flip(rows)
    with pytest.raises(ArtifactCorrupt, match="karma_item_embedding"):
        open_releases(configuration.releases).current()
    with pytest.raises(ArtifactCorrupt, match="karma_item_embedding"):
        verify(held)


def test_a_damaged_release_is_refused_until_it_is_repaired(configuration: Configuration) -> None:
    rows = configuration.releases / "releases" / publish_night(configuration, NIGHT) / "karma_user_interest/rows.arrow"
    written = rows.read_bytes()
    flip(rows)
    store = open_releases(configuration.releases)
    for _ in range(3):
        with pytest.raises(ArtifactCorrupt, match="karma_user_interest"):
            store.current()
    rows.write_bytes(written)
    verify(store.current())


def test_one_thread_opens_a_new_night_while_the_others_are_given_the_one_before(configuration: Configuration) -> None:
    first = publish_night(configuration, NIGHT)
    store = open_releases(configuration.releases)
    assert store.current().release_id == first
    second = publish_night(configuration, NIGHT + dt.timedelta(days=1))
    with store._opening:  # as a thread that reads the new night holds it
        assert store.current().release_id == first
    assert store.current().release_id == second


def everything(release: Release) -> dict[str, object]:
    """Every row of every view, by batch, by key and as vectors."""
    told: dict[str, object] = {}
    for view, table in release.tables.items():
        keys = [pa.concat_arrays([batch.column(name) for batch in table.batches]) for name in table.table.key]
        rows = table.locate(keys)
        told[view] = [table.column(name, rows).to_pylist() for name in table.names]
        told[f"{view} vectors"] = [table.vectors(name, rows).tobytes() for name in table.windows]
    return told


def test_every_retired_release_stays_readable_for_requests_in_flight(configuration: Configuration) -> None:
    """Each night's release is held while retention deletes it: not one row of any view changes or is lost."""
    store, held = open_releases(configuration.releases), []
    for day in range(10):
        publish_night(configuration, NIGHT + dt.timedelta(days=day))
        release = store.current()
        held.append((release, everything(release) if day % 2 else None))  # half are read late
    gone = [release for release, _ in held if not release.directory.exists()]
    assert len(gone) == 10 - KEEP_RELEASES
    for day, (release, before) in enumerate(held):
        told = everything(release)
        columns = tables(seed=(NIGHT + dt.timedelta(days=day)).toordinal())
        scored = dict(zip(columns[VECTORS[0]]["user_id"], columns[VECTORS[0]]["interest_embedding"], strict=True))
        block, found = release.embeddings(*VECTORS, list(scored))
        assert found.all()
        assert (block == np.stack(list(scored.values()))).all()
        assert before is None or told == before


def test_a_pointer_that_is_not_one_is_named(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT)
    (configuration.releases / POINTER).write_text("{}")
    with pytest.raises(ArtifactCorrupt, match=r"current\.json"):
        open_releases(configuration.releases).current()


def test_a_release_is_opened_by_name_too(configuration: Configuration) -> None:
    first = publish_night(configuration, NIGHT)
    publish_night(configuration, NIGHT + dt.timedelta(days=1))
    store = open_releases(configuration.releases)
    assert store.open(first).date == NIGHT
    with pytest.raises(MissingInput, match="2026-01-01-000000000000"):
        store.open("2026-01-01-000000000000")
    writer.rollback(configuration, published_at=dt.datetime(2026, 3, 3, tzinfo=dt.UTC))
    assert store.current().release_id == first


def test_reading_needs_neither_feast_nor_torch() -> None:
    heavy = "{'feast', 'torch', 'pandas', 'duckdb', 'onnxruntime', 'pydantic', 'transformers'}"
    code = f"import sys, features.releases; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

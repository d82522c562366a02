"""The release reader: one pointer, memory maps that outlive retirement, and corruption that is named."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from export import release as writer
from features.configuration import Configuration
from features.errors import ArtifactCorrupt, MissingInput
from features.releases import MANIFEST, POINTER, open_release, open_releases, verify
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
    shutil.rmtree(held.directory)
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


def test_a_changed_byte_is_found_by_verify(configuration: Configuration) -> None:
    release_id = publish_night(configuration, NIGHT)
    rows = configuration.releases / "releases" / release_id / "karma_item_embedding" / "rows.arrow"
    verify(open_release(rows.parents[1]))
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match="karma_item_embedding"):
        verify(open_release(rows.parents[1]))


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

"""Releases without one user: of several batches, of nobody else, and in a bucket."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export import release
from export.erased_files import files_naming
from export.erased_releases import _write_without
from export.erasure import erase
from export.staging import write_table
from features.contracts import Column, Table
from features.release_storage import bucket_of, open_configured
from features.release_table import BATCH_ROWS, open_table
from features.releases import RELEASES, open_releases
from tests.s3_server import loopback_s3
from tests.scored_nights import MIDDAY, about, configuration_at, publish_night, write_scored
from tests.users_to_forget import DAY, GONE, INTEREST, NIGHT, SALT, columns_of, forget


@pytest.mark.parametrize("place", [0, BATCH_ROWS - 1, BATCH_ROWS, 2 * BATCH_ROWS + 4])
def test_tables_of_several_batches_are_laid_out_anew(tmp_path: Path, place: int) -> None:
    table = Table("scores", "", ("user_id",), (Column("user_id", pa.string(), ""), Column("score", pa.int64(), "")))
    ids, scores = [f"u{n:06d}" for n in range(2 * BATCH_ROWS + 5)], list(range(2 * BATCH_ROWS + 5))
    pq.write_table(pa.table({"user_id": ids, "score": scores}), tmp_path / "scores.parquet")
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    write_table(tmp_path / "scores.parquet", table, tmp_path / "old")
    left = _write_without(open_table(tmp_path / "old", table), ids[place], tmp_path / "new")
    made = open_table(tmp_path / "new", table)
    assert left == made.row_count == len(ids) - 1
    rows = made.locate([pa.array(ids)])
    assert np.flatnonzero(rows < 0).tolist() == [place]
    assert made.column("score", rows[rows >= 0]).to_pylist() == scores[:place] + scores[place + 1 :]
    assert ids[place].encode() not in (tmp_path / "new" / "scores" / "rows.arrow").read_bytes()


def test_the_last_user_of_a_release_can_go(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    publish_night(configuration, NIGHT)
    columns = columns_of(seed=1, users=[GONE])
    scored = write_scored(configuration.scored / "last", columns)
    last = release.stage(configuration, NIGHT + DAY, scored, about(NIGHT + DAY, columns))
    at = dt.datetime.combine(NIGHT + DAY, MIDDAY)
    release.publish(configuration, last, published_at=at, force_reason="a test's")
    forget(configuration)
    live = open_releases(configuration.releases).current()
    assert live.tables[INTEREST].row_count == 0
    assert not live.embeddings(INTEREST, "interest_embedding", [GONE, "user 1"])[1].any()


def test_a_bucket_and_its_readers_have_the_user_no_more(tmp_path: Path) -> None:
    with loopback_s3() as s3:
        host, elsewhere = (
            configuration_at(tmp_path / name, releases={"url": s3.url}) for name in ("host", "elsewhere")
        )
        first, second = (publish_night(host, NIGHT + number * DAY) for number in range(2))
        shutil.rmtree(host.releases / RELEASES / first)  # the bucket alone has it
        assert open_configured(host).current().release_id == second  # by a copy beside the store
        done = erase(host, "user 3", salt=SALT)
        assert (done.left, set(done.releases)) == (0, {first, second})
        bucket = bucket_of(host)
        assert bucket is not None
        assert sorted(bucket.release_ids()) == sorted(done.releases.values())
        for configuration in (host, elsewhere):
            live = open_configured(configuration).current()
            assert live.release_id == done.releases[second]
            assert live.embeddings(INTEREST, "interest_embedding", ["user 3", "user 4"])[1].tolist() == [False, True]
        back = release.rollback(elsewhere, published_at=dt.datetime.combine(NIGHT + DAY, MIDDAY))
        assert back.release_id == done.releases[first]
        assert not list(files_naming(tmp_path, "user 3"))

"""`docs/ranking-system.md`: reads by Feast, over HTTP and in bulk, and a view of one's own, on a night made by hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

from export import release
from features.configuration import Configuration, load
from features.releases import open_release
from features.store import register
from tests.markdown import ROOT, answer_to, blocks, commands
from tests.scored_nights import about, publish_night, tables, write_scored

PAGE = "ranking-system.md"
NIGHT = dt.date(2010, 12, 1)
FEAST, BULK, _, OWN = blocks(PAGE, "python")  # the third needs a KARMA: tests/export/test_karma_interest.py


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """The working directory of a clone whose `attractor.toml` names a published night with a user `2`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features").symlink_to(ROOT / "features")
    (tmp_path / "attractor.toml").write_text('state = "state"\n', encoding="utf-8")
    configuration, columns = load(), tables()
    for view in ("karma_user_interest", "dicer_user_attraction"):
        columns[view]["user_id"] = [user.removeprefix("user ") for user in columns[view]["user_id"]]
    publish_night(configuration, NIGHT, columns)
    register(configuration)
    return configuration


def run(code: str, **given: Any) -> dict[str, Any]:
    exec(compile(code, PAGE, "exec"), given)
    return given


def test_the_same_night_is_read_by_feast_over_http_and_in_bulk(night: Configuration) -> None:
    answer = run(FEAST)["answer"]
    assert [told and told[:10] for told in answer["release_id"]] == [str(NIGHT), None]
    (request,) = (command for command in commands(PAGE) if command.startswith("curl"))
    told = answer_to(request)
    by_name = dict(zip(told["metadata"]["feature_names"], told["results"], strict=True))
    assert by_name["release_id"]["values"] == answer["release_id"]
    assert by_name["item_ids"]["values"][0] == answer["item_ids"][0]

    bulk = run(BULK, user_ids=["2", "nobody"], item_ids=["item 0", "item 1"])
    assert bulk["found"].tolist() == [True, False]
    np.testing.assert_array_equal(bulk["vectors"][0], np.float32(answer["interest_embedding"][0]))
    assert bulk["scores"].shape == (2, 2)


def test_a_view_of_ones_own_is_staged_with_the_night(night: Configuration) -> None:
    store = FeatureStore(repo_path="features")
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
    fields = [Field(name="rating", dtype=Float64)]
    source = FileSource(path=str(night.state / "drivers.parquet"), timestamp_field="event_timestamp")
    store.apply([driver, FeatureView(name="driver_stats", entities=[driver], schema=fields, source=source)])
    times = pd.to_datetime(["2010-11-29", "2010-11-30"], utc=True)
    frame = pd.DataFrame({"driver_id": [7, 7], "rating": [1.0, 2.0], "event_timestamp": times})

    columns, date = tables(), NIGHT + dt.timedelta(days=1)
    scored = write_scored(night.scored / str(date), columns)
    given = {"store": store, "frame": frame, "scored": scored, "configuration": night, "date": date}
    run(OWN, pq=pq, release=release, about=about(date, columns), **given)
    (staged,) = (night.releases / "staging").glob(f"{date}-*")
    assert open_release(staged).tables["driver_stats"].row_count == 1

"""Ciao's matrices: as distributed, as small ones written here, and every way in which a file can be another."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import io

from export.initialisation import configuration_text
from features.build import build
from features.configuration import Configuration, load
from features.errors import ConfigurationError, ContractViolation, SocialMisalignment
from features.landing import is_landed, land, raw_tables
from features.partitions import read_partition
from features.sources import SourceConfig, open_source

DISTRIBUTED = Path(__file__).resolve().parents[4] / "shared" / "data" / "ciao"
needs_ciao = pytest.mark.skipif(not DISTRIBUTED.is_dir(), reason=f"{DISTRIBUTED} is not here")
DATE = dt.date(2011, 4, 13)
# user, item, category, rating, helpfulness, time point
RATINGS = [
    [1, 10, 4, 5, 3, 959_670_000],
    [2, 10, 4, 0, 1, 1_100_000_000],
    [1, 10, 4, 3, 3, 1_200_000_000],
    [2, 11, 9, 4, 2, 1_200_000_000],
    [3, 11, 7, 4, 2, 1_302_591_600],
    [3, 12, 2, 4, 2, 1_302_591_600],
    [1, 12, 5, 4, 2, 1_302_591_600],
    [2, 12, 5, 4, 2, 1_302_591_600],
]
TRUST = [[1, 2], [2, 1], [3, 8]]


def write(directory: Path, ratings: Any = RATINGS, trust: Any = TRUST, *, dated: bool = True) -> Path:
    directory.mkdir(exist_ok=True)
    name = "rating_with_timestamp.mat" if dated else "rating.mat"
    io.savemat(directory / name, {"rating": np.array(ratings, float)})
    io.savemat(directory / "trustnetwork.mat", {"trustnetwork": np.array(trust, float)})
    return directory


def configured(tmp_path: Path, path: str = "ciao") -> Configuration:
    section = {"kind": "ciao", "path": path}
    return Configuration(tmp_path / "attractor.toml", tmp_path / "state", {"source": section})


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_every_rating_is_an_event_and_everyone_named_a_user(tmp_path: Path) -> None:
    write(tmp_path / "ciao")
    landing = land(configured(tmp_path), DATE)
    assert landing.rows == {"users": 4, "items": 3, "events": 8, "social_edges": 3}
    assert landing.quarantined == {}
    tables = raw_tables(configured(tmp_path), DATE)
    events = read(tables.events[0])
    assert [(e["user_id"], e["item_id"]) for e in events] == [(str(u), str(i)) for u, i, *_ in RATINGS]
    assert [e["event_at"].timestamp() for e in events] == [row[5] for row in RATINGS]
    assert {e["query"] for e in events} == {None}
    assert [u["user_id"] for u in read(tables.users)] == ["1", "2", "3", "8"]
    assert [(e["user_id"], e["friend_id"]) for e in read(tables.social_edges)] == [("1", "2"), ("2", "1"), ("3", "8")]


def test_an_item_has_the_category_of_most_ratings_then_the_lowest(tmp_path: Path) -> None:
    write(tmp_path / "ciao")
    land(configured(tmp_path), DATE)
    items = read(raw_tables(configured(tmp_path), DATE).items)
    assert [(i["item_id"], i["category"], i["title"]) for i in items] == [
        ("10", "4", None),
        ("11", "7", None),
        ("12", "5", None),
    ]


def test_a_night_of_the_past_knows_the_past(tmp_path: Path) -> None:
    write(tmp_path / "ciao")
    assert land(configured(tmp_path), dt.date(2008, 1, 1)).rows["events"] == 2


def test_ratings_without_time_points_are_of_the_first_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "ciao", [row[:5] for row in RATINGS], dated=False)
    landing = land(configured(tmp_path), dt.date(2000, 5, 31))
    assert landing.rows["events"] == 8
    assert landing.first_event == landing.last_event == dt.datetime(2000, 5, 30, 7, tzinfo=dt.UTC)
    assert any("rating.mat has no time points" in record.getMessage() for record in caplog.records)
    write(tmp_path / "ciao")  # the dated file comes beside it: other events than those landed
    with pytest.raises(ConfigurationError, match="another source"):
        land(configured(tmp_path), DATE)


def test_what_is_not_read_may_be_anything(tmp_path: Path) -> None:
    odd = [[*row[:3], 3.5, float("nan"), *row[5:]] for row in RATINGS]  # rating and helpfulness
    write(tmp_path / "ciao", odd)
    assert land(configured(tmp_path), DATE).rows["events"] == 8
    write(tmp_path / "undated", odd, dated=False)  # its time points, or whatever follows, are not those of the archive
    undated = configured(tmp_path / "other", str(tmp_path / "undated"))
    assert land(undated, dt.date(2000, 5, 31)).rows["events"] == 8


@pytest.mark.parametrize("name", ["rating_with_timestamp.mat", "trustnetwork.mat"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write(tmp_path / "ciao") / name).unlink()
    with pytest.raises(ConfigurationError, match=rf"ciao/\w+\.mat does not exist; expected {name}"):
        land(configured(tmp_path), DATE)


@pytest.mark.parametrize(
    ("name", "held", "message"),
    [
        ("rating_with_timestamp.mat", {"ratings": [[1, 2]]}, "expected a variable rating, got ratings"),
        ("trustnetwork.mat", {"edges": [[1, 2]]}, "expected a variable trustnetwork or trust, got edges"),
        ("rating_with_timestamp.mat", {"rating": [[1, 2, 3, 4, 5]]}, r"columns user, item, .*, got shape \(1, 5\)"),
        ("trustnetwork.mat", {"trust": [[1, 2, 3]]}, r"columns user, trusted user, got shape \(1, 3\)"),
        ("trustnetwork.mat", {"trust": [[1, 2], [3, 2.5]]}, "whole numbers in trust, got 2.5 as trusted user in row 1"),
        ("trustnetwork.mat", {"trust": [[float("nan"), 2]]}, "whole numbers in trust, got nan as user in row 0"),
        ("trustnetwork.mat", {"trust": [[1, 2.0**53]]}, "whole numbers in trust, got 9007199254740992.0 as trusted"),
        ("trustnetwork.mat", {"trust": ["ab", "cd"]}, "trust"),
        ("trustnetwork.mat", {"trust": [[1 + 2j, 2]]}, "trust of numbers, got complex128"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, name: str, held: Any, message: str) -> None:
    write(tmp_path / "ciao")
    io.savemat(tmp_path / "ciao" / name, held)
    with pytest.raises(ConfigurationError, match=rf"{name}.*{message}"):
        land(configured(tmp_path), DATE)
    assert not is_landed(configured(tmp_path), DATE)


@pytest.mark.parametrize("content", [b"", b"user,item\n1,2\n", b"\x89HDF\r\n\x1a\n" + bytes(600), None])
def test_a_file_that_is_no_matrix_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = write(tmp_path / "ciao") / "trustnetwork.mat"
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(ConfigurationError, match=r"trustnetwork\.mat cannot be read as a MATLAB file"):
        land(configured(tmp_path), DATE)


def test_a_time_point_beyond_the_calendar_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "ciao", [[1, 10, 4, 5, 3, 2**52]])
    with pytest.raises(ContractViolation, match="event_at"):
        land(configured(tmp_path), DATE)


def test_a_self_edge_and_a_repeat_are_set_aside(tmp_path: Path) -> None:
    write(tmp_path / "ciao", trust=[*TRUST, [2, 2], [1, 2]])
    landing = land(configured(tmp_path), DATE)
    assert landing.rows["social_edges"] == 3
    assert sum(landing.quarantined["social_edges"].values()) == 2


@needs_ciao
def test_the_distributed_files_reconcile(tmp_path: Path) -> None:
    configuration = configured(tmp_path, str(DISTRIBUTED))
    landing = land(configuration, DATE)
    assert landing.rows == {"users": 7_375, "items": 105_114, "events": 284_086, "social_edges": 111_781}
    assert landing.quarantined == {}
    assert landing.first_event == dt.datetime(2000, 5, 30, 7, tzinfo=dt.UTC)
    assert landing.last_event == dt.datetime(2011, 4, 12, 7, tzinfo=dt.UTC)
    assert landing.social_alignment is not None
    assert landing.social_alignment["verdict"] == "aligned"
    tables = raw_tables(configuration, DATE)
    pairs = {(event["user_id"], event["item_id"]) for event in read(tables.events[0])}
    assert len(pairs) == 282_650
    assert max(int(item["item_id"]) for item in read(tables.items)) == 106_797


@needs_ciao
def test_both_rating_files_hold_the_same_ratings() -> None:
    dated = io.loadmat(DISTRIBUTED / "rating_with_timestamp.mat")["rating"]
    undated = io.loadmat(DISTRIBUTED / "rating.mat")["rating"]
    assert Counter(map(tuple, dated[:, :5].tolist())) == Counter(map(tuple, undated.tolist()))
    assert (undated[:, 3] == 0).sum() == 34


@needs_ciao
def test_what_init_writes_lands_and_builds_the_distributed_folder(tmp_path: Path) -> None:
    file = tmp_path / "attractor.toml"
    file.write_text(configuration_text({"kind": "ciao", "path": str(DISTRIBUTED)}), encoding="utf-8")
    configuration, date = load(file), dt.date(2001, 1, 1)
    land(configuration, date)
    rows = build(configuration, date)
    assert (rows["item_catalog"], rows["item_audience"], rows["social_graph"]) == (105_114, 105_114, 7_375)
    catalog = read_partition(configuration, "item_catalog", date)
    assert set(catalog["title"].to_pylist()) == {""}
    assert catalog["text"].to_pylist() == catalog["category"].to_pylist()
    graph = read_partition(configuration, "social_graph", date)
    assert sum(graph["friend_count"].to_pylist()) == 2 * 85_205


@needs_ciao
@pytest.mark.parametrize("date", [dt.date(2001, 1, 1), dt.date(2006, 1, 1), DATE], ids=str)
def test_the_trust_file_of_another_id_space_is_refused(tmp_path: Path, date: dt.date) -> None:
    (tmp_path / "ciao").mkdir()
    shutil.copy(DISTRIBUTED / "rating_with_timestamp.mat", tmp_path / "ciao")
    shutil.copy(DISTRIBUTED / "trust_other_id_space.mat", tmp_path / "ciao" / "trustnetwork.mat")
    with pytest.raises(SocialMisalignment, match="over 43,690 pairs"):
        land(configured(tmp_path), date)
    assert not list((tmp_path / "state").rglob("*.parquet"))


def test_the_source_is_one_of_the_kinds(tmp_path: Path) -> None:
    assert SourceConfig("ciao", "data").violations == "quarantine"
    with pytest.raises(ConfigurationError, match=r"does not exist"):
        open_source(SourceConfig("ciao", "nowhere"), tmp_path)

"""The Last.fm files as distributed: encodings, dates, and every row either landed or in quarantine."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from features.configuration import Configuration
from features.errors import ConfigurationError
from features.landing import land, raw_tables
from features.sources import SourceConfig, open_source
from features.windows import night_window

DISTRIBUTED = Path(__file__).resolve().parents[4] / "shared" / "data" / "hetrec2011-lastfm-2k"
FILES = {
    "user_artists.dat": ("userID\tartistID\tweight\r\n2\t1\t13\r\n3\t1\t5\r\n2\t7\t1\r\n", "utf-8"),
    "artists.dat": (
        'id\tname\turl\tpictureURL\r\n1\tBjörk "live"\thttp://a\thttp://b\r\n7\tBeyoncé\thttp://c\t\r\n',
        "utf-8",
    ),
    "tags.dat": ("tagID\ttagValue\r\n1\tmetal\r\n2\ttropicália\r\n", "latin-1"),
    "user_taggedartists.dat": (
        "userID\tartistID\ttagID\tday\tmonth\tyear\r\n"
        "2\t1\t2\t1\t4\t2009\r\n3\t9\t1\t1\t4\t2009\r\n3\t7\t1\t1\t6\t1956\r\n2\t7\t1\t31\t2\t2009\r\n",
        "utf-8",
    ),
    "user_friends.dat": ("userID\tfriendID\r\n2\t3\r\n3\t2\r\n", "utf-8"),
}


def small(tmp_path: Path) -> Configuration:
    (tmp_path / "lastfm").mkdir()
    for name, (text, encoding) in FILES.items():
        (tmp_path / "lastfm" / name).write_bytes(text.encode(encoding))
    return configured(tmp_path, "lastfm")


def configured(tmp_path: Path, path: str) -> Configuration:
    section = {"kind": "lastfm", "path": path}
    return Configuration(tmp_path / "attractor.toml", tmp_path / "state", {"source": section})


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_tags_are_events_and_names_titles(tmp_path: Path) -> None:
    configuration = small(tmp_path)
    land(configuration, dt.date(2010, 1, 1))
    tables = raw_tables(configuration, dt.date(2010, 1, 1))
    assert [(item["item_id"], item["title"]) for item in read(tables.items)] == [
        ("1", 'Björk "live"'),
        ("7", "Beyoncé"),
    ]
    assert [user["user_id"] for user in read(tables.users)] == ["2", "3"]
    assert [(edge["user_id"], edge["friend_id"]) for edge in read(tables.social_edges)] == [("2", "3"), ("3", "2")]
    april = dt.datetime(2009, 4, 1, tzinfo=dt.UTC)
    assert read(tables.events[0]) == [{"user_id": "2", "item_id": "1", "event_at": april, "query": "tropicália"}]


def test_bad_rows_are_in_quarantine_with_row_and_reason(tmp_path: Path) -> None:
    landing = land(small(tmp_path), dt.date(2010, 1, 1))
    assert [(r["row"], r["column"], r["value"]) for r in read(landing.quarantine_files[0])] == [
        (1, "item_id", "9"),
        (2, "event_at", "1956-06-01 00:00:00.000000Z"),
        (3, "event_at", None),
    ]


def test_a_missing_file_or_column_is_named(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "lastfm" / "artists.dat").write_text("id\tlabel\r\n1\tBjörk\r\n", encoding="utf-8")
    source = open_source(SourceConfig("lastfm", "lastfm"), tmp_path)
    with pytest.raises(ConfigurationError, match=r"artists\.dat: expected columns id, name"):
        list(source.rows("items"))
    (tmp_path / "lastfm" / "tags.dat").unlink()
    with pytest.raises(ConfigurationError, match=r"lastfm/tags\.dat does not exist"):
        open_source(SourceConfig("lastfm", "lastfm"), tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_its_header_alone_has_no_rows(tmp_path: Path, name: str) -> None:
    small(tmp_path)
    file = tmp_path / "lastfm" / name
    file.write_bytes(file.read_bytes().split(b"\r\n")[0] + b"\r\n")
    source, window = open_source(SourceConfig("lastfm", "lastfm"), tmp_path), night_window(dt.date(2010, 1, 1))
    tables = [source.rows(table) for table in ("users", "items", "social_edges")]
    counted = [sum(rows.batch.num_rows for rows in stream) for stream in [*tables, source.events(window)]]
    # tags.dat only names the queries of events, which are there without
    files = ["user_artists.dat", "artists.dat", "user_friends.dat", "user_taggedartists.dat"]
    assert [count == 0 for count in counted] == [file == name for file in files]


@pytest.mark.skipif(not DISTRIBUTED.is_dir(), reason=f"{DISTRIBUTED} is not here")
def test_the_distributed_files_reconcile(tmp_path: Path) -> None:
    configuration = configured(tmp_path, str(DISTRIBUTED))
    earlier, landing = land(configuration, dt.date(2010, 12, 1)), land(configuration, dt.date(2012, 1, 1))
    assert earlier.quarantined == landing.quarantined  # an archive is landed whole, whatever the date
    assert earlier.rows["events"] < landing.rows["events"]
    bad = {"event_at: at least 2000-01-01 00:00:00+00:00": 5, "item_id: one of items.item_id": 1538}
    assert landing.quarantined == {"events": bad}
    assert landing.rows == {"users": 1892, "items": 17632, "events": 186479 - 1543, "social_edges": 2 * 12717}
    assert sum(pq.read_metadata(path).num_rows for path in landing.quarantine_files) == 1543

"""The check at a landing: refused whole, warned of, accepted by name, and only of what the night may know."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.configuration import Configuration
from features.errors import ConfigurationError, SocialMisalignment
from features.files import read_json, write_json
from features.landed_alignment import landed_alignment
from features.landing import RawTables, is_landed, land, landed, raw_tables
from features.social_alignment import social_alignment
from features.sources.market import Market
from features.sources.synthetic import write_market
from features.transforms import FeatureConfig
from features.windows import midnight

START = dt.date(2026, 1, 1)
FIRST, DATE = dt.date(2026, 1, 11), dt.date(2026, 1, 21)


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """A market of 400 people and 20 days, as a directory of Parquet files."""
    write_market(Market(400, 200, 20, START, 7), tmp_path / "data")
    return tmp_path


def configured(directory: Path, *, on_violation: str = "refuse", **social: Any) -> Configuration:
    sections = {"source": {"kind": "parquet", "path": "data", "on_violation": on_violation}, "social": social}
    return Configuration(directory / "attractor.toml", directory / "state", sections)


def deal_anew(directory: Path) -> None:
    """Give every friendship other ends: the ids of another id space."""
    path = directory / "data" / "social_edges.parquet"
    ids = pl.read_parquet(directory / "data" / "users.parquet")["user_id"]
    other = dict(zip(ids, ids.sample(fraction=1, shuffle=True, seed=1), strict=True))
    edges = pl.read_parquet(path)
    edges.with_columns(pl.col("user_id", "friend_id").replace_strict(other)).write_parquet(path)


def landed_paths(configuration: Configuration) -> list[Path]:
    return sorted(configuration.raw.rglob("*.parquet"))


def numbered(tables: RawTables) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Friends and interactions of landed tables as numbers in the order of the ids."""
    users = pl.read_parquet(tables.users)["user_id"].sort()
    items = pl.read_parquet(tables.items)["item_id"].sort()
    edges, events = pl.read_parquet(tables.social_edges), pl.concat([pl.read_parquet(path) for path in tables.events])
    friends = [users.search_sorted(edges[name]).to_numpy() for name in ("user_id", "friend_id")]
    taken = [users.search_sorted(events["user_id"]).to_numpy(), items.search_sorted(events["item_id"]).to_numpy()]
    return np.stack(friends).astype(np.int64), np.stack(taken).astype(np.int64)


def test_the_query_gives_what_the_arrays_give(market: Path) -> None:
    configuration = configured(market)
    late = midnight(dt.date(2027, 1, 1))  # when everything is known
    land(configuration, DATE)
    tables = raw_tables(configuration, DATE)
    found = landed_alignment(tables, late, FeatureConfig(), scratch=market / "scratch")
    friends, interactions = numbered(tables)
    assert found == social_alignment(friends, interactions, seed=0, users=400)
    assert not list((market / "scratch").iterdir())


def test_only_what_is_known_before_the_date_counts(market: Path) -> None:
    configuration = configured(market)
    early = land(configuration, FIRST).social_alignment
    late = land(configuration, DATE).social_alignment
    assert early is not None
    assert late is not None
    assert early["pairs"] < late["pairs"]
    assert early["general_share"] < late["general_share"]
    assert landed(configuration, FIRST).social_alignment == early  # whatever was landed after


def test_an_aligned_market_lands_without_a_word(market: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="features.landing"):
        landing = land(configured(market), DATE)
    assert landing.social_alignment is not None
    assert landing.social_alignment["verdict"] == "aligned"
    assert landing.social_alignment["accepted"] is None
    assert landing.figures()["social_alignment"] == dict(landing.social_alignment)
    assert not caplog.records


def test_a_misaligned_graph_is_refused_with_its_figures_and_nothing_lands(market: Path) -> None:
    deal_anew(market)
    configuration = configured(market)
    with pytest.raises(SocialMisalignment) as refused:
        land(configuration, DATE)
    figures = refused.value.figures
    assert figures["verdict"] == "misaligned"
    for said in (f"{figures['pairs']:,} pairs", f"{figures['lift']:.2f} times", f"at {figures['correlation']:.2f}"):
        assert said in str(refused.value)
    assert "[social] accept_alignment" in str(refused.value)
    assert landed_paths(configuration) == []
    assert not is_landed(configuration, DATE)


def test_a_graph_that_goes_wrong_later_leaves_the_nights_before(market: Path) -> None:
    configuration = configured(market)
    land(configuration, FIRST)
    before = landed_paths(configuration)
    deal_anew(market)
    with pytest.raises(SocialMisalignment):
        land(configuration, DATE)
    assert landed_paths(configuration) == before
    assert not is_landed(configuration, DATE)
    assert is_landed(configuration, FIRST)


def test_a_misaligned_graph_lands_for_a_reason_that_is_recorded(market: Path, caplog: pytest.LogCaptureFixture) -> None:
    deal_anew(market)
    with pytest.raises(SocialMisalignment):
        land(configured(market, accept_alignment="  "), DATE)
    configuration = configured(market, accept_alignment="strangers, by design")
    with caplog.at_level(logging.INFO, logger="features.landing"):
        landing = land(configuration, DATE)
    assert landing.social_alignment is not None
    assert (landing.social_alignment["verdict"], landing.social_alignment["accepted"]) == (
        "misaligned",
        "strangers, by design",
    )
    record = read_json(configuration.raw / DATE.isoformat() / "landing.json")
    assert record["social_alignment"] == landing.social_alignment
    (told,) = caplog.records
    assert told.levelno == logging.INFO


def test_too_little_to_tell_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_market(Market(40, 30, 20, START, 7), tmp_path / "data")
    deal_anew(tmp_path)
    landing = land(configured(tmp_path), DATE)
    assert landing.social_alignment is not None
    assert landing.social_alignment["verdict"] == "unknown"
    (warned,) = caplog.records
    assert warned.levelno == logging.WARNING
    assert landing.social_alignment["sentence"] in warned.getMessage()


def test_a_market_without_friends_lands_without_a_word(market: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = market / "data" / "social_edges.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    landing = land(configured(market), DATE)
    assert landing.social_alignment is not None
    assert (landing.social_alignment["verdict"], landing.social_alignment["pairs"]) == ("unknown", 0)
    assert not caplog.records


def test_edges_set_aside_for_naming_nobody_count(market: Path) -> None:
    path = market / "data" / "social_edges.parquet"
    edges = pl.read_parquet(path)
    edges.with_columns(pl.format("crm-{}", name).alias(name) for name in ("user_id", "friend_id")).write_parquet(path)
    with pytest.raises(SocialMisalignment, match=f"{len(edges):,} relations name users that there are not") as refused:
        land(configured(market, on_violation="quarantine"), DATE)
    assert refused.value.figures["strangers"] == len(edges)
    assert landed_paths(configured(market)) == []
    landing = land(configured(market, on_violation="quarantine", accept_alignment="no friends yet"), DATE)
    assert landing.social_alignment is not None
    assert landing.social_alignment["accepted"] == "no friends yet"


def test_a_few_edges_to_nobody_are_warned_of_as_rows(market: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = market / "data" / "social_edges.parquet"
    number, friend = pl.int_range(pl.len()), pl.col("friend_id")
    edges = pl.read_parquet(path)
    gone = pl.when(number < 60).then(pl.format("gone-{}", number)).otherwise(friend)
    edges.with_columns(gone.alias("friend_id")).write_parquet(path)
    landing = land(configured(market, on_violation="quarantine"), DATE)
    assert landing.social_alignment is not None
    assert (landing.social_alignment["verdict"], landing.social_alignment["strangers"]) == ("aligned", 60)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["social_edges"]


def test_a_landing_from_before_the_check_is_read(market: Path) -> None:
    configuration = configured(market)
    land(configuration, DATE)
    file = configuration.raw / DATE.isoformat() / "landing.json"
    record = {name: value for name, value in read_json(file).items() if name != "social_alignment"}
    write_json(file, record)
    assert landed(configuration, DATE).social_alignment is None
    assert land(configuration, DATE).figures()["social_alignment"] is None


def test_an_unknown_setting_is_named(market: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\[social\] has no setting 'accept'"):
        land(configured(market, accept="yes"), DATE)

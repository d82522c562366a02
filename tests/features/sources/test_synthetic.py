"""The embedded market: the same however it is read, in the contract's form, and worth learning."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.configuration import Configuration
from features.landing import land, raw_tables
from features.sources import SourceConfig, open_source
from features.sources.market import BLOCK_USERS, CATEGORIES, FACETS, WORDS, Actions, Market, actions, people, ties
from features.sources.synthetic import SyntheticSource, write_market
from features.windows import Window, between, midnight
from models.metrics import hit_rate, rank_of_target

START = dt.date(2026, 1, 1)
DAY = 86_400_000_000  # microseconds


def small(**settings: int) -> Market:
    return dataclasses.replace(Market(users=300, items=400, days=20, start=START, seed=7), **settings)


def table(source: SyntheticSource, name: str, window: Window | None = None) -> pa.Table:
    stream = source.events(window) if window else source.rows(name)
    return pa.Table.from_batches([rows.batch for rows in stream])


def test_a_seed_gives_one_market_and_another_seed_another() -> None:
    whole = between(START, START + dt.timedelta(days=20))
    first, again, other = (SyntheticSource(small(seed=seed)) for seed in (7, 7, 8))
    for name, window in (("users", None), ("items", None), ("social_edges", None), ("events", whole)):
        assert table(first, name, window).equals(table(again, name, window))
        assert not table(first, name, window).equals(table(other, name, window))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_a_shorter_window_gives_the_same_days() -> None:
    source = SyntheticSource(small())
    whole = table(source, "events", between(START, START + dt.timedelta(days=20)))
    part = table(source, "events", between(START + dt.timedelta(days=3), START + dt.timedelta(days=9)))
    before = pc.less(whole["event_at"], pa.scalar(midnight(START + dt.timedelta(days=9))))
    assert part.equals(whole.filter(before))
    assert not table(source, "events", between(START - dt.timedelta(days=9), START)).num_rows


def test_a_block_depends_on_no_other_and_ties_between_blocks_are_sound() -> None:
    alone, two = small(users=BLOCK_USERS, days=3), small(users=BLOCK_USERS + 200, days=3)
    assert (alone.blocks, two.blocks) == (1, 2)
    for name, column in vars(actions(two, 0, days=3)).items():
        np.testing.assert_array_equal(column, getattr(actions(alone, 0, days=3), name))
    edges = table(SyntheticSource(two), "social_edges").to_pylist()
    far = [
        edge
        for edge in edges
        if (edge["user_id"] < f"u{BLOCK_USERS:07d}") != (edge["friend_id"] < f"u{BLOCK_USERS:07d}")
    ]
    assert far
    assert len({(edge["user_id"], edge["friend_id"]) for edge in edges}) == len(edges)
    joined = {user["user_id"]: user["created_at"] for user in table(SyntheticSource(two), "users").to_pylist()}
    assert all(joined[edge["friend_id"]] < midnight(START) for edge in far)


def test_it_lands_without_a_bad_row_from_itself_and_from_parquet(tmp_path: Path) -> None:
    market, date = small(users=200), START + dt.timedelta(days=20)
    write_market(market, tmp_path / "market")
    settings = {"kind": "synthetic", "users": 200, "items": 400, "days": 20, "on_violation": "refuse"}
    sections = {"a": settings, "b": {"kind": "parquet", "path": "market"}}
    landed = []
    for state, section in sections.items():
        configuration = Configuration(tmp_path / "attractor.toml", tmp_path / state, {"source": section})
        land(configuration, date)
        landed.append(raw_tables(configuration, date))
    for path, other in zip(dataclasses.astuple(landed[0])[:3], dataclasses.astuple(landed[1])[:3], strict=True):
        assert pq.read_table(path).equals(pq.read_table(other))
    assert pq.read_table(landed[0].events[0]).equals(pq.read_table(landed[1].events[0]))


def test_nobody_acts_before_joining_and_nothing_is_had_before_it_appears_or_twice() -> None:
    market = small()
    taken = actions(market, 0, days=market.days)
    assert (taken.time > people(market, 0).joins[taken.user] * DAY).all()
    assert (taken.time > market.catalogue.appears[taken.item] * DAY).all()
    assert ((taken.time >= 0) & (taken.time < market.days * DAY)).all()
    assert len(set(zip(taken.user, taken.item, strict=True))) == len(taken.user)
    assert (market.catalogue.appears > 0).any()


def test_titles_drop_attributes_that_pictures_carry() -> None:
    market = small()
    items = table(SyntheticSource(market), "items").to_pylist()
    catalogue = market.catalogue
    position = np.argsort(catalogue.number)
    pictured = [facet for facet in range(len(FACETS)) if FACETS[facet].in_picture]
    codes = catalogue.codes[position][:, pictured]
    said = [
        [WORDS[code].lower() in item["title"].lower() for code in row] for item, row in zip(items, codes, strict=True)
    ]
    assert 0.3 < np.mean(said) < 0.6
    truth = np.zeros((len(items), len(WORDS)))
    np.put_along_axis(truth, codes, 1.0, axis=1)
    pictures = np.column_stack([[item["picture"] for item in items], np.ones(len(items))])
    decoded = pictures @ np.linalg.lstsq(pictures[:200], truth[:200], rcond=None)[0]
    shown = np.take_along_axis(decoded, codes, axis=1)[200:]
    own = np.array([np.sort(row)[-len(pictured) :].min() for row in decoded[200:]])
    assert (shown >= own[:, None] - 1e-9).mean() > 0.9


def test_queries_name_a_category_and_often_an_attribute() -> None:
    events = table(SyntheticSource(small()), "events", between(START, START + dt.timedelta(days=20)))
    queries = [query for query in events["query"].to_pylist() if query is not None]
    assert 0.4 < len(queries) / len(events) < 0.7
    words = {word.lower() for word in WORDS}
    assert {query.split()[-1] for query in queries} <= set(CATEGORIES)
    assert np.mean([query.split()[0] in words for query in queries]) > 0.7


def test_friends_share_tastes() -> None:
    market = small()
    users = people(market, 0)
    pairs = ties(market, 0, users)
    assert (pairs.first != pairs.second).all()
    similarity = np.corrcoef(users.taste)
    assert similarity[pairs.first, pairs.second].mean() > similarity.mean() + 0.3


def test_personal_rankings_beat_popularity_several_times() -> None:
    market = Market(users=1500, items=891, days=60, start=START, seed=7)
    popularity, neighbours, oracle = hit_rates_at_10(market, actions(market, 0, days=60))
    assert neighbours > 2 * popularity
    assert oracle > 4 * popularity


def hit_rates_at_10(market: Market, taken: Actions) -> tuple[float, float, float]:
    """Of what is taken in the last five days, by popularity, by cosine neighbours of items, and by true tastes."""
    catalogue, users = market.catalogue, people(market, 0)
    past = taken.time < (market.days - 5) * DAY
    had = np.zeros((market.users, market.items))
    had[taken.user[past], taken.item[past]] = 1.0
    count = had.sum(axis=0)
    normed = had / np.sqrt(np.maximum(count, 1.0))
    alike = normed.T @ normed
    np.fill_diagonal(alike, 0.0)
    taste = users.category_taste[:, catalogue.category].astype(np.float64)
    taste += users.taste[:, catalogue.codes].sum(axis=2) + np.log(np.diff(catalogue.reach, prepend=0.0))
    rankings: list[NDArray[np.float64]] = [np.tile(count, (market.users, 1)), had @ alike, taste]
    who, what = taken.user[~past], taken.item[~past]
    popularity, neighbours, oracle = (
        hit_rate(rank_of_target(np.where(had > 0, -np.inf, ranking)[who], what), 10) for ranking in rankings
    )
    return popularity, neighbours, oracle


def test_the_size_of_the_catalogue_follows_the_users() -> None:
    source = open_source(SourceConfig("synthetic", users=10_000), Path("/nowhere"))
    assert isinstance(source, SyntheticSource)
    assert source.market.items == 2300

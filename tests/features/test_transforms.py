"""Every query against a slow reference in plain Python, on small worlds full of ties, gaps and late arrivals."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.contracts import FEATURES, RAW
from features.landing import RawTables
from features.partitions import write_rows
from features.transforms import FeatureConfig, Known, known_before
from features.windows import Window

AS_OF = dt.datetime(2026, 1, 4, tzinfo=dt.UTC)
USERS, ITEMS, TAGS = tuple("abcde"), tuple("ijklmn"), ("red", "linen", "", None)
CONFIG = FeatureConfig(
    history_length=3, tags_from_queries=True, tags_per_item=1, similarity_threshold=0.5, similar_top_k=2
)


def hour(hours: int) -> dt.datetime:
    """Hours around AS_OF, which is hour 0."""
    return AS_OF + dt.timedelta(hours=hours)


@dataclass(frozen=True)
class Event:
    user_id: str
    item_id: str
    event_at: dt.datetime
    query: str | None


@dataclass(frozen=True)
class World:
    """The raw tables as Python values."""

    users: dict[str, dt.datetime | None]
    items: dict[str, dict[str, Any]]
    friends: dict[tuple[str, str], dt.datetime | None]
    events: tuple[Event, ...]

    def knows_user(self, user: str) -> bool:
        return known(self.users[user])

    def knows_item(self, item: str) -> bool:
        return known(self.items[item]["created_at"])

    def known_events(self) -> list[Event]:
        return [
            event
            for event in self.events
            if event.event_at < AS_OF and self.knows_user(event.user_id) and self.knows_item(event.item_id)
        ]


def known(created_at: dt.datetime | None) -> bool:
    return created_at is None or created_at < AS_OF


moments = st.integers(-3, 2).map(hour)
births = st.none() | st.sampled_from([hour(-2), hour(-1), AS_OF, hour(1)])
events = st.builds(Event, st.sampled_from(USERS), st.sampled_from(ITEMS), moments, st.sampled_from(TAGS))
descriptions = st.fixed_dictionaries(
    {
        "title": st.sampled_from(["Dress", "", None]),
        "category": st.sampled_from(["linen", None]),
        "attributes": st.sampled_from([None, [], ["red"], ["blue", "red"]]),
        "picture": st.sampled_from([None, [0.5, -1.0]]),
        "created_at": births,
    }
)
pairs = st.tuples(st.sampled_from(USERS), st.sampled_from(USERS)).filter(lambda pair: pair[0] != pair[1])
worlds = st.builds(
    World,
    st.fixed_dictionaries(dict.fromkeys(USERS, births)),
    st.fixed_dictionaries(dict.fromkeys(ITEMS, descriptions)),
    st.dictionaries(pairs, births, max_size=6),
    st.lists(events, max_size=30).map(tuple),
)


def write_world(world: World, directory: Path, *, files: int = 2) -> RawTables:
    """The world as landed, its events dealt out over several files."""

    def write(name: str, table: str, rows: Sequence[dict[str, Any]]) -> Path:
        path = directory / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=RAW[table].schema), path)
        return path

    edges = [{"user_id": u, "friend_id": v, "created_at": at} for (u, v), at in world.friends.items()]
    return RawTables(
        users=write("users", "users", [{"user_id": user, "created_at": at} for user, at in world.users.items()]),
        items=write("items", "items", [{"item_id": item, **about} for item, about in world.items.items()]),
        social_edges=write("social_edges", "social_edges", edges),
        events=tuple(
            write(f"events{file}", "events", [asdict(event) for event in world.events[file::files]])
            for file in range(files)
        ),
    )


def tie(event: Event) -> int:
    digest = hashlib.md5(f"{event.user_id}\n{event.item_id}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little")


def order(event: Event) -> tuple[Any, ...]:
    return event.event_at, tie(event), event.item_id, event.query or ""


def slow_user_history(world: World, config: FeatureConfig) -> list[dict[str, Any]]:
    rows = []
    for user in sorted(world.users):
        own = sorted((event for event in world.known_events() if event.user_id == user), key=order)
        last = own[-config.history_length :]
        if own:
            rows.append(
                {
                    "user_id": user,
                    "event_timestamp": AS_OF,
                    "item_ids": [event.item_id for event in last],
                    "queries": [event.query or "" for event in last],
                    "event_times": [event.event_at for event in last],
                    "history_length": len(last),
                    "user_event_count": len(own),
                }
            )
    return rows


def slow_item_catalog(world: World, config: FeatureConfig) -> list[dict[str, Any]]:
    rows = []
    for item in sorted(filter(world.knows_item, world.items)):
        about = world.items[item]
        own = [event for event in world.known_events() if event.item_id == item]
        uses = Counter(event.query for event in own if event.query and config.tags_from_queries)
        used = sorted(uses, key=lambda tag: (-uses[tag], tag))[: config.tags_per_item]
        attributes = about["attributes"] or []
        tags = attributes + [tag for tag in used if tag not in attributes]
        rows.append(
            {
                "item_id": item,
                "event_timestamp": AS_OF,
                "title": about["title"] or "",
                "category": about["category"] or "",
                "tags": tags,
                "text": "; ".join(filter(None, [about["category"], ", ".join(tags), about["title"]])),
                "picture": about["picture"],
                "item_event_count": len(own),
            }
        )
    return rows


def slow_similar(sets: dict[str, set[str]], config: FeatureConfig) -> dict[str, list[str]]:
    """DICER eq. 1 over every pair, without what is in more than the allowed number of sets."""
    degree = Counter(member for members in sets.values() for member in members)
    listed = {}
    for a, of_a in sets.items():
        similarity = {}
        for b, of_b in sets.items():
            shared = [member for member in of_a & of_b if degree[member] <= config.similarity_max_degree]
            if a != b and shared:
                similarity[b] = len(shared) / math.sqrt(len(of_a) * len(of_b))
        close = [b for b in similarity if similarity[b] >= config.similarity_threshold]
        listed[a] = sorted(close, key=lambda b: (-similarity[b], b))[: config.similar_top_k]
    return listed


def slow_social_graph(world: World, config: FeatureConfig) -> list[dict[str, Any]]:
    users = sorted(filter(world.knows_user, world.users))
    edges = {pair for pair, at in world.friends.items() if known(at)}
    had = {user: {event.item_id for event in world.known_events() if event.user_id == user} for user in users}
    similar = slow_similar(had, config)
    rows = []
    for user in users:
        friends = [other for other in users if (user, other) in edges or (other, user) in edges]
        rows.append(
            {
                "user_id": user,
                "event_timestamp": AS_OF,
                "friend_ids": friends,
                "similar_user_ids": similar[user],
                "friend_count": len(friends),
                "similar_user_count": len(similar[user]),
            }
        )
    return rows


def slow_item_audience(world: World, config: FeatureConfig) -> list[dict[str, Any]]:
    items = sorted(filter(world.knows_item, world.items))
    had_by = {item: {event.user_id for event in world.known_events() if event.item_id == item} for item in items}
    similar = slow_similar(had_by, config)
    return [
        {
            "item_id": item,
            "event_timestamp": AS_OF,
            "consumer_ids": sorted(had_by[item]),
            "similar_item_ids": similar[item],
            "consumer_count": len(had_by[item]),
            "similar_item_count": len(similar[item]),
        }
        for item in items
    ]


SLOW = {
    "user_history": slow_user_history,
    "item_catalog": slow_item_catalog,
    "social_graph": slow_social_graph,
    "item_audience": slow_item_audience,
}


def rows_of(known_then: Known, view: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = known_then.view(view).read_all().to_pylist()
    return rows


def written(world: World, directory: Path, *, files: int = 2, config: FeatureConfig = CONFIG) -> dict[str, bytes]:
    """The bytes of every view's partition."""
    raw = write_world(world, directory, files=files)
    with known_before(raw, AS_OF, config, scratch=directory) as known_then:
        known_then.prepare_similarity()
        for view, table in FEATURES.items():
            write_rows(directory / f"{view}.parquet", table, known_then.view(view))
    return {view: (directory / f"{view}.parquet").read_bytes() for view in FEATURES}


@settings(max_examples=40, deadline=None)
@given(worlds, st.integers(1, 5))
def test_every_view_is_its_slow_reference(world: World, max_degree: int) -> None:
    config = replace(CONFIG, similarity_max_degree=max_degree)
    with tempfile.TemporaryDirectory() as directory:
        raw = write_world(world, Path(directory))
        with known_before(raw, AS_OF, config, scratch=Path(directory)) as known_then:
            left_out = known_then.prepare_similarity()
            for view, slow in SLOW.items():
                assert rows_of(known_then, view) == slow(world, config), view
    pairs = {(event.user_id, event.item_id) for event in world.known_events()}
    for place, kind in enumerate(("users", "items")):
        degrees = Counter(pair[place] for pair in pairs)
        assert left_out[kind] == sum(1 for degree in degrees.values() if degree > max_degree)


@settings(max_examples=15, deadline=None)
@given(worlds, st.lists(events, max_size=10), st.permutations(USERS), st.permutations(ITEMS))
def test_what_happens_later_and_the_order_of_rows_change_no_byte(
    world: World, later: list[Event], users: list[str], items: list[str]
) -> None:
    told_later = replace(
        world,
        users={user: world.users[user] for user in users} | {"late": AS_OF},
        items={item: world.items[item] for item in items} | {"late": {"title": "Late", "created_at": AS_OF}},
        friends={("late", "a"): None, ("late", "b"): AS_OF} | world.friends,
        events=(
            *(replace(event, event_at=AS_OF + abs(event.event_at - AS_OF)) for event in later),
            Event("late", "i", hour(-1), None),
            Event("a", "late", hour(-1), None),
            *world.events[::-1],
        ),
    )
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        assert written(world, Path(one)) == written(told_later, Path(other), files=3)


def test_events_of_one_instant_are_in_no_order_of_ids_and_in_another_for_each_user(tmp_path: Path) -> None:
    items = [f"{number:03}" for number in range(30)]
    about = {"title": None, "category": None, "attributes": None, "picture": None, "created_at": None}
    world = World(
        {"a": None, "b": None},
        dict.fromkeys(items, about),
        {},
        tuple(Event(user, item, hour(-1), None) for user in "ab" for item in items),
    )
    with known_before(write_world(world, tmp_path), AS_OF, FeatureConfig(), scratch=tmp_path) as known_then:
        histories = [row["item_ids"] for row in rows_of(known_then, "user_history")]
    assert [sorted(history) for history in histories] == [items, items]
    assert histories[0] != histories[1]
    assert all(history not in (items, items[::-1]) for history in histories)


def test_labels_are_the_first_action_on_each_item_in_the_window(tmp_path: Path) -> None:
    about = {"title": None, "category": None, "attributes": None, "picture": None, "created_at": None}
    world = World(
        {"a": None, "b": None, "new": AS_OF},
        {"i": about, "j": about},
        {},
        (
            Event("b", "i", hour(-2), "x"),
            Event("a", "j", hour(-4), "before the window"),
            Event("a", "j", hour(-1), "again"),
            Event("a", "j", hour(-2), "linen"),
            Event("a", "i", hour(-3), None),
            Event("a", "i", AS_OF, "too late"),
            Event("new", "i", hour(-1), "not known yet"),
        ),
    )
    with known_before(write_world(world, tmp_path), AS_OF, CONFIG, scratch=tmp_path) as known_then:
        labels = known_then.labels(Window(hour(-3), AS_OF)).read_all().to_pylist()
    assert [tuple(label.values()) for label in labels] == [
        ("a", "i", "", hour(-3)),
        ("a", "j", "linen", hour(-2)),
        ("b", "i", "x", hour(-2)),
    ]


def test_nothing_known_gives_empty_views_with_the_right_columns(tmp_path: Path) -> None:
    world = World({"a": AS_OF}, {}, {}, (Event("a", "i", hour(-1), None),))
    raw = write_world(world, tmp_path)
    with known_before(raw, AS_OF, CONFIG, scratch=tmp_path) as known_then:
        known_then.prepare_similarity()
        for view, table in FEATURES.items():
            path = tmp_path / view
            assert write_rows(path, table, known_then.view(view)) == 0
            assert pq.read_schema(path).equals(table.schema)


def test_the_database_leaves_nothing_behind(tmp_path: Path) -> None:
    raw = write_world(World({}, {}, {}, ()), tmp_path)
    before = set(tmp_path.iterdir())
    with (
        pytest.raises(KeyboardInterrupt),
        known_before(raw, AS_OF, replace(CONFIG, memory_limit="64MB"), scratch=tmp_path) as known_then,
    ):
        known_then.database.execute("CREATE TEMP TABLE wide AS SELECT range AS n, md5(n::VARCHAR) FROM range(1000000)")
        raise KeyboardInterrupt
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("wrong", [{"history_length": 0}, {"similarity_threshold": 0.0}, {"tags_per_item": -1}])
def test_a_setting_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"history_length|similarity_threshold"):
        FeatureConfig(**wrong)


def test_long_histories_of_many_users_fit_a_small_memory(tmp_path: Path) -> None:
    users, length = 20_000, 20
    raw = write_world(World({}, {}, {}, ()), tmp_path)
    ids = [f"u{number}" for number in range(users)]
    items = [f"i{number}" for number in range(length)]
    nothing = pa.nulls(users, RAW["users"].schema.field("created_at").type)
    pq.write_table(pa.table({"user_id": ids, "created_at": nothing}), raw.users)
    pq.write_table(pa.Table.from_pylist([{"item_id": item} for item in items], RAW["items"].schema), raw.items)
    acts = {"user_id": ids * length, "item_id": [item for item in items for _ in ids]}
    acts |= {"event_at": [hour(age - length) for age in range(length) for _ in ids], "query": [None] * users * length}
    pq.write_table(pa.table(acts, RAW["events"].schema), raw.events[0])
    config = replace(CONFIG, history_length=length, memory_limit="500MB")
    with known_before(raw, AS_OF, config, scratch=tmp_path) as known:
        rows = known.view("user_history").read_all()
    assert len(rows) == users
    assert rows["item_ids"][7].as_py() == items

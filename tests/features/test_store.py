"""Feast over a landed world: registration, and training sets that know nothing of what came after.

One module, because importing feast takes seconds.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.repo_operations import get_repo_files

from features.configuration import Configuration, load
from features.contracts import FEATURES, PROVENANCE, PUBLISHED, RAW
from features.definitions import define
from features.errors import MissingInput
from features.landing import land
from features.partitions import read_partition
from features.store import historical_features, open_store, register
from features.training_sets import TRAINING_SERVICES, TrainingSet, build_training_sets, read_training_set

ROOT = Path(__file__).resolve().parents[2]
DATE = dt.date(2026, 1, 21)
USERS, ITEMS = [f"u{number}" for number in range(12)], [f"i{number:02}" for number in range(30)]
Tables = dict[str, list[dict[str, Any]]]


def at(day: int, hour: int = 0) -> dt.datetime:
    return dt.datetime(2026, 1, day, hour, tzinfo=dt.UTC)


def world() -> Tables:
    """Twenty days of January, half of the events at midnight; the last user and the last item come on the 13th."""
    chosen = random.Random(3)
    events = [
        {
            "user_id": chosen.choice(USERS if day > 13 else USERS[:-1]),
            "item_id": chosen.choice(ITEMS if day > 13 else ITEMS[:-1]),
            "event_at": at(day, chosen.choice([0, 0, 9, 21])),
            "query": chosen.choice(["red dress", None]),
        }
        for day in range(1, 21)
        for _ in range(10)
    ]
    return {
        "users": [{"user_id": user, "created_at": at(13) if user == USERS[-1] else None} for user in USERS],
        "items": [
            {
                "item_id": item,
                "title": item.upper(),
                "picture": [1.0, 0.5],
                "created_at": at(13) if item == ITEMS[-1] else None,
            }
            for item in ITEMS
        ],
        "events": events,
        "social_edges": [{"user_id": one, "friend_id": other} for one, other in pairwise(USERS)],
    }


def with_later_days(tables: Tables) -> Tables:
    """The same world, told after the date."""
    late = {"user_id": "late", "item_id": "late", "created_at": at(21)}
    return {
        "users": [{"user_id": "late", "created_at": at(21)}, *tables["users"]],
        "items": [{"item_id": "late", "title": "Late", "picture": [0.0, 0.0], "created_at": at(22)}, *tables["items"]],
        "events": [
            {"user_id": late["user_id"], "item_id": "i00", "event_at": at(21)},
            *tables["events"],
            {"user_id": "u0", "item_id": late["item_id"], "event_at": at(22)},
        ],
        "social_edges": [{"user_id": "late", "friend_id": "u0"}, *tables["social_edges"]],
    }


def configure(directory: Path, tables: Tables) -> Configuration:
    source = directory / "source"
    source.mkdir(parents=True)
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=RAW[name].schema), source / f"{name}.parquet")
    file = directory / "attractor.toml"
    file.write_text('state = "state"\n[source]\nkind = "parquet"\npath = "source"\n[features]\nhistory_length = 8\n')
    return load(file)


def training_bytes(configuration: Configuration) -> Mapping[str, bytes]:
    directory = configuration.training_sets / DATE.isoformat()
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """A configuration whose training sets of DATE are built."""
    configuration = configure(tmp_path_factory.mktemp("world"), world())
    land(configuration, DATE)
    build_training_sets(configuration, DATE)
    return configuration


@pytest.fixture(scope="module")
def sets(here: Configuration) -> Mapping[str, TrainingSet]:
    return {service: read_training_set(here, DATE, service) for service in TRAINING_SERVICES}


def test_feast_retrieves_what_the_partitions_of_both_instants_hold(
    here: Configuration, sets: Mapping[str, TrainingSet]
) -> None:
    for service, views in TRAINING_SERVICES.items():
        found = sets[service]
        for part, end in ((found.train, found.split.train_end), (found.recent, found.split.valid_end)):
            assert set(part) == set(views)
            for view in views:
                assert part[view].schema.equals(FEATURES[view].schema)
                assert part[view].equals(read_partition(here, view, end))


def test_who_came_between_the_instants_is_known_at_the_second_alone(sets: Mapping[str, TrainingSet]) -> None:
    for service, view, key, late in (
        ("karma_training_v1", "item_catalog", "item_id", ITEMS[-1]),
        ("dicer_training_v1", "social_graph", "user_id", USERS[-1]),
    ):
        assert late not in sets[service].train[view][key].to_pylist()
        assert late in sets[service].recent[view][key].to_pylist()


def test_labels_are_the_first_actions_of_their_windows(sets: Mapping[str, TrainingSet]) -> None:
    events = world()["events"]
    found = sets["karma_training_v1"]
    windows = ((found.validation, at(11), at(16)), (found.test, at(16), at(21)))
    for labels, start, end in windows:
        firsts: dict[tuple[str, str], dt.datetime] = {}
        for event in events:
            if start <= event["event_at"] < end:
                pair = event["user_id"], event["item_id"]
                firsts[pair] = min(event["event_at"], firsts.get(pair, end))
        rows = labels.to_pylist()
        assert {(row["user_id"], row["item_id"]): row["event_at"] for row in rows} == firsts
        assert len(rows) == len(firsts)
        order = [(row["user_id"], row["event_at"]) for row in rows]
        assert order == sorted(order)


def test_what_happens_after_the_date_changes_no_byte(here: Configuration, tmp_path: Path) -> None:
    later = configure(tmp_path, with_later_days(world()))
    land(later, DATE)
    land(later, DATE + dt.timedelta(days=2))
    build_training_sets(later, DATE)
    assert training_bytes(later) == training_bytes(here)
    for end in (dt.date(2026, 1, 11), dt.date(2026, 1, 16)):
        for view in FEATURES:
            name = f"{view}/date={end}.parquet"
            assert (later.features / name).read_bytes() == (here.features / name).read_bytes()


def test_building_again_gives_the_same_and_another_content_another_fingerprint(
    here: Configuration, sets: Mapping[str, TrainingSet], tmp_path: Path
) -> None:
    before = training_bytes(here)
    build_training_sets(here, DATE)
    assert training_bytes(here) == before
    other = world()
    met = {(event["user_id"], event["item_id"]) for event in other["events"]}
    user, item = next(pair for pair in product(USERS, ITEMS) if pair not in met)
    other["events"].append({"user_id": user, "item_id": item, "event_at": at(10)})
    changed = configure(tmp_path, other)
    land(changed, DATE)
    build_training_sets(changed, DATE)
    for service in TRAINING_SERVICES:
        assert read_training_set(changed, DATE, service).fingerprint != sets[service].fingerprint


def test_a_window_without_events_is_missing_input(tmp_path: Path) -> None:
    tables = world()
    tables["events"] = [event for event in tables["events"] if event["event_at"] < at(16)]
    quiet = configure(tmp_path, tables)
    land(quiet, DATE)
    with pytest.raises(MissingInput, match=r"no event from 2026-01-16.*the test window"):
        build_training_sets(quiet, DATE)
    assert not quiet.training_sets.exists() or not list(quiet.training_sets.iterdir())


def test_a_row_holds_until_the_next_midnight_and_the_unknown_is_null(here: Configuration) -> None:
    store, noon, next_midnight = open_store(here), at(16, 12), at(17)
    ids = {"user_id": pa.array(["u0", "nobody"]), "item_id": pa.array(["i00"])}
    found = historical_features(store, "dicer_training_v1", [(noon, ids), (next_midnight, ids)])
    assert len(found) == 4
    rows = {(row["user_id"], row["event_timestamp"]): row for row in found.to_pylist()}
    assert rows["u0", noon]["social_graph__friend_ids"] == ["u1"]
    assert rows["u0", noon]["item_audience__consumer_count"] is not None
    assert rows["nobody", noon]["social_graph__friend_ids"] is None
    assert rows["u0", next_midnight]["social_graph__friend_ids"] is None


def test_definitions_are_the_contracts(here: Configuration) -> None:
    definitions = define(here)
    assert set(definitions.views) == set(FEATURES) | set(PUBLISHED)
    for name, view in definitions.views.items():
        table = {**FEATURES, **PUBLISHED}[name]
        columns = [*table.columns, *PROVENANCE.get(name, ())]
        assert {field.name for field in view.schema} == {column.name for column in columns} - {"event_timestamp"}
        assert view.online == (name in PUBLISHED)
        assert view.join_keys == [key for key in table.key if key != "event_timestamp"]
        assert all(field.description for field in view.schema)
        assert Path(view.batch_source.path).is_absolute()


@pytest.mark.parametrize("service", [*TRAINING_SERVICES, "recall_v1", "pre_ranking_v1", "ranking_v1"])
def test_no_two_features_of_a_service_share_a_name(here: Configuration, service: str) -> None:
    projections = define(here).services[service].feature_view_projections
    names = [feature.name for projection in projections for feature in projection.features]
    assert len(names) == len(set(names))


def test_registering_again_writes_nothing(here: Configuration) -> None:
    before = here.registry.read_bytes()
    assert register(here)["changes"] == 0
    assert here.registry.read_bytes() == before


def test_what_is_defined_no_longer_is_registered_no_longer(tmp_path: Path) -> None:
    configuration = configure(tmp_path, {})
    register(configuration)
    store = open_store(configuration)
    retired = define(configuration).views["social_graph"]
    retired.name = "retired"
    store.apply([retired])
    assert register(configuration)["changes"] == 1
    assert "retired" not in {view.name for view in open_store(configuration).list_feature_views()}


def test_feast_loads_repo_py_alone() -> None:
    assert get_repo_files(ROOT / "features") == [ROOT / "features" / "repo.py"]

"""`docs/extending.md` and the examples beside it do what they say."""

from __future__ import annotations

import datetime as dt
import json
import re
import runpy
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docs.examples.ease import Ease, weights
from export import stages
from export.release import publish
from features import contracts, transforms
from features.build import build
from features.configuration import Configuration
from features.contracts import RAW
from features.errors import ConfigurationError, ContractViolation
from features.files import write_json
from features.further_views import further_views, write_further
from features.landing import land, raw_tables
from features.partitions import read_partition
from features.sources.market import Market
from features.sources.synthetic import write_market
from features.windows import midnight
from tests.markdown import ROOT, blocks
from tests.scored_nights import about, tables, write_scored
from tests.warehouses import sorted_rows

FIRST, DATE = dt.date(2026, 1, 1), dt.date(2026, 1, 11)
PAGE = "extending.md"
SOURCE, FEATURE, MODEL = map(tomllib.loads, blocks(PAGE, "toml"))
READING, CONTRACT = blocks(PAGE, "python")
(QUERY,) = blocks(PAGE, "sql")
FACTORY = SOURCE["source"]["factory"]
VIEWS = [*MODEL["further"]["views"], *FEATURE["further"]["views"]]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("market") / "data"
    write_market(Market(users=60, items=40, days=12, start=FIRST, seed=3), directory)
    return directory


def configured(directory: Path, **source: object) -> Configuration:
    return Configuration(directory / "attractor.toml", directory / "state", {"source": source})


@pytest.fixture
def json_lines(market: Path, tmp_path: Path) -> Configuration:
    """The market as the example's docstring lays it out."""
    folder = tmp_path / "lines"
    (folder / "events").mkdir(parents=True)
    for name in RAW:
        for row in pq.read_table(market / f"{name}.parquet").to_pylist():
            told = {key: value.isoformat() if isinstance(value, dt.datetime) else value for key, value in row.items()}
            file = f"events/{told['event_at'][:10]}" if name == "events" else name
            with (folder / f"{file}.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(told) + "\n")
    return configured(tmp_path, **SOURCE["source"] | {"options": {"path": "lines"}})


def test_the_example_source_lands_what_parquet_does(json_lines: Configuration, market: Path, tmp_path: Path) -> None:
    parquet = configured(tmp_path / "parquet", kind="parquet", path=str(market), lateness="2d")
    for date in (DATE - dt.timedelta(days=1), DATE):  # the second night reads one day more
        told, expected = land(json_lines, date), land(parquet, date)
        assert (told.rows, told.new_events) == (expected.rows, expected.new_events)
        ours, theirs = raw_tables(json_lines, date), raw_tables(parquet, date)
        for name in ("users", "items", "social_edges"):
            assert sorted_rows(getattr(ours, name)) == sorted_rows(getattr(theirs, name))
        assert sorted_rows(*ours.events) == sorted_rows(*theirs.events)


def test_what_breaks_the_contract_in_ones_own_source_is_refused(json_lines: Configuration) -> None:
    lines = json_lines.file.parent / "lines" / "social_edges.jsonl"
    lines.write_text('{"user_id": "u1", "friend_id": "nobody"}\n' + lines.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ContractViolation, match="'social_edges'"):
        land(json_lines, DATE)
    lines.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"social_edges\.jsonl cannot be read as JSON Lines"):
        land(json_lines, DATE)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "custom"}, "`factory` and `options` go with kind custom"),
        ({"kind": "synthetic", "factory": FACTORY}, "`factory` and `options` go with kind custom"),
        ({"kind": "custom", "factory": "docs.examples.nothing:JsonLines"}, "No module named"),
        ({"kind": "custom", "factory": FACTORY, "options": {"folder": "x"}}, "folder"),
        ({"kind": "custom", "factory": FACTORY, "options": {"path": "x"}}, "there is none"),
        ({"kind": "custom", "factory": "pathlib:Path"}, "expected a Source"),
    ],
)
def test_a_source_that_cannot_be_had_is_named(tmp_path: Path, source: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        land(configured(tmp_path, **source), DATE)


@pytest.fixture(scope="module")
def night(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """The market landed and built, with both examples among what a release carries."""
    directory = tmp_path_factory.mktemp("night")
    sections = {"source": {"kind": "parquet", "path": str(market)}, "further": {"views": VIEWS}}
    configuration = Configuration(directory / "attractor.toml", directory / "state", sections)
    land(configuration, DATE)
    build(configuration, DATE)
    return configuration


def test_a_third_model_and_a_feature_travel_with_the_night_and_are_read_from_it(night: Configuration) -> None:
    from features.store import open_store, register

    scored = write_scored(night.scored / str(DATE), columns := tables())
    active = len(read_partition(night, "user_history", DATE))
    assert write_further(night, DATE, scored) == {"ease_user_list": active, "user_activity": active}
    write_json(scored / "scored.json", about(DATE, columns))
    release_id = stages.stage(night, DATE).figures["release_id"]
    publish(night, release_id, published_at=midnight(DATE))
    register(night)
    store, history = open_store(night), read_partition(night, "user_history", DATE).slice(0, 1).to_pylist()[0]
    names = ["ease_user_list:ease_item_ids", "user_activity:user_days_since_event", "karma_user_interest:release_id"]
    rows = [{"user_id": history["user_id"]}, {"user_id": "nobody"}]
    answer = store.get_online_features(features=names, entity_rows=rows).to_dict()
    exec(compile(READING, PAGE, "exec"), {"store": store})
    days = (midnight(DATE) - history["event_times"][-1]).days
    assert answer["user_days_since_event"] == [days, None]
    assert len(answer["ease_item_ids"][0]) > 0
    assert not set(answer["ease_item_ids"][0]) & set(history["item_ids"])
    entities = pd.DataFrame({"user_id": [history["user_id"]], "event_timestamp": [midnight(DATE)]})
    earlier = store.get_historical_features(entities, names[:2]).to_df()
    assert earlier["user_days_since_event"].tolist() == [days]  # point in time, for training


def test_feast_apply_registers_further_views_with_all_the_others(
    night: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    from features.definitions import define

    night.file.write_text(f'state = "state"\n[further]\nviews = {json.dumps(VIEWS)}\n', encoding="utf-8")
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(night.file))
    found, defined = runpy.run_path(str(ROOT / "features" / "repo.py")), define(night)
    assert {"ease_user_list", "user_activity"} < defined.views.keys()
    for name, one in (defined.entities | defined.views | defined.services).items():
        assert found[name] == one
    assert found["attractor"].name == defined.project.name


def test_a_feature_that_models_learn_from_is_a_contract_and_a_query(
    night: Configuration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from features.definitions import define

    given = dict(vars(contracts))
    exec(compile(CONTRACT, PAGE, "exec"), given)
    shutil.copytree(transforms.SQL, tmp_path / "sql")
    (tmp_path / "sql" / "item_trend.sql").write_text(QUERY, encoding="utf-8")
    monkeypatch.setattr(transforms, "SQL", tmp_path / "sql")
    monkeypatch.setitem(contracts.FEATURES, "item_trend", given["ITEM_TREND"])  # type: ignore[arg-type]
    build(night, DATE)
    counts = dict.fromkeys(read_partition(night, "item_catalog", DATE)["item_id"].to_pylist(), 0)
    for event in sorted_rows(*raw_tables(night, DATE).events):
        if midnight(DATE - dt.timedelta(days=7)) <= event["event_at"] < midnight(DATE):
            counts[event["item_id"]] += 1
    built = read_partition(night, "item_trend", DATE)
    assert dict(zip(built["item_id"].to_pylist(), built["item_event_count_7d"].to_pylist(), strict=True)) == counts
    assert sum(counts.values()) > 0
    assert [field.name for field in define(night).views["item_trend"].features] == ["item_event_count_7d"]


def test_the_places_that_a_model_of_equal_rank_touches_are_there() -> None:
    page = (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
    places = [line.split(" | ")[0] for line in page.split("| where | what |")[1].splitlines() if line.startswith("| `")]
    named = [re.findall(r"`([^`]+)`", place) for cell in places for place in re.split(r"[;,] (?=`\w+/)", cell)]
    assert len(named) > 15
    for path, *symbols in named:
        if "<name>" not in path:
            text = (ROOT / path).read_text(encoding="utf-8")
            for symbol in symbols:
                assert re.search(rf"^ *(def |)({symbol})\b", text, re.MULTILINE), f"{path}: {symbol}"


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    seen = (np.random.default_rng(0).random((40, 6)) < 0.4).astype(np.float64)
    solved = weights(seen, 3.0)
    for item in range(6):
        others = [other for other in range(6) if other != item]
        x = seen[:, others]
        ridge = np.linalg.solve(x.T @ x + 3.0 * np.eye(5), x.T @ seen[:, item])
        np.testing.assert_allclose(solved[others, item], ridge)
        assert solved[item, item] == 0


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ("docs.examples.ease:Eas", "Eas"),
        ("docs.examples.ease:weights", "missing"),
        ("pathlib:Path", "expected `table` and `rows`"),
        (VIEWS[0], "another name than ease_user_list"),
    ],
)
def test_a_view_that_cannot_be_published_is_named(tmp_path: Path, view: str, message: str) -> None:
    sections = {"further": {"views": [VIEWS[0], view]}}
    with pytest.raises(ConfigurationError, match=rf"\[further\] views: '{view}': .*{message}"):
        further_views(Configuration(tmp_path / "attractor.toml", tmp_path / "state", sections))


def test_a_further_views_row_that_breaks_its_contract_stops_the_night(
    night: Configuration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [pa.record_batch({"user_id": ["b", "a"], "ease_item_ids": [["i"], ["i"]], "ease_scores": [[1.0], [1.0]]})]
    broken = [batch.cast(Ease.table.schema) for batch in rows]
    monkeypatch.setattr(Ease, "rows", lambda self, configuration, date: broken)
    with pytest.raises(ContractViolation, match="keys that are unique and rise"):
        write_further(night, DATE, tmp_path)

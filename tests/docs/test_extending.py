"""`docs/extending.md` and the examples beside it do what they say."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from features.configuration import Configuration
from features.contracts import RAW
from features.errors import ConfigurationError, ContractViolation
from features.landing import land, raw_tables
from features.sources.market import Market
from features.sources.synthetic import write_market
from tests.warehouses import sorted_rows

FIRST, DATE = dt.date(2026, 1, 1), dt.date(2026, 1, 11)
FACTORY = "docs.examples.json_lines:JsonLines"


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
    return configured(tmp_path, kind="custom", factory=FACTORY, options={"path": "lines"})


def test_the_example_source_lands_what_parquet_does(json_lines: Configuration, market: Path, tmp_path: Path) -> None:
    parquet = configured(tmp_path / "parquet", kind="parquet", path=str(market))
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

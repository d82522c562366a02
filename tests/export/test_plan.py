"""What a night will cost: from earlier nights where there are any, unknown where there are none."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export import stages
from export.ledger import open_ledger
from export.plan import plan
from features.configuration import Configuration, load
from tests.command_line import attractor, told
from tests.ledger_workers import finished_run
from tests.tiny_world import NIGHT, write_world

DAY = dt.timedelta(days=1)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return load(write_world(tmp_path))


def test_before_any_night_everything_is_unknown_and_says_why(configuration: Configuration) -> None:
    first = plan(configuration, NIGHT)
    assert [stage.stage for stage in first.stages] == [
        *("land", "build", "register", "training_sets"),
        *(f"{step}/{model}" for model in ("karma", "dicer") for step in ("train", "export", "promote")),
        *("score", "stage", "audit", "publish"),
    ]
    assert first.unknown == tuple(stage.stage for stage in first.stages)
    assert {(stage.rows, stage.output_bytes, stage.minutes, stage.memory_mb) for stage in first.stages} == {(None,) * 4}
    assert first.stages[0].basis == "unknown: no earlier run of land in the ledger"
    assert "a synthetic source does not tell them" in first.source


def test_an_expectation_is_the_median_time_and_largest_memory_of_earlier_nights(configuration: Configuration) -> None:
    ledger = open_ledger(configuration)
    for back, seconds, memory in ((3, 60.0, 900), (2, 600.0, 500), (1, 120.0, 400)):
        date = NIGHT - back * DAY
        finished_run(
            ledger,
            "build",
            date,
            seconds=seconds,
            memory=memory,
            size=1000 * back,
            figures={"rows": {"a": back, "b": 10}},
        )
    finished_run(ledger, "build", NIGHT + DAY, seconds=9999.0, memory=9999, size=1, figures={})  # not earlier
    build = {stage.stage: stage for stage in plan(configuration, NIGHT).stages}["build"]
    assert (build.minutes, build.memory_mb, build.rows, build.output_bytes) == (2.0, 900, 11, 1000)
    assert build.basis == f"3 earlier runs, the last for {NIGHT - DAY}"


def test_a_source_that_tells_its_rows_scales_what_is_expected(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, count in {"users": 10, "items": 20, "events": 150, "social_edges": 20}.items():
        pq.write_table(pa.table({"row": list(range(count))}), data / f"{name}.parquet")
    configuration = load(write_world(tmp_path, source={"kind": "parquet", "path": str(data)}))
    ledger = open_ledger(configuration)
    for stage in ("land", "build"):
        finished_run(ledger, stage, NIGHT - DAY, seconds=60.0, memory=100, size=1000, figures={"rows": {"all": 100}})
    doubled = plan(configuration, NIGHT)
    assert doubled.source == "rows: 10 users, 20 items, 150 events, 20 social_edges"
    build = {stage.stage: stage for stage in doubled.stages}["build"]
    assert (build.rows, build.output_bytes, build.minutes, build.memory_mb) == (200, 2000, 2.0, 200)
    assert "the source has 2.00 times its rows" in build.basis


def test_what_is_done_costs_nothing_and_what_comes_after_a_run_is_run(configuration: Configuration) -> None:
    landed = stages.land(configuration, NIGHT)
    stages.build(configuration, NIGHT)
    planned = {stage.stage: stage for stage in plan(configuration, NIGHT).stages}
    assert [planned[name].runs for name in ("land", "build", "register")] == [False, False, True]
    assert (planned["build"].minutes, planned["build"].basis) == (0.0, "re-used")
    assert planned["score"].why == "training_sets runs before it"

    next_night = {stage.stage: stage for stage in plan(configuration, NIGHT + DAY).stages}
    assert (next_night["land"].why, next_night["build"].why) == ("never ran", "land runs before it")
    assert next_night["land"].rows == sum(landed.figures["rows"].values()) > 0
    assert next_night["build"].minutes is not None


def test_it_is_printed_and_told_as_json(configuration: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(open_ledger(configuration), "land", NIGHT - DAY, seconds=90.0, memory=321, size=2**20, figures={})
    arguments = ("plan", "--date", str(NIGHT), "--config", str(configuration.file))
    as_json = told(capsys, *arguments)
    assert as_json["stages"][0]["minutes"] == 1.5
    assert as_json["minutes"] == 1.5
    assert "build" in as_json["unknown"]
    assert attractor(*arguments) == 0
    shown = capsys.readouterr().out
    assert "1.5" in shown
    assert "321" in shown
    assert "unknown: no earlier run of build in the ledger" in shown

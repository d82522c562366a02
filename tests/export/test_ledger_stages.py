"""Every stage's inputs are named by content: a change makes stale what reads it, and nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export import artifacts, champions, jobs, stages
from export.ledger import Job, Ledger, open_ledger
from features.configuration import Configuration, load
from features.files import write_json
from features.landing import raw_tables
from tests.command_line import attractor, told
from tests.tiny_world import NIGHT, write_world

AFTER = ("build", "training_sets", "train", "export", "score", "stage")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """A landed and built night with its training sets, and champions that need only be there."""
    configuration = load(write_world(tmp_path_factory.mktemp("world")))
    build_up(configuration)
    for model in champions.MODELS:
        artifact = artifacts.save(configuration.artifacts, model, lambda directory: {"parity": {}})
        champions.crown(configuration, artifact, at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), gates=[], quality=None)
    return configuration


def build_up(configuration: Configuration) -> None:
    for stage in (stages.land, stages.build, stages.training_sets):
        stage(configuration, NIGHT)
    pq.write_table(
        pq.read_table(configuration.features / "user_history" / f"date={NIGHT}.parquet"),
        scored(configuration) / "karma_user_interest.parquet",
    )


def scored(configuration: Configuration) -> Path:
    """What scoring would make of the features."""
    folder = configuration.scored / NIGHT.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scored.json", {"date": NIGHT.isoformat()})
    return folder


def job(configuration: Configuration, stage: str) -> Job:
    """The real job, but for its work: what it is made of is what counts here."""
    make: Callable[..., Job] = getattr(jobs, stage)
    made = make(configuration, NIGHT, "karma") if stage in {"train", "export"} else make(configuration, NIGHT)
    return replace(made, work=dict, artifact=lambda figures: "", outputs=lambda figures: [])


def settle(configuration: Configuration, ledger: Ledger) -> None:
    for stage in AFTER:
        ledger.run(job(configuration, stage))


def test_a_late_row_makes_every_stage_after_it_stale_as_what_it_reads_changes(configuration: Configuration) -> None:
    ledger = open_ledger(configuration)
    settle(configuration, ledger)
    assert {ledger.why_again(job(configuration, stage)) for stage in AFTER} == {None}

    events = raw_tables(configuration, NIGHT).events[-1]
    rows = pq.read_table(events)
    pq.write_table(pa.concat_tables([rows, rows.slice(len(rows) // 2, 40)]), events)
    why = {stage: ledger.why_again(job(configuration, stage)) for stage in AFTER}
    assert why == {
        "build": "other inputs: raw",
        "training_sets": "other inputs: raw",
        "train": None,  # what it reads is not made anew yet
        "export": None,
        "score": None,
        "stage": None,
    }
    build_up(configuration)
    settle(configuration, ledger)
    reasons = {stage: ledger.runs(stage=stage)[0].reason for stage in AFTER}
    assert reasons["score"] == "other inputs: partitions"
    assert {reasons[stage] for stage in ("train", "export")} == {"other inputs: training_set"}
    assert reasons["stage"] == "other inputs: karma_user_interest.parquet"
    assert {ledger.why_again(job(configuration, stage)) for stage in AFTER} == {None}


def test_a_setting_makes_stale_what_it_concerns(configuration: Configuration) -> None:
    ledger = open_ledger(configuration)
    settle(configuration, ledger)
    changed = load(write_world(configuration.file.parent, score={"top_k": 7}))
    assert {stage: why for stage in AFTER if (why := ledger.why_again(job(changed, stage)))} == {
        "score": "other inputs: score"
    }
    changed = load(write_world(configuration.file.parent, features={"history_length": 9}))
    assert {stage for stage in AFTER if ledger.why_again(job(changed, stage))} == {"build", "training_sets"}
    write_world(configuration.file.parent)


def test_another_champion_makes_the_score_stale(configuration: Configuration) -> None:
    ledger = open_ledger(configuration)
    settle(configuration, ledger)
    other = artifacts.save(configuration.artifacts, "dicer", lambda directory: {"parity": {}, "seed": 1})
    champions.crown(configuration, other, at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), gates=[], quality=None)
    assert {stage: why for stage in AFTER if (why := ledger.why_again(job(configuration, stage)))} == {
        "score": "other inputs: champions"
    }


def test_runs_are_shown_by_night_stage_and_state(
    configuration: Configuration, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--config", str(configuration.file))
    everything = told(capsys, "runs", *arguments)
    assert {run["stage"] for run in everything} == {"land", *AFTER}
    assert everything == sorted(everything, key=lambda run: -run["id"])
    (landed,) = (run for run in told(capsys, "runs", *arguments, "--stage", "land", "--date", str(NIGHT))[-1:])
    assert landed["window"] == ["2026-01-20T00:00:00+00:00", "2026-01-21T00:00:00+00:00"]
    assert (landed["state"], landed["attempt"], landed["artifact"]) == ("done", 1, f"raw/{NIGHT}")
    assert landed["figures"]["rows"]["users"] == 120
    assert landed["output_bytes"] > 0
    assert told(capsys, "runs", *arguments, "--date", "2020-01-01") == []
    assert told(capsys, "runs", *arguments, "--state", "failed") == []
    assert len(told(capsys, "runs", *arguments, "--limit", "2")) == 2
    assert attractor("runs", *arguments, "--state", "lost") == 0
    assert capsys.readouterr().out == "no run yet\n"
    assert attractor("runs", *arguments, "--stage", "land") == 0
    assert "never ran" in capsys.readouterr().out


def test_the_ledger_is_upgraded_by_a_command_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_world(tmp_path)
    answer = told(capsys, "ledger", "upgrade", "--config", str(file))
    assert answer == {"ledger": f"sqlite:///{load(file).ledger}", "revision": "r1"}


def test_a_database_that_is_away_is_one_line_without_a_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_OF_A_TEST", "postgresql://me:hidden@127.0.0.1:1/ledger")
    file = write_world(tmp_path, ledger={"url_variable": "LEDGER_OF_A_TEST"})
    assert attractor("runs", "--config", str(file)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: the database does not answer: ")
    assert "hidden" not in shown

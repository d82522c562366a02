"""The ledger, on SQLite and on PostgreSQL: what is done stands, what is not is done by exactly one."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, text

from export.ledger import Ledger, open_ledger
from export.ledger_database import connect, ledger_url, upgrade
from export.ledger_models import VERSION_TABLE, Base, State
from export.ledger_owners import Owner, has_ended, this_process
from features.configuration import Configuration
from features.errors import ConfigurationError, GateFailed
from tests.ledger_workers import DATE, PROCESSES, hang, job, ledger_at, race, writes


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return URL.create("sqlite", database=str(tmp_path / "state" / "ledger.db"))
    found: URL = request.getfixturevalue("postgresql_database")
    return found


@pytest.fixture
def ledger(url: URL) -> Ledger:
    return ledger_at(url)


def states(ledger: Ledger) -> list[str]:
    """Of all attempts, the first one first."""
    return [run.state.value for run in reversed(ledger.runs())]


def test_a_stage_runs_once_per_inputs_and_code_and_says_why_it_ran_again(ledger: Ledger, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = job(output, work=writes(output, {"rows": 3, "loss": float("nan"), "nested": [{"x": float("inf")}]}))
    done = ledger.run(first)
    assert (done.figures, done.reused) == ({"rows": 3, "loss": None, "nested": [{"x": None}]}, False)
    again = ledger.run(first)
    assert (again.figures, again.reused, again.run_id) == (done.figures, True, done.run_id)

    other_inputs = replace(first, inputs={"raw": "b", "features": {"n": 1}})
    other_code = replace(other_inputs, code="c0de 2")
    assert not ledger.run(other_inputs).reused
    assert not ledger.run(other_code).reused
    output.unlink()
    assert not ledger.run(other_code).reused
    assert not ledger.run(replace(other_code, reusable=False)).reused
    assert not ledger.run(replace(first, subject="another night")).reused
    assert [run.reason for run in reversed(ledger.runs())] == [
        "never ran",
        "other inputs: features, raw",
        "other code",
        "what it made is gone",
        "runs each time",
        "never ran",
    ]


def test_a_row_tells_window_attempt_figures_artifact_bytes_memory_times_and_owner(
    ledger: Ledger, tmp_path: Path
) -> None:
    output = tmp_path / "out"

    def work() -> dict[str, Any]:
        output.write_bytes(b"x" * 1000)
        ballast = bytearray(64 * 2**20)
        return {"ballast": len(ballast)}

    before = ledger.now()
    ledger.run(job(output, work=work))
    (run,) = ledger.runs(date=DATE, stage="build", state=State.DONE)
    assert run.window is not None
    assert (run.window.start.isoformat(), run.window.end.isoformat()) == (
        "2026-01-20T00:00:00+00:00",
        "2026-01-21T00:00:00+00:00",
    )
    assert run.ended_at is not None
    assert before <= run.started_at <= run.ended_at <= ledger.now()
    assert (run.attempt, run.artifact, run.output_bytes, run.pid) == (1, "out", 1000, os.getpid())
    assert run.peak_memory_mb is not None
    assert run.peak_memory_mb >= 64
    assert ledger.runs(date=DATE + dt.timedelta(days=1)) == ledger.runs(stage="land") == []
    assert replace(ledger, scope="another state directory").runs() == []


def test_what_a_stage_raises_is_recorded_raised_and_tried_again(ledger: Ledger, tmp_path: Path) -> None:
    output = tmp_path / "out"

    def fail(error: BaseException) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            raise error

        return work

    for error in (OSError("disk full"), KeyboardInterrupt(), GateFailed("release r", ["too few rows"])):
        with pytest.raises(type(error)):
            ledger.run(job(output, work=fail(error)))
    assert not ledger.run(job(output, work=writes(output, {}))).reused
    assert [(run.attempt, run.state.value, run.error) for run in reversed(ledger.runs())] == [
        (1, "failed", "OSError: disk full"),
        (2, "failed", "KeyboardInterrupt: "),
        (3, "refused", "GateFailed: release r refused: too few rows"),
        (4, "done", None),
    ]


def test_processes_that_race_for_a_stage_do_it_once(url: URL, tmp_path: Path) -> None:
    outputs = [tmp_path / f"out {number}" for number in range(8)]
    start, answers = PROCESSES.Event(), PROCESSES.Queue()
    orders = [outputs[k:] + outputs[:k] for k in range(4)]
    workers = [PROCESSES.Process(target=race, args=(url, order, start, answers)) for order in orders]
    for worker in workers:
        worker.start()
    start.set()
    told = [answers.get(timeout=60) for _ in range(len(workers) * len(outputs))]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert Counter(name for name, reused in told if not reused) == {output.name: 1 for output in outputs}
    assert [len(output.read_text().splitlines()) for output in outputs] == [1] * len(outputs)
    assert states(ledger_at(url)) == ["done"] * len(outputs)


def test_a_killed_stage_is_taken_over_at_once(url: URL, tmp_path: Path) -> None:
    output, begun, answers = tmp_path / "out", PROCESSES.Event(), PROCESSES.Queue()
    worker = PROCESSES.Process(target=hang, args=(url, output, begun, answers, 3600))
    worker.start()
    assert begun.wait(60)
    worker.kill()
    worker.join()
    ledger = ledger_at(url, lease=3600)
    result = ledger.run(job(output, work=writes(output, {"rows": 1})))
    assert (result.figures, result.reused, states(ledger)) == ({"rows": 1}, False, ["lost", "done"])
    assert f"process {worker.pid} on" in ledger.runs()[0].reason


def test_an_owner_that_fell_silent_loses_its_claim_and_takes_the_others_result(url: URL, tmp_path: Path) -> None:
    output, begun, answers = tmp_path / "out", PROCESSES.Event(), PROCESSES.Queue()
    worker = PROCESSES.Process(target=hang, args=(url, output, begun, answers, 0.4))
    worker.start()
    assert begun.wait(60)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    ledger = ledger_at(url, lease=0.4)
    began = time.monotonic()
    result = ledger.run(job(output, work=writes(output, {"rows": 1})))
    assert time.monotonic() - began >= 0.3, "its lease was to run out first"
    os.kill(worker.pid, signal.SIGCONT)
    assert answers.get(timeout=60) == result.figures == {"rows": 1}
    worker.join()
    assert states(ledger) == ["lost", "done"]


def test_an_owner_at_work_keeps_its_claim_beyond_its_lease(url: URL, tmp_path: Path) -> None:
    output, begun, answers = tmp_path / "out", PROCESSES.Event(), PROCESSES.Queue()
    worker = PROCESSES.Process(target=hang, args=(url, output, begun, answers, 0.6))
    worker.start()
    assert begun.wait(60)
    ledger = ledger_at(url, lease=0.6)
    for _ in range(4):
        time.sleep(0.4)
        (run,) = ledger.runs()
        assert not ledger.is_abandoned(run, ledger.now())
    output.touch()
    assert answers.get(timeout=60) == {"rows": 99}
    worker.join()
    result = ledger.run(job(output, work=writes(output, {"rows": 1})))
    assert (result.figures, result.reused, states(ledger)) == ({"rows": 99}, True, ["done"])


def test_an_owner_elsewhere_is_given_its_lease(tmp_path: Path) -> None:
    times = [dt.datetime(2026, 1, 21, tzinfo=dt.UTC)]
    here = replace(
        ledger_at(URL.create("sqlite", database=str(tmp_path / "ledger.db")), lease=120),
        clock=lambda connection: times[-1],
    )
    elsewhere = replace(here, owner=Owner("another host", 1, ""))
    unfinished = job(tmp_path / "out", work=dict)
    run, is_new = elsewhere._claimed(unfinished)
    assert is_new
    times.append(times[0] + dt.timedelta(seconds=120))
    assert [here._claimed(unfinished)[0].id, here._claimed(unfinished)[1]] == [run.id, False]
    times.append(times[0] + dt.timedelta(seconds=121))
    taken, is_new = here._claimed(unfinished)
    assert (taken.attempt, is_new, states(here)) == (2, True, ["lost", "running"])


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    me = this_process()
    assert not has_ended(me)
    place, _, started = me.process.rpartition(" ")
    assert has_ended(replace(me, process=f"{place} {int(started) - 1}"))
    assert not has_ended(replace(me, pid=2**22 + 1, process=f"another boot {started}")), "cannot be seen from here"
    assert not has_ended(Owner("somewhere", 1, ""))


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["works", "fails", "vanishes"])), min_size=1, max_size=6
    )
)
def test_a_run_is_re_used_exactly_when_the_last_attempt_stands_for_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("law")
    ledger, output = ledger_at(URL.create("sqlite", database=str(folder / "ledger.db"))), folder / "out"
    stands: str | None = None  # the inputs that the last attempt was done on, while what it made is there
    for inputs, fate in steps:

        def work(fate: str = fate) -> dict[str, Any]:
            if fate == "fails":
                raise OSError("no")
            return writes(output, {})()

        this = job(output, work=work, inputs={"raw": inputs})
        if stands != inputs and fate == "fails":
            with pytest.raises(OSError, match="no"):
                ledger.run(this)
            stands = None
            continue
        assert ledger.run(this).reused == (stands == inputs)
        stands = inputs
        if fate == "vanishes":
            output.unlink()
            stands = None


def test_the_migrations_make_what_the_models_say_and_only_once(url: URL) -> None:
    engine = connect(url)
    assert upgrade(engine) == upgrade(engine) == "r1"
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []
    if url.get_backend_name() == "sqlite":
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_database_that_is_airflows_or_mlflows_too_is_no_conflict(url: URL) -> None:
    engine = connect(url)
    with engine.begin() as connection:
        for table in ("alembic_version", "runs", "dag_run"):
            connection.execute(text(f"CREATE TABLE {table} (version_num TEXT)"))
            connection.execute(text(f"INSERT INTO {table} VALUES ('theirs')"))
    assert ledger_at(url).runs() == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["theirs"]


def test_a_ledger_of_a_newer_version_is_refused(url: URL) -> None:
    engine = connect(url)
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE ledger_version SET version_num = 'r99'"))
    with pytest.raises(ConfigurationError, match="revision r99, newer than r1"):
        upgrade(engine)


def test_the_database_is_named_by_a_variable_and_its_password_by_nobody(tmp_path: Path) -> None:
    def configured(**ledger: Any) -> Configuration:
        return Configuration(tmp_path / "attractor.toml", tmp_path / "state", {"ledger": ledger})

    assert ledger_url(configured()).database == str(tmp_path / "state" / "ledger.db")
    named = configured(url_variable="WAREHOUSE_LEDGER")
    url = ledger_url(named, environment={"WAREHOUSE_LEDGER": "postgresql://me:hidden@db/ledger"})
    assert url.drivername == "postgresql+psycopg"
    assert "hidden" not in str(url)
    with pytest.raises(ConfigurationError, match="names WAREHOUSE_LEDGER, which is not set"):
        ledger_url(named, environment={})
    with pytest.raises(ConfigurationError, match="WAREHOUSE_LEDGER: expected a database URL") as refused:
        ledger_url(named, environment={"WAREHOUSE_LEDGER": "hidden"})
    assert "hidden" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="expected lease_seconds > 0"):
        open_ledger(configured(lease_seconds=0))


def test_a_configured_ledger_is_opened_ready(tmp_path: Path) -> None:
    opened = open_ledger(Configuration(tmp_path / "attractor.toml", tmp_path / "market-1", {}))
    assert (opened.scope, opened.runs()) == ("market-1", [])


def test_two_state_directories_share_a_database_named_by_a_variable(
    postgresql_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_LEDGER", postgresql_database.render_as_string(hide_password=False))
    sections = {"ledger": {"url_variable": "SHARED_LEDGER"}}
    ledgers = [open_ledger(Configuration(tmp_path / "a.toml", tmp_path / name, sections)) for name in ("one", "two")]
    this = job(tmp_path / "out", work=writes(tmp_path / "out", {}))
    assert [ledger.run(this).reused for ledger in (*ledgers, *ledgers)] == [False, False, True, True]
    assert [run.scope for ledger in ledgers for run in ledger.runs()] == ["one", "two"]
    assert not (tmp_path / "one").exists(), "no SQLite beside it"

"""Log lines: what a stage's carry, as JSON and as text, on both ways that a stage may end."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, Connection
from sqlalchemy.exc import OperationalError

from export.ledger_database import database_clock
from export.ledger_models import State
from export.logs import FORMAT_VARIABLE, LoggingConfig, configure, progress, without_secrets
from features.errors import ConfigurationError, GateFailed
from tests.command_line import attractor
from tests.ledger_workers import DATE, job, ledger_at, writes
from tests.tiny_world import write_world

OF_THE_STAGE = {
    "run": 1,
    "stage": "build",
    "subject": DATE.isoformat(),
    "attempt": 1,
    "window_start": "2026-01-20T00:00:00+00:00",
    "window_end": "2026-01-21T00:00:00+00:00",
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Handlers and levels are a process's: other tests find their own."""
    loggers = [logging.getLogger(name) for name in ("", "features", "models", "export", "attractor")]
    levels, handlers = [logger.level for logger in loggers], list(loggers[0].handlers)
    yield
    logging.captureWarnings(False)
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged as JSON: every line of standard error."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_line_of_a_stage_carries_run_stage_and_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LoggingConfig(format="json"), environment={})
    ledger, output = ledger_at(URL.create("sqlite", database=str(tmp_path / "ledger.db"))), tmp_path / "made"

    def work() -> dict[str, Any]:
        logging.getLogger("features.build").info("half done", extra={"rows": 7})
        return writes(output, {"rows": 7})()

    ledger.run(job(output, work=work))
    ledger.run(job(output, work=work))
    logging.getLogger("export.night").info("between stages")
    began, inside, done, again, outside = lines(capsys)
    for line in (began, inside, done, again):
        assert OF_THE_STAGE.items() <= line.items()
        assert line["timestamp"].endswith("Z")
    assert (inside["event"], inside["rows"]) == ("half done", 7)
    assert (inside["logger"], inside["level"]) == ("features.build", "info")
    assert (done["state"], done["artifact"], again["event"]) == (
        "done",
        "made",
        "build 2026-01-21: re-used, done in run 1",
    )
    assert done["seconds"] >= 0
    assert not OF_THE_STAGE.keys() & outside.keys()


def test_a_stage_that_is_refused_logs_its_gates_with_their_figures_and_the_ledger_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(LoggingConfig(format="json"), environment={})
    ledger = ledger_at(URL.create("sqlite", database=str(tmp_path / "ledger.db")))
    verdict = "karma_user_interest, row floor: rows_ratio 0.5, at least 0.8 asked (min_rows_ratio)"

    def refuse() -> dict[str, Any]:
        raise GateFailed("release r", [verdict])

    with pytest.raises(GateFailed):
        ledger.run(job(tmp_path / "made", work=refuse))
    told = lines(capsys)[-1]
    assert OF_THE_STAGE.items() <= told.items()
    assert (told["level"], told["state"], told["refused"]) == ("warning", "refused", [verdict])
    (run,) = ledger.runs()
    assert (run.state, run.figures) == (State.REFUSED, {"refused": [verdict]})


def test_no_password_is_logged_or_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = ledger_at(URL.create("sqlite", database=str(tmp_path / "ledger.db")))

    def fail() -> dict[str, Any]:
        raise OSError("postgresql://me:hunter2@db/shop does not answer, password=hunter2 was given")

    for form in ("json", "text"):
        configure(LoggingConfig(format=form), environment={})
        with pytest.raises(OSError, match="does not answer"):
            ledger.run(job(tmp_path / "made", work=fail))
        try:
            fail()
        except OSError:
            logging.getLogger("export.night").exception("with its trace", extra={"urls": ["redis://me:hunter2@db"]})
        shown = capsys.readouterr().err
        assert "postgresql://me:***@db/shop does not answer, password=*** was given" in shown
        assert "Traceback" in shown
        assert "hunter2" not in shown
    assert not any("hunter2" in (run.error or "") for run in ledger.runs())


@given(st.text(), st.from_regex(r"[A-Za-z0-9!$%^*]{1,20}", fullmatch=True), st.text())
def test_a_password_in_a_url_is_never_left(before: str, password: str, after: str) -> None:
    url = "postgresql://someone:{}@host/name"
    assert without_secrets(f"{before} {url.format(password)} {after}").count(url.format("***")) == 1 + (
        before + after
    ).count(url.format("***"))


def test_progress_is_bare_as_text_and_a_line_like_any_other_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure(environment={})
    progress.info("land …")
    logging.getLogger("export.ledger").info("not told")
    logging.getLogger("export.ledger").warning("told", extra={"run": 3})
    bare, line = capsys.readouterr().err.splitlines()
    assert bare == "land …"
    assert "warning" in line
    assert line.endswith("told [export.ledger] run=3")
    configure(environment={FORMAT_VARIABLE: "json"})
    progress.info("land …")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # as configured, before pytest put its own in its place
        warnings.warn("of a library", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    announced, warned = lines(capsys)
    assert announced["event"] == "land …"
    assert "of a library" in warned["event"]


def test_what_the_heartbeat_logs_belongs_to_its_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LoggingConfig(format="json"), environment={})
    away = threading.Event()

    def clock(connection: Connection) -> dt.datetime:
        if threading.current_thread() is threading.main_thread():
            return database_clock(connection)
        away.set()
        raise OperationalError("SELECT now", {}, OSError("the database is away"))

    def work() -> dict[str, Any]:
        assert away.wait(10)
        return writes(tmp_path / "made", {})()

    ledger = ledger_at(URL.create("sqlite", database=str(tmp_path / "ledger.db")), lease=0.04)
    replace(ledger, clock=clock).run(job(tmp_path / "made", work=work))
    warned = [line for line in lines(capsys) if line["level"] == "warning"]
    assert warned
    assert "no heartbeat" in warned[0]["event"]
    assert OF_THE_STAGE.items() <= warned[0].items()


def test_the_file_and_the_environment_choose_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_world(tmp_path, logging={"format": "json", "level": "debug"})
    assert attractor("explain", "--config", str(file), "--user", "u", "--item", "i") == 1
    (line,) = lines(capsys)
    assert (line["level"], line["event"][:6]) == ("error", "error:")
    assert logging.getLogger("features").level == logging.DEBUG
    write_world(tmp_path, logging={"format": "xml"})
    assert attractor("runs", "--config", str(file)) == 1
    assert "[logging]" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match=r"ATTRACTOR_LOG_FORMAT: expected one of text, json, got 'xml'"):
        configure(environment={FORMAT_VARIABLE: "xml"})

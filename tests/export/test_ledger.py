"""The ledger: done work is re-used, changed or unfinished work is run."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from export.ledger import finished, once, open_ledger


def test_a_stage_runs_once_per_inputs(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "state" / "ledger.db")
    calls: list[int] = []

    def run(inputs: int, *, stands: bool = True) -> tuple[Any, bool]:
        def work() -> dict[str, Any]:
            calls.append(inputs)
            return {"rows": inputs}

        result = once(ledger, "land", "2026-01-01", {"n": inputs}, work, stands=lambda figures: stands)
        return result.figures["rows"], result.reused

    assert run(1) == (1, False)
    assert run(1) == (1, True)
    assert run(2) == (2, False)  # other inputs
    assert run(2, stands=False) == (2, False)  # its output is gone
    assert calls == [1, 2, 2]
    assert [row.figures for row in finished(ledger, date=dt.date(2026, 1, 1))] == [{"rows": 2}]


def test_a_stage_that_fails_is_not_recorded(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")

    def fail() -> dict[str, Any]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        once(ledger, "land", "2026-01-01", {}, fail, stands=lambda figures: True)
    assert finished(ledger) == []
    assert not once(ledger, "land", "2026-01-01", {}, dict, stands=lambda figures: True).reused

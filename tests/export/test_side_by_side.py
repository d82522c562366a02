"""A benchmark's parts in processes of their own: how many at once, on how many cores, and what a failure does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from export import side_by_side
from export.cli import cli
from export.side_by_side import run_side_by_side
from features.errors import BenchmarkFailed
from features.files import read_json


@pytest.fixture
def _python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are Python programs instead of `attractor`'s."""
    start = subprocess.Popen

    def popen(command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", *command[3:]], **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(side_by_side.subprocess, "Popen", popen)


@pytest.mark.usefixtures("_python")
def test_no_more_run_at_once_than_jobs_and_they_share_the_cores(tmp_path: Path) -> None:
    note = """
import os, pathlib, sys, time
at, threads = pathlib.Path(sys.argv[1]), os.environ["OMP_NUM_THREADS"]
started = time.time()
time.sleep(0.5)
at.write_text(f"{started} {time.time()} {threads} {os.environ['TQDM_POSITION']}")
"""
    run_side_by_side([[note, str(tmp_path / str(k))] for k in range(5)], jobs=2)
    told = [[float(word) for word in (tmp_path / str(k)).read_text().split()] for k in range(5)]
    for started, *_ in told:
        assert sum(begun <= started < ended for begun, ended, *_ in told) <= 2
    assert any(begun < started < ended for started, *_ in told for begun, ended, *_ in told), "none ran beside another"
    assert {threads for *_, threads, _ in told} == {max(1, (os.cpu_count() or 1) // 2)}
    assert {line for *_, line in told} == {0, 1}


@pytest.mark.usefixtures("_python")
def test_a_failure_ends_the_others_and_starts_no_more(tmp_path: Path) -> None:
    slow = "import pathlib, sys, time; time.sleep(60); pathlib.Path(sys.argv[1]).touch()"
    started = time.monotonic()
    with pytest.raises(BenchmarkFailed, match="ended with status 3; what was finished is kept"):
        run_side_by_side(
            [[slow, str(tmp_path / "first")], ["raise SystemExit(3)"], [slow, str(tmp_path / "never")]], jobs=2
        )
    assert time.monotonic() - started < 50
    assert not list(tmp_path.iterdir())


def test_jobs_find_what_one_process_finds(tmp_path: Path) -> None:
    def ran(name: str, *options: str) -> dict[str, dict]:
        told = CliRunner().invoke(cli, ["benchmark", "karma", *options, "--results", str(tmp_path / name)])
        assert told.exit_code == 0, told.output
        assert (tmp_path / name / "karma.md").is_file()
        return {file.name: read_json(file) for file in (tmp_path / name / "karma").rglob("*.json")}

    market = ["--data", "synthetic", "--users", "100", "--items", "100", "--work", str(tmp_path / "work")]
    options = [*market, "--arms", "popularity,item_to_item"]
    alone = ran("alone", *options, "--seeds", "2")
    shared = ran("shared", *options, "--seeds", "2", "--jobs", "2")
    assert (
        shared.keys() == alone.keys() == {f"{arm}-{k}.json" for arm in ("popularity", "item_to_item") for k in (0, 1)}
    )
    for name, told in alone.items():
        assert shared[name]["action"] == told["action"]
        assert shared[name]["trial"] == told["trial"]
    late = CliRunner().invoke(
        cli, ["benchmark", "karma", *options, "--seed", "1", "--results", str(tmp_path / "late")], catch_exceptions=True
    )
    assert "synthetic item_to_item: seed 0 chooses among its trials; run that first" in str(late.exception)

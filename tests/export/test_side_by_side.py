"""A benchmark's shares in processes of their own: how many at once, on how many cores, and what a failure does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from export import benchmark
from export.cli import cli
from export.side_by_side import run_side_by_side
from features.cores import usable_cores
from features.errors import BenchmarkFailed, MissingInput
from features.files import read_json

PYTHON = (sys.executable, "-c")
SLOW = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1] + ".part").write_text(str(os.getpid()))
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(60)
pathlib.Path(sys.argv[2]).touch()
"""


def test_no_more_run_at_once_than_jobs_and_they_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    note = """
import os, pathlib, sys, time
at, started = pathlib.Path(sys.argv[1]), time.time()
time.sleep(0.5)
at.write_text(f"{started} {time.time()} {os.environ['OMP_NUM_THREADS']} {os.environ['TQDM_POSITION']}")
"""
    finished: list[int] = []
    run_side_by_side(
        [[note, str(tmp_path / str(k))] for k in range(5)],
        jobs=2,
        program=PYTHON,
        finished=lambda: finished.append(len(list(tmp_path.iterdir()))),
    )
    told = [[float(word) for word in (tmp_path / str(k)).read_text().split()] for k in range(5)]
    for started, *_ in told:
        assert sum(begun <= started < ended for begun, ended, *_ in told) <= 2
    assert any(begun < started < ended for started, *_ in told for begun, ended, *_ in told), "none ran beside another"
    assert {threads for *_, threads, _ in told} == {max(1, usable_cores() // 2)}
    assert {line for *_, line in told} == {0, 1}
    assert len(finished) == 5
    assert finished[-1] == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run_side_by_side([[note, str(tmp_path / "mine")]], jobs=2, program=PYTHON)
    assert (tmp_path / "mine").read_text().split()[2] == "3"


def test_a_failure_ends_the_others_and_starts_no_more(tmp_path: Path) -> None:
    started = time.monotonic()
    fail = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)\nsys.exit(3)"
    begun, never = str(tmp_path / "begun"), str(tmp_path / "never")
    with pytest.raises(BenchmarkFailed, match="ended with status 3; what was finished is kept"):
        run_side_by_side(
            [[SLOW, begun, never], [fail, begun], [SLOW, str(tmp_path / "second"), never]], jobs=2, program=PYTHON
        )
    assert time.monotonic() - started < 50
    assert [file.name for file in tmp_path.iterdir()] == ["begun"]


def test_a_termination_reaches_them_all(tmp_path: Path) -> None:
    code = (
        "import sys; from export.side_by_side import run_side_by_side as run; "
        f"run([[{SLOW!r}, sys.argv[1], sys.argv[2]]], jobs=2, program=({sys.executable!r}, '-c'))"
    )
    begun = tmp_path / "begun"
    parent = subprocess.Popen([*PYTHON, code, str(begun), str(tmp_path / "never")])
    while not begun.exists():
        time.sleep(0.05)
        assert parent.poll() is None
    child = int(begun.read_text())
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=50) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """What processes a command would start."""

    def commands(*options: str) -> list[list[str]]:
        told: list[list[str]] = []
        monkeypatch.setattr(benchmark, "run_side_by_side", lambda commands, **_: told.extend(commands))
        ran = CliRunner().invoke(cli, ["benchmark", *options], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return told

    return commands


def test_each_process_is_told_what_the_command_was_told(asked: Callable[..., list[list[str]]], tmp_path: Path) -> None:
    options = {"protocol": "full", "device": "cuda", "similar-cap": "7", "data": "elsewhere", "work": "unfinished"}
    options["results"] = str(tmp_path)
    given = [f"--{name}={value}" for name, value in options.items()]
    told = asked("dicer", *given, "--arms", "dicer,lightgcn,dicer", "--seed", "2", "--seed", "0", "--jobs", "2")
    shared = {"--no-page", *given}
    assert [command[:2] for command in told] == [["benchmark", "dicer"]] * 3
    assert [set(command[2:]) - shared for command in told] == [
        {"--arms=dicer", "--seed=0"},
        {"--arms=dicer", "--seed=2"},
        {"--arms=lightgcn", "--seed=0", "--seed=2"},
    ]
    assert all(shared <= set(command) for command in told)


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
        shared.keys()
        == alone.keys()
        == {f"{arm}-{seed}.json" for arm in ("popularity", "item_to_item") for seed in (0, 1)}
    )
    for name, told in alone.items():
        assert shared[name]["action"] == told["action"]
        assert shared[name]["trial"] == told["trial"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_later_seed_of_trials_is_refused_before_anything_runs(tmp_path: Path, jobs: str) -> None:
    places = ["--results", str(tmp_path), "--work", str(tmp_path / "work"), "--data", str(tmp_path)]
    refused = CliRunner().invoke(
        cli, ["benchmark", "dicer", "--protocol", "full", "--seed", "1", "--jobs", jobs, *places]
    )
    assert isinstance(refused.exception, MissingInput)
    assert "bpr: seed 0 chooses among its trials; run that first, or leave bpr out" in str(refused.exception)


def test_seeds_are_counted_or_named_not_both(tmp_path: Path) -> None:
    options: Sequence[str] = ["--protocol", "full", "--seeds", "3", "--seed", "1", "--results", str(tmp_path)]
    refused = CliRunner().invoke(cli, ["benchmark", "dicer", *options])
    assert refused.exit_code == 2
    assert "not both" in refused.output

"""The scoring benchmark runs, at a size of seconds, and what it says of exactness holds."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.io import savemat

from tests.split_worlds import toy_split

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the script in this process; what it prints with `--json`."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("dicer_scoring")
    sizes = ["--dimension", "8", "--layers", "1", "--hidden", "8"]

    def ran(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["dicer_scoring.py", "--json", *sizes, *arguments])
        script.main()
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    yield ran
    torch.set_num_threads(threads)


def test_the_ways_are_compared_on_generated_lists(run: Run, tmp_path: Path) -> None:
    told = run("--data", str(tmp_path), "--users", "1", "--friends", "3", "--seconds", "0.1")
    assert told["world"].startswith("GENERATED")
    assert told["sizes"]["F"] == 3
    assert told["ratio_vs_literal"] > 0
    assert told["pairs_per_second"] > 0
    assert 0 < told["share_of_peak"] < 1
    assert told["max_abs_diff"] <= 1e-5
    assert told["max_abs_diff_torch"] <= 1e-5
    assert told["deviation_of_scores"] > 0.01, "scores that are all alike would prove nothing"


def test_ranked_lists_are_the_best_by_the_definition(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_split(0, users=120)  # everyone has 9 of 60 items and two friends
    savemat(tmp_path / "rating.mat", {"rating": toy.interactions.T + 1})
    savemat(tmp_path / "trustnetwork.mat", {"trustnetwork": toy.friends.T + 1})
    told = run("--data", str(tmp_path), "--top-k", "7")
    assert (told["users"], told["items"], told["lists"], told["lists_checked"]) == (120, 60, 120, 20)
    assert (told["lists_identical"], told["lists_by_definition"]) == (20, 20)
    assert told["max_abs_diff"] <= 1e-5

    script = importlib.import_module("dicer_scoring")
    honest = script.ranked_lists

    def without_the_best(*data: Any, top_k: int) -> Iterator[Any]:
        return ((user, items[1:], scores[1:]) for user, items, scores in honest(*data, top_k=top_k + 1))

    monkeypatch.setattr(script, "ranked_lists", without_the_best)
    told = run("--data", str(tmp_path), "--top-k", "7")
    assert (told["lists_identical"], told["lists_by_definition"]) == (0, 0)

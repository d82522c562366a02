"""`benchmarks/karma_encoding.py --json`: what its figures are called, and what they are made of."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from features.training_sets import TrainingSet
from models.karma.config import KarmaConfig
from models.karma.network import Karma
from models.karma.text import Preparation
from models.karma.training import TrainedKarma
from tests.karma_world import ExportedKarma, training_set

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "karma_encoding.py"
PATHS = [f"{way} {kind}" for kind in ("tokens", "compressed") for way in ("usual", "onnx fp32", "onnx int8")]
OF_A_WAY = {
    "users_per_second",
    "users_per_cpu_second",
    "ratio_vs_usual",
    "ratio_vs_usual_same_history",
    "tokens_per_cpu_second",
    "tokens_per_user",
    "share_of_padding",
    "share_of_peak",
    "min_cosine_fp32",
    "overlap_at_100",
}
OF_THE_NIGHT = {"items_per_cpu_second"}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("karma_encoding_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_figures_of_a_run(
    benchmark: ModuleType,
    karma: ExportedKarma,
    compressed_karma: ExportedKarma,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {"tokens": karma, "compressed": compressed_karma}  # training and export have tests and take a minute

    def prepare(features: Mapping[str, pa.Table], config: KarmaConfig) -> Preparation:
        return known[config.history].trained.preparation

    def trained(features: Mapping[str, pa.Table], preparation: Preparation, seed: int) -> Karma:
        return known[preparation.config.history].trained.network

    def export(trained: TrainedKarma, features: TrainingSet, directory: Path) -> None:
        made = known[trained.preparation.config.history].artifact.directory
        shutil.copytree(made, directory, dirs_exist_ok=True)

    world = training_set().recent
    replaced = {"prepare": prepare, "_trained": trained, "export_karma": export}
    for name, stand_in in replaced.items():
        monkeypatch.setattr(benchmark, name, stand_in)
    monkeypatch.setattr(benchmark, "_tables", lambda *_: (world["item_catalog"], world["user_history"], "tiny"))
    benchmark.main(["--usual-users", "8", "--seconds", "0", "--json"])
    judge(json.loads(capsys.readouterr().out))
    benchmark.main(["--usual-users", "8", "--seconds", "0", "--history", "compressed"])
    told = capsys.readouterr().out
    assert "onnx fp32 compressed" in told.split("usual tokens")[0], "which history the night runs"


def judge(figures: Mapping[str, Any]) -> None:
    """Every figure is there by its name, once for each path, and the ratios are those of the rates."""
    paths = figures["paths"]
    assert list(paths) == PATHS
    for name, path in paths.items():
        assert path.keys() == (OF_A_WAY if name.startswith("usual") else OF_A_WAY | OF_THE_NIGHT), name
        rate, kind = path["users_per_cpu_second"], name.split()[-1]
        assert path["ratio_vs_usual"] == pytest.approx(rate / paths["usual tokens"]["users_per_cpu_second"])
        same = paths[f"usual {kind}"]["users_per_cpu_second"]
        assert path["ratio_vs_usual_same_history"] == pytest.approx(rate / same)
    assert figures["night"] == "onnx fp32 tokens"
    for name in ("ratio_vs_usual", "ratio_vs_usual_same_history", "overlap_at_100"):
        assert figures[name] == paths["onnx fp32 tokens"][name]
    exact = [paths[f"onnx fp32 {kind}"]["min_cosine_fp32"] for kind in ("tokens", "compressed")]
    assert figures["min_cosine_fp32"] == min(exact) > 0.999
    assert all(paths[name]["overlap_at_100"] == 1.0 for name in PATHS if "int8" not in name)
    assert all(paths[f"usual {kind}"]["min_cosine_fp32"] > 0.9999 for kind in ("tokens", "compressed")), "of itself"
    assert (figures["world"], figures["users"], figures["items"]) == ("tiny", 40, 36)


def test_without_last_fm_a_market_is_generated(benchmark: ModuleType, tmp_path: Path) -> None:
    options = benchmark._options(["--data", str(tmp_path), "--users", "100", "--items", "120"])
    items, rows, world = benchmark._tables(options, tmp_path)
    assert len(items) == 120
    assert 0 < len(rows) <= 100
    assert world.startswith("GENERATED")

"""Parity: agreement is measured on a real graph, and disagreement in value, shape or NaN is never passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.parity import Arrays, Case, measure


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """A graph that doubles a vector of any length."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([node], "doubling", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "doubling.onnx")
    return tmp_path / "doubling.onnx"


CASES = [Case(f"length {n}", {"x": np.arange(n, dtype=np.float32)}) for n in (1, 7)]


def test_agreement(doubling: Path) -> None:
    parity = measure(doubling, lambda inputs: [2 * inputs["x"]], CASES)
    assert parity.holds
    assert parity.differences == {"length 1": 0.0, "length 7": 0.0}
    assert parity.record()["worst"] == 0.0
    assert parity.holds


@pytest.mark.parametrize(
    "reference",
    [
        lambda inputs: [2 * inputs["x"] + 1e-3],
        lambda inputs: [2 * inputs["x"][:1]],
        lambda inputs: [inputs["x"] * np.nan],
    ],
    ids=["value", "shape", "nan"],
)
def test_disagreement(doubling: Path, reference: Any) -> None:
    parity = measure(doubling, reference, CASES)
    assert not parity.holds


def test_no_case_is_no_proof(doubling: Path) -> None:
    def never(inputs: Arrays) -> list[Any]:
        raise AssertionError("there is nothing to compare")

    parity = measure(doubling, never, [])
    assert not parity.holds
    assert parity.record()["worst"] is None

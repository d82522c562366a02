"""Parity: does an ONNX graph compute what its torch network computes, on inputs real and adversarial?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
TOLERANCE = 1e-4
"""Largest absolute difference allowed in float32; measured differences are some 1e-6."""


@dataclass(frozen=True)
class Case:
    """One named input of a graph, such as `batch of 7` or `user without friends`."""

    name: str
    inputs: Arrays


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of a graph's outputs from the network's, by case."""

    graph: str
    tolerance: float
    differences: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest difference of all; NaN if any is NaN or there was no case."""
        return float(np.max(list(self.differences.values()))) if self.differences else math.nan

    @property
    def holds(self) -> bool:
        """Whether there was a case at all and every difference is a number within the tolerance."""
        return self.worst <= self.tolerance

    def record(self) -> dict[str, Any]:
        """As JSON for the artifact; a difference that is not a finite number is null."""
        differences = {name: value if math.isfinite(value) else None for name, value in self.differences.items()}
        worst = self.worst if math.isfinite(self.worst) else None
        return {
            "graph": self.graph,
            "tolerance": self.tolerance,
            "differences": differences,
            "worst": worst,
            "holds": self.holds,
        }


def measure(
    graph: Path,
    reference: Callable[[Arrays], Sequence[NDArray[Any]]],
    cases: Sequence[Case],
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Run every case through the graph file and through `reference` (torch), outputs in the same order."""
    session = open_session(graph)
    differences = {}
    for case in cases:
        ours = session.run(None, dict(case.inputs))
        theirs = reference(case.inputs)
        assert len(ours) == len(theirs), f"{graph.name}: {len(ours)} outputs, the network has {len(theirs)}"
        differences[case.name] = max(_difference(a, b) for a, b in zip(ours, theirs, strict=True))
    return Parity(graph.name, tolerance, differences)


def open_session(graph: Path) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, of one thread: who wants more cores runs it from several threads.

    With more, ScatterND that adds, as sums over edges do, loses summands where two threads meet at one row: the runtime
    gives another wrong sum now and then (github.com/microsoft/onnxruntime/issues/18048 and 23396).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)), initial=0.0))

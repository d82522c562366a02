"""One gate and one figure: missing figures never pass, thresholds are settings, the page of gates is the code."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.gates import FAILED, GATES, NO_FIGURE, PASSED, AuditConfig, Subject, verdicts
from features.errors import ConfigurationError
from tests.scored_nights import configuration_at

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(AuditConfig)])
def test_a_threshold_that_is_not_a_number_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigurationError, match=setting):
        configuration_at(tmp_path, audit={setting: math.nan}).section("audit", AuditConfig)


def subject_of(figures: Mapping[str, float | None], alone: Mapping[str, str] | None = None) -> Subject:
    return Subject("all", ("karma",), ("table", "vectors", "lists", "model", "inputs"), figures, alone or {})


def passing(config: AuditConfig) -> dict[str, float | None]:
    """A figure of every gate that holds: the largest of its lower bounds, else its upper one."""
    figures: dict[str, float | None] = {}
    for gate in sorted(GATES, key=lambda gate: gate.direction, reverse=True):
        threshold = float(getattr(config, gate.threshold))
        figures[gate.figure] = max(threshold, figures.get(gate.figure) or 0.0)
    return figures


@given(
    gate=st.sampled_from(GATES),
    poison=st.sampled_from([None, math.nan, math.inf, -math.inf, "missing"]),
)
@settings(deadline=None)
def test_no_figure_that_is_missing_or_not_a_number_passes(gate: Any, poison: Any) -> None:
    config = AuditConfig()
    figures = passing(config)
    assert all(verdict.decision == PASSED for verdict in verdicts([subject_of(figures)], config))
    if poison == "missing":
        del figures[gate.figure]
    else:
        figures[gate.figure] = poison
    found = {verdict.gate: verdict for verdict in verdicts([subject_of(figures)], config)}
    assert (found[gate.name].decision, found[gate.name].figure) == (NO_FIGURE, None)
    assert {name for name, verdict in found.items() if verdict.decision != PASSED} == {
        other.name for other in GATES if other.figure == gate.figure
    }


@given(gate=st.sampled_from(GATES), figure=st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_a_figure_passes_on_its_side_of_the_threshold_alone(gate: Any, figure: float) -> None:
    config = AuditConfig()
    threshold = float(getattr(config, gate.threshold))
    verdict = next(one for one in verdicts([subject_of({gate.figure: figure})], config) if one.gate == gate.name)
    holds = figure >= threshold if gate.direction == "at least" else figure <= threshold
    assert verdict.decision == (PASSED if holds else FAILED)
    assert gate.threshold in verdict.sentence


def test_what_stands_alone_says_so_but_a_figure_goes_before() -> None:
    alone = {"list_overlap": "no earlier release"}
    gate = "overlap"
    for figures, decision in (({}, PASSED), ({"list_overlap": 0.0}, FAILED), ({"list_overlap": 1.0}, PASSED)):
        found = {one.gate: one for one in verdicts([subject_of(figures, alone)], AuditConfig())}
        assert found[gate].decision == decision
        assert ("nothing to compare with" in found[gate].sentence) == (not figures)


def test_the_page_of_gates_is_the_code(pytestconfig: pytest.Config) -> None:
    page, config = ROOT / "docs" / "audit.md", AuditConfig()
    rows = ["| gate | of | figure | asked | setting | because |", "|---|---|---|---|---|---|"]
    for gate in GATES:
        asked = f"{gate.direction} {getattr(config, gate.threshold):g}"
        rows.append(f"| {gate.name} | {gate.kind} | `{gate.figure}` | {asked} | `{gate.threshold}` | {gate.why} |")
    text = page.read_text(encoding="utf-8")
    before, rest = text.split("<!-- gates -->\n")
    _, after = rest.split("<!-- end of gates -->\n")
    expected = before + "<!-- gates -->\n" + "\n".join(rows) + "\n<!-- end of gates -->\n" + after
    if pytestconfig.getoption("--write-goldens"):
        page.write_text(expected, encoding="utf-8")
    assert text == expected

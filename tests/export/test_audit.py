"""The audit refuses each kind of bad night, says why in a sentence, and never passes on a missing figure."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export import release
from export.audit import GATES, AuditConfig, AuditReport, Subject, audit
from export.audit_figures import ListFigures, TableFigures, VectorFigures, spread
from features.configuration import Configuration
from features.files import read_json
from features.releases import AUDIT, STAGING
from tests.scored_nights import (
    DIMENSION,
    about,
    configuration_at,
    publish_night,
    stage_night,
    tables,
    unit_vectors,
    write_scored,
)

NIGHT = dt.date(2026, 3, 1)
Columns = dict[str, dict[str, Any]]


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def refused_gates(report: AuditReport) -> set[tuple[str, str]]:
    return {(gate.table, gate.gate) for gate in report.gates if gate.decision == "refused"}


def test_a_good_night_passes_every_gate_and_leaves_its_audit(configuration: Configuration) -> None:
    release_id = stage_night(configuration, NIGHT)
    report = audit(configuration, release_id)
    assert report.refused == []
    assert {gate.gate for gate in report.gates} == {
        "schema", "row floor", "coverage", "numbers", "norm", "spread", "dimensions", "lists"
    }  # fmt: skip
    record = read_json(configuration.releases / STAGING / release_id / AUDIT)
    assert record["decision"] == "passed"
    assert AuditReport.of(record) == report
    assert any("no earlier release" in gate.sentence for gate in report.gates)


def nan_vector(columns: Columns) -> None:
    columns["karma_user_interest"]["interest_embedding"][3][2] = math.nan


def zero_vector(columns: Columns) -> None:
    columns["karma_item_embedding"]["item_embedding"][3][:] = 0.0


def long_vector(columns: Columns) -> None:
    columns["karma_item_embedding"]["item_embedding"][3][:] *= 1.01


def collapsed_space(columns: Columns) -> None:
    users = columns["karma_user_interest"]
    noise = 0.01 * unit_vectors(len(users["user_id"]), seed=5) + np.eye(DIMENSION)[0]
    users["interest_embedding"] = list(noise / np.linalg.norm(noise, axis=1, keepdims=True))


def dead_dimension(columns: Columns) -> None:
    rows = np.stack(columns["karma_user_interest"]["interest_embedding"])
    rows[:, 5] = 0.0
    columns["karma_user_interest"]["interest_embedding"] = list(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def key_twice(columns: Columns) -> None:
    columns["karma_user_interest"]["user_id"][4] = "user 5"


def long_key(columns: Columns) -> None:
    columns["karma_item_embedding"]["item_id"][4] = "x" * 129


def rising_scores(columns: Columns) -> None:
    columns["dicer_user_attraction"]["scores"][4] = [0.25, 0.5]


def score_above_one(columns: Columns) -> None:
    columns["dicer_user_attraction"]["scores"][4] = [1.5, 0.5]


def nan_score(columns: Columns) -> None:
    columns["dicer_user_attraction"]["scores"][4] = [math.nan, 0.5]


def item_twice(columns: Columns) -> None:
    columns["dicer_user_attraction"]["item_ids"][4] = ["item 1", "item 1"]


def score_missing(columns: Columns) -> None:
    columns["dicer_user_attraction"]["scores"][4] = [0.5]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (nan_vector, ("karma_user_interest", "numbers")),
        (zero_vector, ("karma_item_embedding", "numbers")),
        (long_vector, ("karma_item_embedding", "norm")),
        (collapsed_space, ("karma_user_interest", "spread")),
        (dead_dimension, ("karma_user_interest", "dimensions")),
        (key_twice, ("karma_user_interest", "schema")),
        (long_key, ("karma_item_embedding", "schema")),
        (rising_scores, ("dicer_user_attraction", "lists")),
        (score_above_one, ("dicer_user_attraction", "lists")),
        (nan_score, ("dicer_user_attraction", "numbers")),
        (item_twice, ("dicer_user_attraction", "lists")),
        (score_missing, ("dicer_user_attraction", "lists")),
    ],
)
def test_a_spoiled_night_is_refused_by_its_gate(
    configuration: Configuration, spoil: Callable[[Columns], None], expected: tuple[str, str]
) -> None:
    columns = tables()
    spoil(columns)
    report = audit(configuration, stage_night(configuration, NIGHT, columns))
    assert expected in refused_gates(report)
    assert {table for table, _ in refused_gates(report)} == {expected[0]}
    assert all(sentence.startswith(expected[0]) for sentence in report.refused)


def test_rows_are_compared_with_the_live_release(configuration: Configuration) -> None:
    live = publish_night(configuration, NIGHT, tables(users=20))
    fewer = stage_night(configuration, NIGHT + dt.timedelta(days=1), tables(users=15))
    report = audit(configuration, fewer)
    assert refused_gates(report) == {("karma_user_interest", "row floor"), ("dicer_user_attraction", "row floor")}
    assert any(f"75.0% of the 20 of {live}" in sentence for sentence in report.refused)
    enough = stage_night(configuration, NIGHT + dt.timedelta(days=1), tables(users=16))
    assert audit(configuration, enough).refused == []


def test_a_backfilled_night_is_not_compared_with_a_later_one(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT, tables(users=50))
    earlier = stage_night(configuration, NIGHT - dt.timedelta(days=1), tables(users=10))
    assert audit(configuration, earlier).refused == []


@pytest.mark.parametrize("expected", [None, 21, 19, 0])
def test_coverage_needs_the_expected_count(configuration: Configuration, expected: int | None) -> None:
    columns = tables(users=20)
    note = about(NIGHT, columns)
    if expected is None:
        del note["figures"]["users_expected"]
    else:
        note["figures"]["users_expected"] = expected
    scored = write_scored(configuration.scored / "night", columns)
    report = audit(configuration, release.stage(configuration, NIGHT, scored, note))
    assert refused_gates(report) == {("karma_user_interest", "coverage")}


def test_thresholds_come_from_the_configuration(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path, audit={"norm_tolerance": 0.1})
    columns = tables()
    long_vector(columns)
    assert audit(configuration, stage_night(configuration, NIGHT, columns)).refused == []


def test_an_empty_table_is_refused(configuration: Configuration) -> None:
    report = audit(configuration, stage_night(configuration, NIGHT, tables(items=0, users=3)))
    assert ("karma_item_embedding", "row floor") in refused_gates(report)


figure = st.one_of(st.floats(), st.integers(-5, 5))


@given(st.lists(figure, min_size=5, max_size=5), st.sampled_from(range(5)), st.sampled_from([math.nan, math.inf]))
@settings(max_examples=50, deadline=None)
def test_no_figure_that_is_not_a_number_passes(values: list[Any], place: int, poison: float) -> None:
    values[place] = poison
    vectors = VectorFigures(*values)
    figures = TableFigures(rows=5, bad_keys=0, repeated_keys=0, vectors={"v": vectors}, lists=ListFigures(0, 0, 0, 0))
    subject = Subject("karma_user_interest", figures, 5, None, None, AuditConfig())
    gates = [verdict for gate in GATES for verdict in gate(subject)]
    assert any(gate.decision == "refused" and gate.figure is None for gate in gates)


def test_spread_against_every_pair() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [units[i] @ units[j] for i in range(40) for j in range(40) if i != j]
    mean_cosine, smallest_std = spread(rows)
    assert mean_cosine == pytest.approx(np.mean(pairs), abs=1e-6)
    assert smallest_std == pytest.approx(units.std(axis=0).min(), rel=1e-5)
    assert all(math.isnan(value) for value in spread(rows[:1]))

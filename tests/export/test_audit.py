"""The audit refuses each kind of bad night by its own gate, says why, and never passes on a missing figure."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import release
from export.audit import AuditReport, audit
from export.gates import FAILED, GATES, NO_FIGURE, PASSED
from features.configuration import Configuration
from features.files import read_json, write_json
from features.releases import AUDIT, MANIFEST, STAGING
from tests.scored_nights import (
    DIMENSION,
    MIDDAY,
    about,
    configuration_at,
    publish_night,
    stage_night,
    tables,
    unit_vectors,
    write_scored,
)

ROOT = Path(__file__).resolve().parents[2]
NIGHT = dt.date(2026, 3, 2)
DAY = dt.timedelta(days=1)
USERS, ITEMS, LISTS = "karma_user_interest", "karma_item_embedding", "dicer_user_attraction"
Columns = dict[str, dict[str, Any]]
Note = dict[str, Any]


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def refused_gates(report: AuditReport) -> set[tuple[str, str]]:
    return {(gate.subject, gate.gate) for gate in report.gates if gate.decision != PASSED}


def stage_with(configuration: Configuration, columns: Columns, note: Mapping[str, Any]) -> str:
    scored = write_scored(configuration.scored / "night", columns)
    return release.stage(configuration, NIGHT, scored, note)


def test_a_first_night_passes_and_says_that_it_is_compared_with_nothing(configuration: Configuration) -> None:
    release_id = stage_night(configuration, NIGHT)
    report = audit(configuration, release_id)
    assert report.refused == []
    assert {gate.gate for gate in report.gates} == {gate.name for gate in GATES}
    record = read_json(configuration.releases / STAGING / release_id / AUDIT)
    assert record["decision"] == "passed"
    assert AuditReport.of(record) == report
    alone = {gate.gate for gate in report.gates if "nothing to compare with: no earlier release" in gate.sentence}
    assert alone == {
        "row floor", "coverage floor", "norm drift", "cosine drift", "dimension drift",
        "exposure rise", "score shift", "overlap", "overlap of a new model", "held-out quality",
    }  # fmt: skip
    assert all((gate.figure is None) == (gate.gate in alone) for gate in report.gates)


def test_a_second_night_is_compared_and_passes(configuration: Configuration) -> None:
    live = publish_night(configuration, NIGHT - DAY)
    report = audit(configuration, stage_night(configuration, NIGHT))
    assert report.refused == []
    assert (report.live, report.last) == (live, (live,))
    alone = {gate.gate for gate in report.gates if gate.figure is None}
    assert alone == {"overlap of a new model", "held-out quality"}
    assert all("by the same model" in gate.sentence for gate in report.gates if gate.gate in alone)


def nan_vector(columns: Columns, note: Note) -> None:
    columns[USERS]["interest_embedding"][3][2] = math.nan


def zero_vector(columns: Columns, note: Note) -> None:
    columns[ITEMS]["item_embedding"][3][:] = 0.0


def constant_vector(columns: Columns, note: Note) -> None:
    columns[ITEMS]["item_embedding"][3][:] = 1 / math.sqrt(DIMENSION)


def long_vector(columns: Columns, note: Note) -> None:
    columns[ITEMS]["item_embedding"][3][:] *= 1.01


def longer_vectors(columns: Columns, note: Note) -> None:
    columns[USERS]["interest_embedding"] = [row * np.float32(1.0008) for row in columns[USERS]["interest_embedding"]]


def collapsed_space(columns: Columns, note: Note) -> None:
    noise = 0.01 * unit_vectors(20, seed=5) + np.eye(DIMENSION)[0]
    columns[USERS]["interest_embedding"] = list(noise / np.linalg.norm(noise, axis=1, keepdims=True))


def dead_dimension(columns: Columns, note: Note) -> None:
    rows = np.stack(columns[USERS]["interest_embedding"])
    rows[:, 5] = 0.0
    columns[USERS]["interest_embedding"] = list(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def turned_vectors(columns: Columns, note: Note) -> None:
    columns[USERS]["interest_embedding"] = [-row for row in columns[USERS]["interest_embedding"]]


def moved_cloud(columns: Columns, note: Note) -> None:
    rows = np.stack(columns[USERS]["interest_embedding"]) + np.float32(0.6) * np.eye(DIMENSION, dtype=np.float32)[1]
    columns[USERS]["interest_embedding"] = list(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def key_twice(columns: Columns, note: Note) -> None:
    columns[USERS]["user_id"][4] = "user 5"


def long_key(columns: Columns, note: Note) -> None:
    columns[ITEMS]["item_id"][4] = "x" * 129


def fewer_rows(columns: Columns, note: Note) -> None:
    columns[USERS] = {name: values[:15] for name, values in columns[USERS].items()}
    note["figures"]["users_expected"] = 15


def expects(count: int) -> Callable[[Columns, Note], None]:
    def spoil(columns: Columns, note: Note) -> None:
        note["figures"]["users_expected"] = count

    return spoil


def old_events(columns: Columns, note: Note) -> None:
    note["figures"]["newest_event"] = dt.datetime.combine(NIGHT - 5 * DAY, MIDDAY).isoformat()


def rising_scores(columns: Columns, note: Note) -> None:
    columns[LISTS]["scores"][4] = [0.25, 0.5]


def score_above_one(columns: Columns, note: Note) -> None:
    columns[LISTS]["scores"][4] = [1.5, 0.5]


def nan_score(columns: Columns, note: Note) -> None:
    columns[LISTS]["scores"][4] = [math.nan, 0.5]


def item_twice(columns: Columns, note: Note) -> None:
    columns[LISTS]["item_ids"][4] = ["item 1", "item 1"]


def score_missing(columns: Columns, note: Note) -> None:
    columns[LISTS]["scores"][4] = [0.5]


def unknown_items(columns: Columns, note: Note) -> None:
    for number in range(4):
        columns[LISTS]["item_ids"][number] = ["item 0", "gone"]
        columns[LISTS]["scores"][number] = [0.75, 0.5]


def users_without_list(columns: Columns, note: Note) -> None:
    note["figures"]["users_known"] = 30


def surer_scores(columns: Columns, note: Note) -> None:
    columns[LISTS]["scores"] = [[0.99, 0.98, 0.97][: len(row)] for row in columns[LISTS]["scores"]]


def other_lists(columns: Columns, note: Note) -> None:
    columns[LISTS]["item_ids"] = [[f"item {9 + n}" for n in range(len(row))] for row in columns[LISTS]["item_ids"]]


def other_lists_of_another_model(columns: Columns, note: Note) -> None:
    other_lists(columns, note)
    note["models"]["dicer"] = "dicer-2"
    note["evidence"]["dicer"]["quality"] = {"mean": 0.0, "low": -0.1, "high": 0.1}


def one_item_for_all(columns: Columns, note: Note) -> None:
    columns[LISTS] |= {"item_ids": [["item 0"]] * 20, "scores": [[0.75]] * 20}


def parity_lost(columns: Columns, note: Note) -> None:
    note["evidence"]["dicer"]["parity"]["encoder.onnx"] = {"worst": 2e-4, "tolerance": 1e-4, "holds": False}


def worse_model(columns: Columns, note: Note) -> None:
    note["models"]["karma"] = "karma-2"
    note["evidence"]["karma"]["quality"] = {"mean": -0.02, "low": -0.03, "high": -0.01}


CASES: list[tuple[Callable[[Columns, Note], None], str, str, dict[str, Any]]] = [
    (key_twice, USERS, "unique keys", {}),
    (long_key, ITEMS, "valid keys", {}),
    (fewer_rows, USERS, "row floor", {}),
    (expects(25), USERS, "coverage", {}),
    (expects(19), USERS, "surplus", {}),
    (expects(21), USERS, "coverage floor", {"min_coverage": 0.5}),
    (old_events, "inputs", "freshness", {}),
    (nan_vector, USERS, "finite numbers", {}),
    (zero_vector, ITEMS, "zero vectors", {}),
    (constant_vector, ITEMS, "constant vectors", {}),
    (long_vector, ITEMS, "norm", {}),
    (longer_vectors, USERS, "norm drift", {"max_norm_drift": 5e-4}),
    (collapsed_space, USERS, "spread", {}),
    (dead_dimension, USERS, "dimensions", {}),
    (turned_vectors, USERS, "cosine drift", {}),
    (moved_cloud, USERS, "dimension drift", {}),
    (nan_score, LISTS, "finite scores", {}),
    (score_missing, LISTS, "whole lists", {}),
    (rising_scores, LISTS, "order", {}),
    (score_above_one, LISTS, "order", {}),
    (item_twice, LISTS, "distinct items", {}),
    (unknown_items, LISTS, "known items", {}),
    (users_without_list, LISTS, "users with a list", {}),
    (surer_scores, LISTS, "score shift", {}),
    (other_lists, LISTS, "overlap", {}),
    (other_lists_of_another_model, LISTS, "overlap of a new model", {}),
    (one_item_for_all, LISTS, "exposure", {"max_gini": 0.9}),
    (one_item_for_all, LISTS, "exposure rise", {}),
    (one_item_for_all, LISTS, "top items", {}),
    (parity_lost, "dicer", "parity", {}),
    (worse_model, "karma", "held-out quality", {}),
]


@pytest.mark.parametrize(("spoil", "subject", "gate", "config"), CASES)
def test_a_spoiled_night_is_refused_by_its_gate(
    tmp_path: Path, spoil: Callable[[Columns, Note], None], subject: str, gate: str, config: dict[str, Any]
) -> None:
    configuration = configuration_at(tmp_path, audit=config)
    publish_night(configuration, NIGHT - DAY)
    columns = tables(seed=7)
    note = about(NIGHT, columns)
    spoil(columns, note)
    report = audit(configuration, stage_with(configuration, columns, note))
    assert (subject, gate) in refused_gates(report)
    assert {name for name, _ in refused_gates(report)} == {subject}
    assert all(sentence.startswith(subject) for sentence in report.refused)


def test_a_part_that_stood_in_too_long_is_refused(configuration: Configuration) -> None:
    release_id = stage_night(configuration, NIGHT)
    manifest = configuration.releases / STAGING / release_id / MANIFEST
    for days, expected in ((3, set()), (4, {("karma", "standing part")})):
        standing = {"part": "karma", "release_id": "x", "date": (NIGHT - days * DAY).isoformat(), "views": []}
        write_json(manifest, read_json(manifest) | {"standing": standing})
        assert refused_gates(audit(configuration, release_id)) == expected


def test_every_gate_has_a_night_that_it_refuses() -> None:
    assert {case[2] for case in CASES} | {"standing part"} == {gate.name for gate in GATES}


def test_floors_look_back_on_the_largest_of_the_last_releases(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path, audit={"last_releases": 2})
    for number, users in enumerate((40, 24, 20)):
        night = NIGHT - (4 - number) * DAY
        reason = None if number == 0 else "fewer users, as announced"
        release_id = stage_night(configuration, night, tables(users=users, seed=number))
        release.publish(configuration, release_id, published_at=dt.datetime.combine(night, MIDDAY), force_reason=reason)
    report = audit(configuration, stage_night(configuration, NIGHT, tables(users=19, seed=9)))
    assert len(report.last) == 2
    floor = next(gate for gate in report.gates if (gate.subject, gate.gate) == (USERS, "row floor"))
    assert floor.figure == pytest.approx(19 / 24)
    assert floor.decision == FAILED


def test_a_backfilled_night_is_not_compared_with_a_later_one(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT, tables(users=50))
    earlier = stage_night(configuration, NIGHT - DAY, tables(users=10))
    assert audit(configuration, earlier).refused == []


def test_vectors_of_another_space_and_a_better_model_are_not_called_drift(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT - DAY)
    columns = tables(seed=7)
    turned_vectors(columns, {})
    note = about(NIGHT, columns, space_id="space-2")
    note["models"]["karma"] = "karma-2"
    note["evidence"]["karma"]["quality"] = {"mean": 0.01, "low": -0.01, "high": 0.03}
    report = audit(configuration, stage_with(configuration, columns, note))
    assert report.refused == []
    drift = next(gate for gate in report.gates if (gate.subject, gate.gate) == (USERS, "cosine drift"))
    assert "another embedding space, space-1" in drift.sentence


@pytest.mark.parametrize(
    ("place", "refused"),
    [
        (("figures", "users_expected"), (USERS, "coverage")),
        (("figures", "newest_event"), ("inputs", "freshness")),
        (("figures", "users_known"), (LISTS, "users with a list")),
        (("evidence", "karma"), ("karma", "parity")),
        (("evidence",), ("dicer", "parity")),
    ],
)
def test_what_scoring_did_not_say_refuses(
    configuration: Configuration, place: tuple[str, ...], refused: tuple[str, str]
) -> None:
    columns = tables()
    note = about(NIGHT, columns)
    here = note
    for step in place[:-1]:
        here = here[step]
    del here[place[-1]]
    report = audit(configuration, stage_with(configuration, columns, note))
    assert refused in refused_gates(report)
    assert {gate.decision for gate in report.gates if (gate.subject, gate.gate) == refused} == {NO_FIGURE}


def test_a_new_model_without_a_measured_quality_is_refused(configuration: Configuration) -> None:
    publish_night(configuration, NIGHT - DAY)
    columns = tables(seed=7)
    note = about(NIGHT, columns)
    note["models"]["dicer"] = "dicer-2"
    report = audit(configuration, stage_with(configuration, columns, note))
    assert refused_gates(report) == {("dicer", "held-out quality")}


def test_an_empty_table_is_refused(configuration: Configuration) -> None:
    report = audit(configuration, stage_night(configuration, NIGHT, tables(items=0, users=3)))
    assert (ITEMS, "row floor") in refused_gates(report)


def test_thresholds_come_from_the_configuration(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path, audit={"norm_tolerance": 0.1})
    columns = tables()
    long_vector(columns, {})
    assert audit(configuration, stage_night(configuration, NIGHT, columns)).refused == []

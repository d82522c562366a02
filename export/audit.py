"""The audit between staging and publication: small gates over figures, and a missing figure never passes.

A gate is one function of figures to one verdict; `GATES` below are all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from export.audit_figures import TableFigures, measure
from export.staging import directory_of, is_released, standing
from features.configuration import Configuration
from features.errors import ArtifactCorrupt
from features.files import write_json
from features.releases import AUDIT, MANIFEST, READY, RELEASES, open_release, read_object, read_pointer

PASSED, REFUSED = "passed", "refused"
EXPECTED = {
    "karma_user_interest": "users_expected",
    "karma_item_embedding": "items_expected",
    "dicer_user_attraction": "attraction_users_expected",
}
"""The figure of `scored.json` that says how many rows each table should have."""


@dataclass(frozen=True)
class AuditConfig:
    """What a night must show before it may be served."""

    min_rows_ratio: float = 0.8  # of the rows of the release before it
    min_coverage: float = 0.99  # of the users or items that should have a row
    norm_tolerance: float = 1e-3  # of unit vectors
    max_mean_cosine: float = 0.95  # of pairs of vectors: above it they all say the same
    min_dimension_std: float = 1e-4  # of the dimension that varies least: below it a dimension is dead
    sample: int = 1000  # vectors whose spread is measured
    seed: int = 0  # of that sample


@dataclass(frozen=True)
class Gate:
    """One verdict. `figure` is None if it is missing or not a number, and then the gate has refused."""

    gate: str
    table: str
    figure: float | None
    threshold: float
    decision: str
    sentence: str


@dataclass(frozen=True)
class Subject:
    """What the gates see of one table."""

    table: str
    figures: TableFigures
    expected_rows: int | None
    baseline: str | None  # the release to compare with
    baseline_rows: int | None
    config: AuditConfig


@dataclass(frozen=True)
class AuditReport:
    """Every verdict on one release, and what it was compared with."""

    release_id: str
    baseline: str | None
    config: AuditConfig
    gates: tuple[Gate, ...] = field(default=())

    @property
    def refused(self) -> list[str]:
        """The sentences of the gates that refused; empty if the release may be served."""
        return [gate.sentence for gate in self.gates if gate.decision != PASSED]

    def record(self) -> dict[str, Any]:
        """As the JSON of `audit.json`."""
        return {
            "release_id": self.release_id,
            "decision": REFUSED if self.refused or not self.gates else PASSED,
            "baseline": self.baseline,
            "config": asdict(self.config),
            "gates": [asdict(gate) for gate in self.gates],
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> AuditReport:
        """From the JSON of `audit.json`."""
        gates = tuple(Gate(**gate) for gate in record["gates"])
        return cls(record["release_id"], record["baseline"], AuditConfig(**record["config"]), gates)


def audit(configuration: Configuration, release_id: str) -> AuditReport:
    """Judge a staged release and leave `audit.json` beside it; the verdict on one already released stands.

    Raises MissingInput if there is no such release, ArtifactCorrupt if its files are not what was staged.
    """
    store = configuration.releases
    directory = directory_of(store, release_id)
    if is_released(store, release_id):
        return AuditReport.of(read_object(directory / AUDIT))
    report = judge(directory, configuration.section("audit", AuditConfig), baseline=_baseline(store, release_id))
    write_json(directory / AUDIT, report.record())
    return report


def standing_report(configuration: Configuration, release_id: str) -> AuditReport | None:
    """The report beside a release if it was made with the same thresholds against the same release."""
    store = configuration.releases
    directory = directory_of(store, release_id)
    if not (directory / AUDIT).is_file():
        return None
    report = AuditReport.of(read_object(directory / AUDIT))
    if is_released(store, release_id):
        return report
    baseline = _baseline(store, release_id)
    same = report.config == configuration.section("audit", AuditConfig)
    return report if same and report.baseline == (baseline.name if baseline else None) else None


def judge(directory: Path, config: AuditConfig, *, baseline: Path | None) -> AuditReport:
    """Every gate's verdict on the release in `directory`, compared with the one in `baseline`."""
    release = open_release(directory)
    before = read_object(baseline / MANIFEST)["views"] if baseline else {}
    gates: list[Gate] = []
    for view, table in release.tables.items():
        subject = Subject(
            table=view,
            figures=measure(table, sample=config.sample, seed=config.seed),
            expected_rows=release.manifest["figures"].get(EXPECTED[view]),
            baseline=baseline.name if baseline else None,
            baseline_rows=before[view]["rows"] if baseline else None,
            config=config,
        )
        gates.extend(verdict for gate in GATES for verdict in gate(subject))
    return AuditReport(release.release_id, baseline.name if baseline else None, config, tuple(gates))


def schema(subject: Subject) -> Iterator[Gate]:
    """Keys that identify a row. Columns, types and nulls were refused by `stage` and are checked again on opening."""
    figures = subject.figures
    what = f"{figures.repeated_keys} repeated and {figures.bad_keys} empty or overlong keys"
    yield _at_most("schema", subject, figures.repeated_keys + figures.bad_keys, 0, what)


def row_floor(subject: Subject) -> Iterator[Gate]:
    """Not far fewer rows than the release before; without one, at least one row."""
    rows = subject.figures.rows
    if subject.baseline is None or not subject.baseline_rows:
        yield _at_least("row floor", subject, rows, 1, f"{rows} rows, no earlier release to compare with")
        return
    ratio = rows / subject.baseline_rows
    what = f"{rows} rows, {ratio:.1%} of the {subject.baseline_rows} of {subject.baseline}"
    yield _at_least("row floor", subject, ratio, subject.config.min_rows_ratio, what)


def coverage(subject: Subject) -> Iterator[Gate]:
    """A row for everything that should have one, and for nothing else."""
    rows, expected = subject.figures.rows, subject.expected_rows
    if expected is None:
        what = f"{rows} rows, and scored.json does not say how many there should be ({EXPECTED[subject.table]})"
        yield _at_least("coverage", subject, None, subject.config.min_coverage, what)
        return
    share = rows / expected if expected else math.nan
    what = f"{rows} rows where {expected} should be"
    yield _at_least("coverage", subject, share, subject.config.min_coverage, what)
    if rows > expected:
        yield _at_most("coverage", subject, share, 1.0, what)


def numbers(subject: Subject) -> Iterator[Gate]:
    """No vector or score list with a NaN or an infinity, no vector of zeros."""
    for name, vectors in subject.figures.vectors.items():
        what = f"{name}: {vectors.not_finite} vectors with NaN or infinity, {vectors.zero} of zeros"
        yield _at_most("numbers", subject, vectors.not_finite + vectors.zero, 0, what)
    if subject.figures.lists is not None:
        broken = subject.figures.lists.not_finite
        yield _at_most("numbers", subject, broken, 0, f"{broken} lists with a score that is NaN or infinite")


def norm(subject: Subject) -> Iterator[Gate]:
    """Embeddings of unit length."""
    for name, vectors in subject.figures.vectors.items():
        what = f"{name}: lengths differ from 1 by at most {vectors.norm_error:.1e}"
        yield _at_most("norm", subject, vectors.norm_error, subject.config.norm_tolerance, what)


def spread(subject: Subject) -> Iterator[Gate]:
    """Embeddings that tell rows apart: a collapsed space points one way, or does not use its dimensions."""
    config = subject.config
    for name, vectors in subject.figures.vectors.items():
        what = f"{name}: mean cosine of pairs {vectors.mean_cosine:.3f}"
        yield _at_most("spread", subject, vectors.mean_cosine, config.max_mean_cosine, what)
        what = f"{name}: the dimension that varies least has standard deviation {vectors.smallest_std:.1e}"
        yield _at_least("dimensions", subject, vectors.smallest_std, config.min_dimension_std, what)


def lists(subject: Subject) -> Iterator[Gate]:
    """Ranked lists as contracted: a score an item, best first, no item twice."""
    figures = subject.figures.lists
    if figures is not None:
        what = (
            f"{figures.uneven} lists empty or without a score an item, {figures.out_of_order} not falling within "
            f"[0, 1], {figures.repeated} with an item twice"
        )
        yield _at_most("lists", subject, figures.uneven + figures.out_of_order + figures.repeated, 0, what)


GATES: tuple[Callable[[Subject], Iterator[Gate]], ...] = (schema, row_floor, coverage, numbers, norm, spread, lists)


def _at_least(gate: str, subject: Subject, figure: float | None, threshold: float, what: str) -> Gate:
    holds = figure is not None and math.isfinite(figure) and figure >= threshold
    return _verdict(gate, subject, figure, threshold, f"{what}; at least {threshold:g} asked", holds=holds)


def _at_most(gate: str, subject: Subject, figure: float | None, threshold: float, what: str) -> Gate:
    holds = figure is not None and math.isfinite(figure) and figure <= threshold
    return _verdict(gate, subject, figure, threshold, f"{what}; at most {threshold:g} allowed", holds=holds)


def _verdict(
    gate: str, subject: Subject, figure: float | None, threshold: float, sentence: str, *, holds: bool
) -> Gate:
    known = float(figure) if figure is not None and math.isfinite(figure) else None
    return Gate(gate, subject.table, known, threshold, PASSED if holds else REFUSED, f"{subject.table}: {sentence}")


def _baseline(store: Path, release_id: str) -> Path | None:
    """The live release, or where that is of a later night, the newest released one that is not; None if there is none.

    A backfilled night is thus not measured against a later one that knew more users.
    """
    pointer = read_pointer(store)
    day = release_id[:10]
    if pointer is not None and pointer.release_id != release_id and pointer.release_id[:10] <= day:
        return _complete(store / RELEASES / pointer.release_id)
    earlier = [name for name in standing(store / RELEASES, READY) if name[:10] <= day and name != release_id]
    return store / RELEASES / earlier[-1] if earlier else None


def _complete(directory: Path) -> Path:
    if not (directory / READY).is_file():
        raise ArtifactCorrupt(f"{directory} is live but not complete")
    return directory

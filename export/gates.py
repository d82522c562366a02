"""The audit's gates: what a release must show before it may be served, and the verdicts on figures.

A gate is a figure, a threshold from `[audit]` and a direction. `verdicts` is a pure function of figures: one that is
missing or not a number never passes. `GATES` are all there are; `docs/audit.md` lists them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

PASSED, FAILED, NO_FIGURE = "passed", "failed", "no figure"

KARMA, DICER = "karma", "dicer"
PARTS: Mapping[str, tuple[str, ...]] = {
    KARMA: ("karma_user_interest", "karma_item_embedding"),
    DICER: ("dicer_user_attraction",),
}
"""The tables that each model makes; a release can be composed of one model's night and the other's standing one."""

Kind = Literal["table", "vectors", "lists", "model", "inputs"]


@dataclass(frozen=True)
class AuditConfig:
    """What a night must show before it may be served: the thresholds of `GATES`, and how figures are taken."""

    max_repeated_keys: int = 0  # keys that are there more than once
    max_bad_keys: int = 0  # keys that are empty or too long
    min_rows_ratio: float = 0.8  # of the most rows that one of the last releases had
    min_coverage: float = 0.99  # of the users or items that should have a row
    max_coverage: float = 1.0  # above it there are rows of nobody
    min_coverage_ratio: float = 0.99  # of the best coverage that one of the last releases had
    max_input_age_days: float = 3.0  # from the newest event to the night's midnight
    max_part_age_days: float = 3.0  # of a part that stands in for a refused one
    max_not_finite: int = 0  # vectors, or lists, with NaN or infinity
    max_zero_vectors: int = 0  # vectors of nothing but zeros
    max_constant_vectors: int = 0  # vectors of one number again and again
    norm_tolerance: float = 1e-3  # of unit vectors
    max_norm_drift: float = 1e-3  # of the mean length, as a share of the live release's
    max_mean_cosine: float = 0.95  # of pairs of vectors: above it they all say the same
    min_dimension_std: float = 1e-4  # of the dimension that varies least: below it a dimension is dead
    min_live_cosine: float = 0.5  # mean over users or items, of the vector now and in the live release
    max_dimension_drift: float = 0.5  # standard deviations that a dimension's mean may move
    max_broken_lists: int = 0  # lists that are uneven, out of order, or name an item twice
    max_unknown_items: float = 0.05  # share of list places; a standing catalogue lacks tonight's new items
    min_users_with_list: float = 0.9  # of all users known
    max_score_shift: float = 0.25  # population stability index: by custom 0.1 is a shift, 0.25 a large one
    min_list_overlap: float = 0.3  # with the same user's list in the live release, the same model
    min_list_overlap_new_model: float = 0.05  # the same where another model made it
    max_gini: float = 0.995  # of exposures over the catalogue; 0 all alike, 1 all to one item
    max_gini_rise: float = 0.05  # against the live release
    max_top_items_share: float = 0.9  # of exposures that go to the most exposed 1 % of items
    max_parity_ratio: float = 1.0  # worst difference of ONNX Runtime from torch, as a share of its tolerance
    min_quality_change: float = 0.0  # upper end of the interval of the change against the champion before it
    last_releases: int = 7  # how many the floors look back on
    compose: bool = True  # a refused part gives way to the live release's, if that release passes
    sample: int = 1000  # vectors or lists that are compared one by one
    seed: int = 0  # of that sample

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or (value < 0 and field.name not in {"min_quality_change", "min_live_cosine"}):
                raise ValueError(f"{field.name}: expected a finite number, not negative, got {value}")
        if self.last_releases < 1 or self.sample < 2:
            raise ValueError(f"expected last_releases >= 1 and sample >= 2, got {self.last_releases} and {self.sample}")


@dataclass(frozen=True)
class Gate:
    """One question asked of every subject of a kind: is `figure` at least, or at most, the setting `threshold`?"""

    name: str
    kind: Kind
    figure: str
    direction: Literal["at least", "at most"]
    threshold: str
    why: str


@dataclass(frozen=True)
class Subject:
    """What is judged: a table, a model or the inputs, the part of the night it belongs to, and its figures.

    A figure that compares with something that is not there stands in `alone` instead, with the reason.
    """

    name: str
    parts: tuple[str, ...]
    kinds: tuple[Kind, ...]
    figures: Mapping[str, float | None]
    alone: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """One gate's decision on one subject. `figure` is None if there is none: missing, or nothing to compare with."""

    gate: str
    subject: str
    parts: tuple[str, ...]
    figure: float | None
    threshold: float
    decision: str
    sentence: str


GATES: tuple[Gate, ...] = (
    Gate("unique keys", "table", "repeated_keys", "at most", "max_repeated_keys",
         "a key that is there twice has two answers"),
    Gate("valid keys", "table", "bad_keys", "at most", "max_bad_keys",
         "nobody asks for an empty key, and one beyond the contract's length is a fault of the source"),
    Gate("row floor", "table", "rows_ratio", "at least", "min_rows_ratio",
         "a night with far fewer rows than the largest of the last releases lost users or items on the way"),
    Gate("coverage", "table", "coverage", "at least", "min_coverage",
         "whoever should have a row and has none is not served"),
    Gate("surplus", "table", "coverage", "at most", "max_coverage",
         "a row for whom the feature tables do not know is of somebody who left, or made up"),
    Gate("coverage floor", "table", "coverage_ratio", "at least", "min_coverage_ratio",
         "coverage that was better in one of the last releases shows a loss that a fixed floor lets through"),
    Gate("freshness", "inputs", "input_age_days", "at most", "max_input_age_days",
         "a night over old events looks new and is not"),
    Gate("standing part", "model", "part_age_days", "at most", "max_part_age_days",
         "a part that stands in for a refused one must not do so for ever"),
    Gate("finite numbers", "vectors", "not_finite", "at most", "max_not_finite",
         "a vector with NaN or infinity poisons every product it enters"),
    Gate("zero vectors", "vectors", "zero", "at most", "max_zero_vectors",
         "a vector of zeros likes everything alike"),
    Gate("constant vectors", "vectors", "constant", "at most", "max_constant_vectors",
         "a vector whose numbers are all the same was not learned"),
    Gate("norm", "vectors", "norm_error", "at most", "norm_tolerance",
         "embeddings are promised to be of unit length, so that a product is a cosine"),
    Gate("norm drift", "vectors", "norm_drift", "at most", "max_norm_drift",
         "lengths that change from night to night change every threshold that consumers keep"),
    Gate("spread", "vectors", "mean_cosine", "at most", "max_mean_cosine",
         "a collapsed space points one way and tells nobody apart"),
    Gate("dimensions", "vectors", "smallest_std", "at least", "min_dimension_std",
         "a dimension that does not vary is dead"),
    Gate("cosine drift", "vectors", "live_cosine", "at least", "min_live_cosine",
         "within one space a user or an item does not turn round overnight"),
    Gate("dimension drift", "vectors", "dimension_drift", "at most", "max_dimension_drift",
         "within one space the whole cloud of vectors does not move overnight"),
    Gate("finite scores", "lists", "not_finite", "at most", "max_not_finite",
         "a list with a score that is NaN or infinite has no order"),
    Gate("whole lists", "lists", "uneven", "at most", "max_broken_lists",
         "a list has a score an item and at least one of them"),
    Gate("order", "lists", "out_of_order", "at most", "max_broken_lists",
         "lists are promised best first with scores within [0, 1]"),
    Gate("distinct items", "lists", "repeated", "at most", "max_broken_lists",
         "an item twice in one list takes another's place"),
    Gate("known items", "lists", "unknown_items", "at most", "max_unknown_items",
         "a recommended item that the release does not know cannot be shown"),
    Gate("users with a list", "lists", "users_with_list", "at least", "min_users_with_list",
         "a user without a list gets nothing, however right that is for each of them"),
    Gate("score shift", "lists", "score_shift", "at most", "max_score_shift",
         "scores of the same model that are distributed otherwise come from other inputs"),
    Gate("overlap", "lists", "list_overlap", "at least", "min_list_overlap",
         "the same model changes its lists by what is new, not from the ground up"),
    Gate("overlap of a new model", "lists", "list_overlap_new_model", "at least", "min_list_overlap_new_model",
         "even another model agrees with the one before it on something"),
    Gate("exposure", "lists", "gini", "at most", "max_gini",
         "a night that shows the same few items to everybody has collapsed"),
    Gate("exposure rise", "lists", "gini_rise", "at most", "max_gini_rise",
         "what is acceptable of one market is a collapse of another, so that the night before counts too"),
    Gate("top items", "lists", "top_items_share", "at most", "max_top_items_share",
         "the most exposed 1 % of items must leave something to the others"),
    Gate("parity", "model", "parity_ratio", "at most", "max_parity_ratio",
         "the graph that scored the night must compute what was trained and measured"),
    Gate("held-out quality", "model", "quality_change", "at least", "min_quality_change",
         "a model that is worse than the one before it beyond chance must not replace it"),
)  # fmt: skip


def verdicts(subjects: Iterable[Subject], config: AuditConfig) -> Iterator[Verdict]:
    """Every gate's verdict on every subject of its kind; subjects in their order, gates in theirs."""
    for subject in subjects:
        for gate in GATES:
            if gate.kind in subject.kinds:
                yield _verdict(gate, subject, float(getattr(config, gate.threshold)))


def _verdict(gate: Gate, subject: Subject, threshold: float) -> Verdict:
    came = subject.figures.get(gate.figure)
    figure = float(came) if came is not None and math.isfinite(came) else None
    asked = f"{gate.direction} {threshold:g} asked ({gate.threshold})"
    if figure is None and gate.figure in subject.alone:
        decision, told = PASSED, f"nothing to compare with: {subject.alone[gate.figure]}"
    elif figure is None:
        decision, told = NO_FIGURE, f"{gate.figure} is missing or not a number; {asked}"
    else:
        holds = figure >= threshold if gate.direction == "at least" else figure <= threshold
        decision, told = PASSED if holds else FAILED, f"{gate.figure} {figure:.6g}, {asked}"
    sentence = f"{subject.name}, {gate.name}: {told}"
    return Verdict(gate.name, subject.name, subject.parts, figure, threshold, decision, sentence)

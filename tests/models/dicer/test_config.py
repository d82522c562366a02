"""Settings out of range are refused by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import pytest

from models.dicer.config import NAMED, DicerConfig, dicer_tiny, paper

# What each ablation of the paper takes away; everything else is the whole model's.
ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "dicer": {},
    "layers_3": {},
    "layers_2": {"layers": 2},
    "layers_1": {"layers": 1},
    "no_gnn": {"layers": 0},
    "gat": {"encoder": "gat"},
    "no_item_similarity": {"item_similarity": False},
    "no_user_similarity": {"user_similarity": False},
    "no_social": {"social": False},
    "no_relations": {"item_similarity": False, "user_similarity": False, "social": False},
    "no_user_interest": {"user_interest": False},
    "no_item_attraction": {"item_attraction": False},
    "attention_instead_of_modulation": {"modulation": "attention", "fanout": 16},
}


def test_named_configurations() -> None:
    assert paper().width == 256
    assert paper().users_per_step * (1 + paper().negatives) == 4 * 4095
    assert dicer_tiny().width == 8


def test_an_ablation_differs_from_the_whole_model_in_what_it_is_named_after() -> None:
    assert set(ABLATIONS) | {"dicer_plus"} == set(NAMED)
    whole = dataclasses.asdict(paper())
    for name, expected in ABLATIONS.items():
        told = dataclasses.asdict(NAMED[name]())
        assert {setting: value for setting, value in told.items() if value != whole[setting]} == expected, name


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dimension", 0),
        ("layers", -1),
        ("dropout", 1.0),
        ("head_weights", (0.5, 0.5, 0.5)),
        ("negatives", 0),
        ("learning_rate", -1.0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("likeness_learning_rate", math.inf),
        ("temperature", 0.0),
        ("temperature", math.nan),
        ("correction", math.inf),
        ("weight_decay", -1.0),
        ("focal_gamma", -1.0),
        ("focal_alpha", 2.0),
        ("collaborative_layers", -2),
    ],
)
def test_refused(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting):
        DicerConfig(**{setting: value})  # type: ignore[arg-type]

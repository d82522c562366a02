"""Settings out of range are refused by name."""

from __future__ import annotations

import math

import pytest

from models.dicer.config import DicerConfig, dicer_tiny, paper


def test_named_configurations() -> None:
    assert paper().width == 256
    assert paper().users_per_step * (1 + paper().negatives) == 4 * 4095
    assert dicer_tiny().width == 8


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
        ("weight_decay", -1.0),
        ("focal_gamma", -1.0),
        ("focal_alpha", 2.0),
        ("collaborative_layers", -2),
    ],
)
def test_refused(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting):
        DicerConfig(**{setting: value})  # type: ignore[arg-type]

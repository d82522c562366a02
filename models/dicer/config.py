"""DICER's settings, and the named configurations: functions that return a whole one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DicerConfig:
    """Sizes, loss and schedule. Raises ValueError if a setting is out of its range."""

    dimension: int = 32  # d, of a base embedding
    layers: int = 2  # L; an encoded node has (L + 1) * d numbers
    hidden: int = 32  # s, the last layer of each head
    dropout: float = 0.0
    head_weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)  # λ of r_O, r_U, r_I; they sum to 1
    loss: Literal["cross_entropy", "focal"] = "focal"  # learns faster here: models/LOG.md
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    users_per_step: int = 128  # a step draws users by activity,
    positives_per_user: int = 4  # positives of each,
    negatives: int = 4  # and items that the user has not had for each positive
    steps: int = 400
    learning_rate: float = 0.015
    weight_decay: float = 1e-5
    validate_every: int = 50
    patience: int = 4
    validation_users: int = 200  # at most so many, drawn once, judge a step; the reported metrics take all

    def __post_init__(self) -> None:
        positive = ("dimension", "hidden", "users_per_step", "positives_per_user", "negatives", "steps")
        for name in (*positive, "validate_every", "patience", "validation_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"dicer {name} must be at least 1, got {getattr(self, name)}")
        if self.layers < 0:
            raise ValueError(f"dicer layers must be at least 0, got {self.layers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dicer dropout must be in [0, 1), got {self.dropout}")
        if min(self.head_weights) < 0 or not math.isclose(sum(self.head_weights), 1, abs_tol=1e-6):
            raise ValueError(f"dicer head_weights must be at least 0 and sum to 1, got {self.head_weights}")

    @property
    def width(self) -> int:
        """D, the size of an encoded node."""
        return (self.layers + 1) * self.dimension


def paper() -> DicerConfig:
    """The sizes and the schedule of the paper, section 4.1."""
    return DicerConfig(
        dimension=64,
        layers=3,
        hidden=48,
        dropout=0.5,
        loss="cross_entropy",
        users_per_step=1024,  # × 4 positives = its batch of 4,096
        negatives=8,
        learning_rate=1e-3,
        steps=5000,
    )


def dicer_tiny() -> DicerConfig:
    """For tests: learns a toy world in a second."""
    return DicerConfig(
        dimension=4,
        layers=1,
        hidden=4,
        dropout=0.0,
        users_per_step=16,
        positives_per_user=2,
        negatives=2,
        steps=40,
        learning_rate=0.02,
        validate_every=10,
    )

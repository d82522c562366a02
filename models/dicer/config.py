"""DICER's settings, and the named configurations: functions that return a whole one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

FriendFusion = Literal["sum", "mean"]


@dataclass(frozen=True)
class DicerConfig:
    """Parts, sizes, loss and schedule. Raises ValueError if a setting is out of its range."""

    dimension: int = 32  # d, of a base embedding
    layers: int = 2  # L; an encoded node has (L + 1) * d numbers
    hidden: int = 32  # s, the last layer of each head
    dropout: float = 0.0  # inside the heads, while it trains
    base: Literal["unit", "xavier"] = "unit"  # base rows start at about unit length, or as Xavier's uniform
    encoder: Literal["relation", "gat"] = "relation"  # a convolution for each relation, or graph attention
    social: bool = True  # friends, in the encoder and in the modulation
    user_similarity: bool = True  # whether similar users are heard (eq. 1)
    item_similarity: bool = True  # whether similar items are heard (eq. 1)
    # By the extremes of a sum, exactly, or by attention instead
    modulation: Literal["extremes", "attention"] = "extremes"
    friend_fusion: FriendFusion = "sum"  # the paper's x_ui; the authors run the mean of the two terms
    user_interest: bool = True  # the head r_U
    item_attraction: bool = True  # the head r_I
    head_weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)  # λ of r_O, r_U, r_I; they sum to 1
    loss: Literal["cross_entropy", "focal"] = "focal"  # learns faster here: models/LOG.md
    focal_gamma: float = 2.0  # how much less an easy pair counts
    focal_alpha: float = 0.25  # weight of a positive; a negative has the rest
    collaborative_layers: int | None = None  # K, of the likeness that `dicer_plus` adds; None does without
    correction: float = 0.5  # what the heads' logits count for beside it
    temperature: float = 0.15  # of the likeness, which learns first and alone:
    likeness_pairs: int = 4096  # training pairs a step,
    shared_negatives: int = 2048  # and items that all of them are held against
    likeness_steps: int = 3000  # at most,
    likeness_learning_rate: float = 0.01  # and their learning rate
    users_per_step: int = 128  # a step draws users by activity,
    positives_per_user: int = 4  # positives of each,
    negatives: int = 4  # and items that the user has not had for each positive
    steps: int = 400  # at most
    learning_rate: float = 0.015  # the highest
    weight_decay: float = 1e-5  # of AdamW
    validate_every: int = 50  # steps
    patience: int = 4  # validations without a gain, after which training ends
    validation_users: int = 200  # at most so many, drawn once, judge a step; the reported metrics take all
    fanout: int | None = None  # neighbours, friends and entries of a list drawn in a training step; None hears all
    device: Literal["cpu", "cuda"] = "cpu"  # where it trains
    precision: Literal["float32", "bfloat16"] = "float32"  # of the heads' products; the encoder is float32

    def __post_init__(self) -> None:
        positive = (
            "dimension",
            "hidden",
            "users_per_step",
            "positives_per_user",
            "negatives",
            "steps",
            "likeness_pairs",
            "shared_negatives",
            "likeness_steps",
        )
        for name in (*positive, "validate_every", "patience", "validation_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"dicer {name} must be at least 1, got {getattr(self, name)}")
        if self.layers < 0:
            raise ValueError(f"dicer layers must be at least 0, got {self.layers}")
        if self.fanout is not None and self.fanout < 1:
            raise ValueError(f"dicer fanout must be at least 1 or left out, got {self.fanout}")
        for name in ("learning_rate", "likeness_learning_rate", "temperature", "correction"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"dicer {name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("weight_decay", "focal_gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"dicer {name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.focal_alpha <= 1:
            raise ValueError(f"dicer focal_alpha must be in [0, 1], got {self.focal_alpha}")
        if self.collaborative_layers is not None and self.collaborative_layers < 0:
            raise ValueError(f"dicer collaborative_layers must be at least 0, got {self.collaborative_layers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dicer dropout must be in [0, 1), got {self.dropout}")
        if min(self.head_weights) < 0 or not math.isclose(sum(self.head_weights), 1, abs_tol=1e-6):
            raise ValueError(f"dicer head_weights must be at least 0 and sum to 1, got {self.head_weights}")
        if self.fanout is not None and self.collaborative_layers is not None:
            raise ValueError("dicer fanout does not go with collaborative_layers, which hear the whole graph")
        if not any(self.active_weights):
            raise ValueError(f"dicer head_weights {self.head_weights} leave no weight to the heads that are on")

    @property
    def width(self) -> int:
        """D, the size of an encoded node."""
        return (self.layers + 1) * self.dimension

    @property
    def base_widths(self) -> tuple[int, int]:
        """Lengths of a user's and of an item's base row: d for the encoder, then what a likeness has of its own."""
        own = 0 if self.collaborative_layers is None else self.dimension
        return self.dimension + own, self.dimension + own + (own > 0)

    @property
    def active_weights(self) -> tuple[float, ...]:
        """λ of the heads that are on, in the order r_O, r_U, r_I; they sum to 1, or are all 0.

        Beside a likeness they sum to `correction`.
        """
        on = (True, self.user_interest, self.item_attraction)
        kept = [weight for weight, active in zip(self.head_weights, on, strict=True) if active]
        whole = 1.0 if self.collaborative_layers is None else self.correction
        return tuple(whole * weight / (sum(kept) or 1.0) for weight in kept)


def paper() -> DicerConfig:
    """The sizes of the paper, section 4.1; the loss is that of the authors' program.

    Its rate of 1e-3 for 4,096 pairs a step became three times that for four times as many.
    """
    return DicerConfig(
        dimension=64,
        layers=3,
        hidden=48,
        dropout=0.5,
        base="xavier",
        users_per_step=1820,  # × 9 pairs: four of its batches of 4,096 at once, an epoch in two thirds of the time
        positives_per_user=1,
        negatives=8,
        learning_rate=3e-3,
        steps=5000,
        validate_every=25,
        validation_users=600,
    )


def dicer_plus() -> DicerConfig:
    """The better variant: the heads correct a likeness learned from the interaction graph (models/LOG.md)."""
    return DicerConfig(
        dimension=64,
        layers=1,
        hidden=48,
        dropout=0.2,
        collaborative_layers=2,
        users_per_step=455,
        positives_per_user=1,
        learning_rate=5e-3,
        weight_decay=0.0,
        temperature=0.2,
        steps=400,
        validate_every=100,
        validation_users=600,
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


NAMED: Mapping[str, Callable[[], DicerConfig]] = {
    "dicer": paper,
    "dicer_plus": dicer_plus,
    "no_item_similarity": lambda: replace(paper(), item_similarity=False),
    "no_user_similarity": lambda: replace(paper(), user_similarity=False),
    "no_social": lambda: replace(paper(), social=False),
    "no_relations": lambda: replace(paper(), item_similarity=False, user_similarity=False, social=False),
    "attention_instead_of_modulation": lambda: replace(paper(), modulation="attention", fanout=16),
    "no_gnn": lambda: replace(paper(), layers=0),
    "gat": lambda: replace(paper(), encoder="gat"),
    "layers_1": lambda: replace(paper(), layers=1),
    "layers_2": lambda: replace(paper(), layers=2),
    "layers_3": paper,
    "no_user_interest": lambda: replace(paper(), user_interest=False),
    "no_item_attraction": lambda: replace(paper(), item_attraction=False),
}
"""The model of the paper and each of its ablations (Fu et al., WWW 2021, tables 3-5 and figure 4), by name."""

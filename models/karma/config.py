"""KARMA's settings, and the named configurations that switch its objectives. Imports no torch: the night reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

_COUNTS = (
    *("vocabulary", "query_tokens", "history_item_tokens", "item_tokens", "compressed_tokens"),
    *("lora_rank", "lora_alpha"),
    *("layers", "hidden", "heads", "feedforward", "embedding", "soft_tokens", "decoded_positions"),
    *("accumulation", "pretraining_batch", "validate_every", "patience", "validation_users", "targets_per_user"),
)
_SHARES = (
    *("dropout", "id_dropout", "query_dropout", "history_tolerance", "final_share"),
    *("lora_dropout", "regulariser_decay", "backbone_learning_share"),
)
_NOT_NEGATIVE = (
    *("lambda_generation", "lambda_reconstruction", "lambda_picture", "lambda_matching", "weight_decay"),
    *("popularity_negatives", "category_negatives", "pretraining_steps", "compression_steps", "steps"),
    *("id_min_events", "target_min_users"),
)


@dataclass(frozen=True)
class KarmaConfig:
    """Everything that a training run and a night depend on, apart from data and seed."""

    # Text: budgets in tokens
    vocabulary: int = 2000  # of the built-in model's tokenizer, which is trained on the catalogue
    sequence_tokens: int = 160  # a whole history; older events are dropped first
    query_tokens: int = 4  # a query inside a history
    history_item_tokens: int = 8  # an item inside a history
    item_tokens: int = 20  # an item on its own, and the semantic text to decode
    history_text: Literal["title", "text"] = "title"  # what stands for an item inside a history
    # An event's query and item: their words, or soft tokens; auto trains both and keeps the faster compressed one
    # wherever it does not lose more than `history_tolerance`.
    history: Literal["tokens", "compressed", "auto"] = "tokens"
    history_tolerance: float = 0.01  # share of the words' HR@50 in validation
    compressed_tokens: int = 1  # soft tokens that stand for an item, or a query, in a compressed history
    compressed_sequence_tokens: int = 64  # the budget of a compressed history, as sequence_tokens

    # Language model: the built-in one (`layers` to `feedforward` below), or a pre-trained one with its own tokenizer
    backbone: str = ""  # a directory, or an id on the hub, of a causal language model; empty: the built-in one
    backbone_revision: str = "main"  # on the hub: a branch, a tag or, to be repeatable, a commit
    adaptation: Literal["full", "lora", "frozen"] = "full"  # what of a pre-trained one learns
    backbone_learning_share: float = 1.0  # of the learning rates, for the language model alone
    lora_rank: int = 16  # width of the low-rank corrections
    lora_alpha: int = 32  # corrections are scaled by alpha / rank
    lora_dropout: float = 0.05  # of what the corrections read
    lora_modules: str = "all-linear"  # or names of linear layers with commas: q_proj,v_proj

    # Network
    layers: int = 2  # of the built-in language model, as the three below
    hidden: int = 96  # width of a token's state
    heads: int = 4  # of attention
    feedforward: int = 192  # width between the two products of a layer
    embedding: int = 64  # width of the published vectors
    dropout: float = 0.1  # while it trains
    id_embedding: bool = True  # whether an item has a vector of its own beside its text
    id_dropout: float = 0.3  # share of items shown without their id, so that cold items work
    id_min_events: int = 3  # rarer items have no id embedding: nothing would train it

    # Objectives
    lambda_generation: float = 0.3  # weight of writing the next item's text from the history
    lambda_reconstruction: float = 0.3  # weight of writing it from the interest embedding
    lambda_picture: float = 0.0  # weight of telling its picture from the interest embedding
    regulariser_decay: float = 1.0  # share of every λ that is left at the last step; they fall linearly
    reconstruction_decoder: Literal["shared", "frozen"] = "shared"  # frozen: only P and z can learn
    target_min_users: int = 2  # a rarer target's text may come from the very event: finding it would be copying
    soft_tokens: int = 2  # P(z)
    decoded_positions: int = 2  # positions of a sequence that generate and reconstruct

    # Batches
    batch: int = 32  # sequences; negatives are of the same batch
    accumulation: int = 1  # batches a step; processes of torchrun share them
    query_dropout: float = 0.3  # share of queries hidden while it trains
    popularity_negatives: int = 64  # drawn by (events + 1)^0.75
    category_negatives: int = 32  # of the category of a target

    # Arithmetic
    device: Literal["cpu", "cuda"] = "cpu"  # where it trains
    precision: Literal["float32", "bfloat16"] = "float32"  # of the language model's products while it trains
    gradient_checkpointing: bool = False  # states are computed twice and kept once

    # Loops
    pretraining_steps: int = 500  # on the texts of items and queries, before the objectives
    compression_steps: int = 1200  # of pre-training in addition, until soft tokens can say their text
    pretraining_batch: int = 128  # texts of a pre-training step, and items to match
    pretraining_learning_rate: float = 1e-3  # the highest
    lambda_matching: float = 1.0  # weight, in pre-training, of finding an item by words of its text
    steps: int = 400  # at most, of the objectives
    learning_rate: float = 2e-3  # the highest
    final_share: float = 0.1  # of the learning rate, at the last step
    weight_decay: float = 0.01  # of AdamW
    validate_every: int = 25  # steps
    patience: int = 4  # validations without a gain, after which training ends
    validation_users: int = 600  # looked at while training; the reported metrics use all
    targets_per_user: int = 8  # looked at while training; the headline metrics use the first

    def __post_init__(self) -> None:
        self._require_numbers()
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden must be a multiple of 2 x heads (rotary pairs), got {self.hidden}, {self.heads}")
        event = self.query_tokens + self.history_item_tokens + 2
        if self.sequence_tokens < event + self.query_tokens + 3:
            raise ValueError(f"sequence_tokens must hold one event of {event} tokens, got {self.sequence_tokens}")
        event = 2 * self.compressed_tokens + 1
        if self.compressed_tokens < 1 or self.compressed_sequence_tokens < event + self.compressed_tokens + 2:
            raise ValueError(
                f"compressed_sequence_tokens must hold one event of {event} and compressed_tokens be at least 1, "
                f"got {self.compressed_sequence_tokens} and {self.compressed_tokens}"
            )
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2: read-outs are centred over it, got {self.batch}")
        if self.adaptation != "full" and not self.backbone:
            raise ValueError(f"adaptation {self.adaptation!r} is of a pre-trained backbone, and none is named")
        if (longest := max(map(len, self.backbone.split("/")))) > 255:
            raise ValueError(f"backbone must be a directory or an id on the hub, got a name of {longest} characters")

    def _require_numbers(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "pretraining_learning_rate"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def history_limit(self) -> int:
        """Tokens of a whole history, of whichever kind they are."""
        return self.sequence_tokens if self.history == "tokens" else self.compressed_sequence_tokens

    @property
    def soft_width(self) -> int:
        """Soft tokens of an item inside a history; 0 where histories are words."""
        return 0 if self.history == "tokens" else self.compressed_tokens


def karma() -> KarmaConfig:
    """The whole model: action, generation and reconstruction."""
    return KarmaConfig()


def action_only() -> KarmaConfig:
    """Next-item contrast alone: the arm whose representation collapses."""
    return replace(karma(), lambda_generation=0.0, lambda_reconstruction=0.0)


def plus_generation() -> KarmaConfig:
    """Action and history-conditioned generation."""
    return replace(karma(), lambda_reconstruction=0.0)


def plus_reconstruction() -> KarmaConfig:
    """Action and embedding-conditioned reconstruction."""
    return replace(karma(), lambda_generation=0.0)


NAMED: Mapping[str, Callable[[], KarmaConfig]] = {
    "action_only": action_only,
    "plus_generation": plus_generation,
    "plus_reconstruction": plus_reconstruction,
    "karma": karma,
}
"""The model of the paper and what its objectives are compared with, by name."""


def switched(name: str) -> dict[str, Any]:
    """The settings in which a named configuration differs from the defaults."""
    defaults = asdict(KarmaConfig())
    return {setting: value for setting, value in asdict(NAMED[name]()).items() if value != defaults[setting]}


def karma_tiny() -> KarmaConfig:
    """Every part at its smallest: for tests."""
    return KarmaConfig(
        vocabulary=300,
        sequence_tokens=48,
        history_item_tokens=4,
        item_tokens=6,
        hidden=16,
        heads=2,
        feedforward=32,
        embedding=8,
        batch=8,
        popularity_negatives=8,
        category_negatives=4,
        pretraining_steps=8,
        compression_steps=8,
        pretraining_batch=8,
        pretraining_learning_rate=3e-3,
        steps=20,
        learning_rate=3e-3,
        validate_every=5,
    )

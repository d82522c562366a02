"""The errors Attractor raises on purpose.

AttractorError
├── ConfigurationError   attractor.toml is missing, malformed or names an unknown setting
├── ContractViolation    a table breaks its contract: table, column, row and rule are in the message
├── SocialMisalignment   the social graph belongs to other people than the events; figures are in the message
├── SourceLost           the source could not be reached, or was lost or changed while it was read: trying again may do
├── MissingInput         a stage was asked for before what it reads exists
├── NothingToLearn       a training set has no events, or no second item, to train a model on
├── TrainingDiverged     a training's loss, gradients or weights are no longer finite numbers
├── ArtifactCorrupt      stored bytes are not the bytes that were written
├── BucketUnreachable    the bucket that releases live in does not answer, or refused
├── DiskFailed           the disk is full, read-only or broken; names the file that it refused
├── BenchmarkFailed      a process of a benchmark failed; the others were ended
└── GateFailed           an audit or promotion gate refused; carries the verdicts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 200  # characters of what stood there: a message is one line


class AttractorError(Exception):
    """Base of every error below; the command line turns it into one line and exit code 1."""


class ConfigurationError(AttractorError):
    """The configuration is missing, malformed, or names a setting that does not exist."""


class ContractViolation(AttractorError):
    """A table breaks its contract."""

    def __init__(
        self,
        table: str,
        column: str,
        rule: str,
        *,
        row: int | None = None,
        value: object = None,
        record: Mapping[str, object] | None = None,
    ) -> None:
        """`row` counts from 0 within the table; `value` is what stood there; `record` tells by what to find the row."""
        self.table, self.column, self.rule, self.row, self.value = table, column, rule, row, value
        where = f"row {row}" if row is not None else "all rows"
        found = "; the row: " + ", ".join(f"{name} {text}" for name, text in record.items()) if record else ""
        super().__init__(f"table {table!r}, column {column!r}, {where}: expected {rule}, got {_shown(value)}{found}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"


class SocialMisalignment(AttractorError):
    """The social-alignment check refused a social graph."""

    def __init__(self, sentence: str, *, figures: Mapping[str, Any], advice: str) -> None:
        """`sentence` tells the figures in words; `figures` are those of `Alignment`; `advice`: what to do."""
        self.figures = dict(figures)
        super().__init__(f"the social graph does not belong to the people whose events these are: {sentence}. {advice}")


class SourceLost(AttractorError):
    """The source could not be reached, or was lost or changed while it was read; nothing was landed."""


class MissingInput(AttractorError):
    """A stage was asked for before what it reads exists; the message names the stage to run first."""


class NothingToLearn(AttractorError, ValueError):
    """What a model is to be trained on holds nothing that it could learn from."""


class TrainingDiverged(AttractorError, FloatingPointError):
    """A training came to numbers that are not finite; the checkpoints before it are kept."""


class ArtifactCorrupt(AttractorError):
    """Stored bytes differ from their recorded SHA-256, or a recorded file is gone."""


class BucketUnreachable(AttractorError):
    """The bucket did not answer, or refused to; what it holds is not known."""


class DiskFailed(AttractorError):
    """The disk refused a read or a write. What was there before is still there, and a later run completes."""


class BenchmarkFailed(AttractorError):
    """A process that ran a share of a benchmark failed; what it said stands above."""


class GateFailed(AttractorError):
    """A gate refused; exit code 3. `verdicts` are the sentences to show."""

    def __init__(self, subject: str, verdicts: Sequence[str]) -> None:
        self.subject, self.verdicts = subject, tuple(verdicts)
        super().__init__(f"{subject} refused: " + "; ".join(verdicts))

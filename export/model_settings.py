"""The settings of each model that a night trains, refused where what they make could not be served."""

from __future__ import annotations

from features.configuration import Configuration
from features.errors import ConfigurationError
from models.dicer.config import NAMED, DicerConfig


def dicer_config(configuration: Configuration) -> DicerConfig:
    """The section `[dicer]`. Raises ConfigurationError for a model that could be trained and not exported, too."""
    dicer = configuration.section("dicer", DicerConfig, named=NAMED)
    if dicer.modulation != "extremes":
        raise ConfigurationError(
            f"{configuration.file}: [dicer] modulation {dicer.modulation!r} can be trained and not exported: a night "
            'scores from tables, which exist for "extremes" only; `attractor benchmark dicer` measures the other'
        )
    return dicer


def require_trainable(configuration: Configuration, model: str) -> None:
    """Raises ConfigurationError where the settings of `model` keep it from being trained and exported."""
    from export.karma_settings import AlignmentConfig, EncodingConfig, karma_config

    if model == "karma":
        karma_config(configuration)
        configuration.section("encoding", EncodingConfig)
        configuration.section("alignment", AlignmentConfig)
    else:
        dicer_config(configuration)

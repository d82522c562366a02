"""The settings of a training of KARMA: the section `[karma]`, and the backbone that a command names instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from features.configuration import Configuration
from models.karma.config import KarmaConfig


def karma_config(configuration: Configuration) -> KarmaConfig:
    """The section `[karma]`; a backbone that is a directory beside the configuration file is found from anywhere."""
    karma = configuration.section("karma", KarmaConfig)
    beside = configuration.file.parent / karma.backbone
    return replace(karma, backbone=str(beside.resolve())) if karma.backbone and beside.is_dir() else karma


def with_backbone(configuration: Configuration, backbone: str | None) -> Configuration:
    """The configuration with another backbone, a directory seen from here or an id on the hub; None changes nothing."""
    if backbone is None:
        return configuration
    name = str(Path(backbone).resolve()) if Path(backbone).is_dir() else backbone
    karma = {**configuration.sections.get("karma", {}), "backbone": name}
    return replace(configuration, sections={**configuration.sections, "karma": karma})

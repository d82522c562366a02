"""Feast's own OpenLineage events of what it registers and materialises, where `[lineage]` asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from features.configuration import Configuration


@dataclass(frozen=True)
class LineageConfig:
    """Who tells OpenLineage; where events go is for OpenLineage's own settings to say."""

    feast: bool = False  # whether Feast tells of what it registers; the extra `lineage` brings what that takes


def lineage_settings(configuration: Configuration) -> dict[str, Any]:
    """What feature_store.yaml says of it; nothing where nothing is asked for."""
    asked = configuration.section("lineage", LineageConfig).feast
    return {"openlineage": {"enabled": True}} if asked else {}

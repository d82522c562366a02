"""Score a night: both champions over the feature partitions of one date, on ONNX Runtime alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from export.artifacts import Artifact
from export.champions import evidence
from export.expectations import expectations
from export.ledger import Figures
from export.popularity import popular_items
from features.configuration import Configuration
from features.files import replacing_directory, write_json
from features.further_views import write_further


@dataclass(frozen=True)
class ScoreConfig:
    """How the night is computed."""

    top_k: int = 50  # length of the attraction lists and of the popularity list


def score_night(
    configuration: Configuration, date: dt.date, champions: Mapping[str, Artifact], config: ScoreConfig
) -> Figures:
    """Write every published table of the night and `scored.json`, which says what made them; all or nothing."""
    from export.dicer_scoring import score_dicer
    from export.karma_scoring import score_karma

    with replacing_directory(configuration.scored / date.isoformat()) as out:
        figures = {
            **score_karma(champions["karma"], configuration, date, out),
            **score_dicer(champions["dicer"], configuration, date, out, top_k=config.top_k),
            **expectations(configuration, date),
            "further": write_further(configuration, date, out),
        }
        about = {
            "date": date.isoformat(),
            "models": {model: artifact.version for model, artifact in champions.items()},
            "space_id": champions["karma"].manifest["about"]["space_id"],
            "metrics": {model: artifact.manifest["about"]["metrics"] for model, artifact in champions.items()},
            "evidence": {model: evidence(configuration, artifact) for model, artifact in champions.items()},
            "popular_items": popular_items(configuration, date, top_k=config.top_k),
            # Not of the release: the same night again finds more in the cache, and rows stand in its manifest.
            "figures": {name: figure for name, figure in figures.items() if name not in ("items_reused", "further")},
        }
        write_json(out / "scored.json", about)
    return figures

"""Train and export a model by its name: the one place that knows which functions belong to `karma` and to `dicer`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export import artifacts
from export.karma_settings import karma_config
from export.ledger import Figures
from features.configuration import Configuration
from features.training_sets import TrainingSet, read_training_set
from features.transforms import FeatureConfig

SEED = 0


def train(configuration: Configuration, date: dt.date, model: str, *, run: Path) -> Figures:
    """Train `model` with its checkpoints in `run`; the figures are its held-out metrics and its baseline's."""
    trained, _ = _fit(configuration, date, model, run)
    metrics: Mapping[str, Any] = trained.metrics
    return {"metrics": dict(metrics)}


def export(configuration: Configuration, date: dt.date, model: str, *, run: Path) -> Figures:
    """Store the model whose finished training is in `run` as an artifact; an unfinished one is finished first."""
    trained, training_set = _fit(configuration, date, model, run)

    def fill(directory: Path) -> Mapping[str, Any]:
        if model == "karma":
            from export.karma_graphs import export_karma
            from export.karma_quantisation import EncodingConfig

            return export_karma(trained, training_set, directory, configuration.section("encoding", EncodingConfig))
        from export.dicer_graphs import export_dicer

        about = export_dicer(trained, training_set, directory)
        features = configuration.section("features", FeatureConfig)
        return about | {  # what a node hears of eq. 1, cut where a cap was reached
            "similarity": {
                "threshold": features.similarity_threshold,
                "top_k": features.similar_top_k,
                "max_degree": features.similarity_max_degree,
            }
        }

    artifact = artifacts.save(configuration.artifacts, model, fill)
    about = artifact.manifest["about"]
    return {"version": artifact.version, "parity": about["parity"], "metrics": about["metrics"]}


def _fit(configuration: Configuration, date: dt.date, model: str, run: Path) -> tuple[Any, TrainingSet]:
    training_set = read_training_set(configuration, date, f"{model}_training_v1")
    if model == "karma":
        from models.karma.training import train_karma

        return train_karma(training_set, karma_config(configuration), seed=SEED, checkpoint=run), training_set
    from models.dicer.config import NAMED, DicerConfig
    from models.dicer.training import train_dicer

    dicer = configuration.section("dicer", DicerConfig, named=NAMED)
    return train_dicer(training_set, dicer, seed=SEED, checkpoint=run), training_set

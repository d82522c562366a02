"""Train and export a model by its name: the one place that knows which functions belong to `karma` and to `dicer`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from export import artifacts
from export.held_out import HELD_OUT, METRIC, held_out_gains
from export.karma_settings import AlignmentConfig, EncodingConfig, karma_config, standing_karma
from export.ledger import Figures
from export.model_settings import dicer_config
from features.configuration import Configuration
from features.files import sha256_of_file, sha256_of_json
from features.training_sets import TrainingSet, read_training_set
from features.transforms import FeatureConfig

SEED = 0
_ROOT = Path(__file__).resolve().parents[1]


def train(configuration: Configuration, date: dt.date, model: str, *, run: Path) -> Figures:
    """Train `model` with its checkpoints in `run`; the figures are its held-out metrics and its baseline's."""
    trained, _ = _fit(configuration, date, model, run)
    metrics: Mapping[str, Any] = trained.metrics
    return {"metrics": dict(metrics)}


def export(configuration: Configuration, date: dt.date, model: str, *, run: Path) -> Figures:
    """Store the model whose finished training is in `run` as an artifact; an unfinished one is finished first."""
    trained, training_set = _fit(configuration, date, model, run)

    def fill(directory: Path) -> Mapping[str, Any]:
        return _write(configuration, model, trained, training_set, directory) | _origin(directory, model, training_set)

    artifact = artifacts.save(configuration.artifacts, model, fill)
    about = artifact.manifest["about"]
    return {"version": artifact.version, "parity": about["parity"], "metrics": about["metrics"]}


def _write(
    configuration: Configuration, model: str, trained: Any, training_set: TrainingSet, directory: Path
) -> dict[str, Any]:
    if model == "karma":
        from export.karma_graphs import export_karma

        alignment = configuration.section("alignment", AlignmentConfig)
        standing = standing_karma(configuration)
        encoding = configuration.section("encoding", EncodingConfig)
        return export_karma(trained, training_set, directory, encoding, standing=standing, alignment=alignment)
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


def _origin(directory: Path, model: str, training_set: TrainingSet) -> dict[str, Any]:
    """Held-out gains by user, the code that trained the model and the packages it was locked to.

    The data window and the metrics stand beside them in the manifest.
    """
    gains = held_out_gains(directory, model, training_set)
    pq.write_table(gains, directory / HELD_OUT)
    sources = {str(path.relative_to(_ROOT)): sha256_of_file(path) for path in sorted((_ROOT / "models").rglob("*.py"))}
    lock = _ROOT / "constraints.txt"
    return {
        "held_out": {"metric": METRIC, "users": len(gains), "mean": pc.mean(gains["gain"]).as_py()},
        "code": {"version": version("attractor"), "models_sha256": sha256_of_json(sources)},
        "lock_sha256": sha256_of_file(lock) if lock.is_file() else None,  # an installed wheel has none beside it
    }


def _fit(configuration: Configuration, date: dt.date, model: str, run: Path) -> tuple[Any, TrainingSet]:
    training_set = read_training_set(configuration, date, f"{model}_training_v1")
    if model == "karma":
        from models.karma.training import train_karma

        return train_karma(training_set, karma_config(configuration), seed=SEED, checkpoint=run), training_set
    from models.dicer.training import train_dicer

    return train_dicer(training_set, dicer_config(configuration), seed=SEED, checkpoint=run), training_set

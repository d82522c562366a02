"""The stages of a night and of a training, as plain functions that the command line and the DAGs both call.

Each takes the configuration first, is recorded in the ledger, skips what is done, and can be killed and run again.
Heavy libraries are imported by the stage that needs them, so that scoring never loads torch.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export import champions, ledger
from export.ledger import Figures, StageResult
from features.configuration import Configuration
from features.contracts import FEATURES
from features.errors import GateFailed
from features.files import read_json, sha256_of_file, sha256_of_json
from features.partitions import partition_path

log = logging.getLogger(__name__)


def land(configuration: Configuration, date: dt.date) -> StageResult:
    """Land the raw tables that the night of `date` may know."""
    from features import landing
    from features.sources import SourceConfig, open_source

    source = open_source(configuration.section("source", SourceConfig), configuration.file.parent)
    inputs = {"source": dict(configuration.sections.get("source", {})), "fingerprint": source.fingerprint()}
    return _once(
        configuration,
        "land",
        date,
        inputs,
        lambda: landing.land(configuration, date).figures(),
        stands=lambda figures: landing.is_landed(configuration, date),
    )


def build(configuration: Configuration, date: dt.date) -> StageResult:
    """Build the feature partitions of `date`, checked against their contracts."""
    from features import build as building

    return _once(
        configuration,
        "build",
        date,
        _feature_inputs(configuration, date),
        lambda: {"rows": building.build(configuration, date)},
        stands=lambda figures: all(partition_path(configuration, view, date).is_file() for view in FEATURES),
    )


def register(configuration: Configuration) -> StageResult:
    """Register entities, views and services in Feast, as `feast apply` does."""
    definitions = sorted((Path(__file__).parents[1] / "features").glob("*.py"))
    inputs = {path.name: sha256_of_file(path) for path in definitions} | {"state": str(configuration.state)}

    def work() -> Figures:
        from features.store import register as apply

        return apply(configuration)

    ledgered = ledger.open_ledger(configuration.ledger)
    return ledger.once(
        ledgered, "register", "feast", inputs, work, stands=lambda figures: configuration.registry.is_file()
    )


def missing_champions(configuration: Configuration) -> list[str]:
    """Models that have no promoted artifact yet."""
    return champions.missing_champions(configuration)


def training_sets(configuration: Configuration, date: dt.date) -> StageResult:
    """Retrieve both services' training sets from Feast, point in time."""
    from features.training_sets import SplitConfig, build_training_sets

    split = asdict(configuration.section("training", SplitConfig))
    return _once(
        configuration,
        "training_sets",
        date,
        _feature_inputs(configuration, date) | {"split": split},
        lambda: build_training_sets(configuration, date),
        stands=lambda figures: (configuration.training_sets / date.isoformat()).is_dir(),
    )


def train(configuration: Configuration, date: dt.date, model: str) -> StageResult:
    """Train `model`, resuming a run that was killed; the result stays in its checkpoint directory."""
    from export import learning

    inputs = _training_inputs(configuration, date, model)
    run = _run_directory(configuration, model, inputs)
    return _once(
        configuration,
        "train",
        date,
        inputs,
        lambda: learning.train(configuration, date, model, run=run),
        model=model,
        stands=lambda figures: run.is_dir(),
    )


def export(configuration: Configuration, date: dt.date, model: str) -> StageResult:
    """Export the trained `model` to ONNX with its parity; `figures["version"]` is the stored artifact."""
    from export import learning

    inputs = _training_inputs(configuration, date, model)
    run = _run_directory(configuration, model, inputs)
    return _once(
        configuration,
        "export",
        date,
        inputs | ({"encoding": dict(configuration.sections.get("encoding", {}))} if model == "karma" else {}),
        lambda: learning.export(configuration, date, model, run=run),
        model=model,
        stands=lambda figures: (configuration.artifacts / model / figures["version"]).is_dir(),
    )


def promote(configuration: Configuration, version: str, *, promoted_at: dt.datetime) -> Figures:
    """Make an artifact the champion of its model. Raises GateFailed."""
    from export import promotion

    return promotion.promote(configuration, version, promoted_at=promoted_at)


def score(configuration: Configuration, date: dt.date) -> StageResult:
    """Compute the night of `date` with the champions, on ONNX Runtime alone."""
    from export.scoring import ScoreConfig, score_night

    chosen = {model: champions.champion(configuration, model) for model in champions.MODELS}
    config = configuration.section("score", ScoreConfig)
    inputs = {
        "champions": {model: artifact.version for model, artifact in chosen.items()},
        "partitions": {view: sha256_of_file(partition_path(configuration, view, date)) for view in FEATURES},
        "score": asdict(config),
    }
    return _once(
        configuration,
        "score",
        date,
        inputs,
        lambda: score_night(configuration, date, chosen, config),
        stands=lambda figures: (configuration.scored / date.isoformat() / "scored.json").is_file(),
    )


def stage(configuration: Configuration, date: dt.date) -> StageResult:
    """Lay the scored night out as a release; `figures["release_id"]` is its content address."""
    from export import release

    scored = configuration.scored / date.isoformat()
    about = read_json(scored / "scored.json")
    inputs = {path.name: sha256_of_file(path) for path in sorted(scored.iterdir())}
    return _once(
        configuration,
        "stage",
        date,
        inputs,
        lambda: {"release_id": release.stage(configuration, date, scored, about)},
        stands=lambda figures: release.is_known(configuration, figures["release_id"]),
    )


def audit(configuration: Configuration, release_id: str) -> Figures:
    """Judge a staged release; `figures["release_id"]` is what may be published.

    That is another one where only one model's part was refused: composed of the sound part and the standing other one.
    Raises GateFailed if a gate refuses and nothing can be composed that passes; what is served stays.
    """
    from export.audit import audit as judge
    from export.composition import compose

    report = judge(configuration, release_id)
    for gate in report.gates:
        log.info("%-9s %s", gate.decision, gate.sentence)
    if not report.refused:
        return report.record()
    log.warning("release %s refused: %s", release_id, "; ".join(report.refused))
    composed = compose(configuration, report)
    if composed is not None:
        second = judge(configuration, composed)
        if not second.refused:
            log.warning("release %s composed of the part of %s that passed", composed, release_id)
            return second.record() | {"composed_from": release_id, "refused": report.refused}
    raise GateFailed(f"release {release_id}", report.refused)


def publish(
    configuration: Configuration, release_id: str, *, published_at: dt.datetime, force_reason: str | None = None
) -> Figures:
    """Put an audited release live by one pointer swap, never backwards in date."""
    from export import release

    return asdict(release.publish(configuration, release_id, published_at=published_at, force_reason=force_reason))


def _once(
    configuration: Configuration,
    name: str,
    date: dt.date,
    inputs: Mapping[str, Any],
    work: Callable[[], Figures],
    *,
    stands: Callable[[Figures], bool],
    model: str | None = None,
) -> StageResult:
    key = date.isoformat() + (f"/{model}" if model else "")
    return ledger.once(ledger.open_ledger(configuration.ledger), name, key, inputs, work, stands=stands)


def _feature_inputs(configuration: Configuration, date: dt.date) -> dict[str, Any]:
    from features.landing import raw_tables
    from features.transforms import FeatureConfig

    raw = raw_tables(configuration, date)
    files = [raw.users, raw.items, raw.social_edges, *raw.events]
    package = Path(__file__).parents[1] / "features"
    queries = [package / "contracts.py", package / "transforms.py", *sorted((package / "sql").glob("*.sql"))]
    return {
        "raw": [sha256_of_file(path) for path in files],
        "code": [sha256_of_file(path) for path in queries],  # a changed column or query is another partition
        "features": asdict(configuration.section("features", FeatureConfig)),
    }


def _training_inputs(configuration: Configuration, date: dt.date, model: str) -> dict[str, Any]:
    from export.karma_settings import karma_config
    from features.training_sets import read_training_set
    from models.dicer.config import NAMED, DicerConfig

    fingerprint = read_training_set(configuration, date, f"{model}_training_v1").fingerprint
    # defaults too: a checkpoint fits one network
    if model == "dicer":
        dicer = configuration.section("dicer", DicerConfig, named=NAMED)
        return {"training_set": fingerprint, "config": asdict(dicer)}
    karma = karma_config(configuration)
    inputs = {"training_set": fingerprint, "config": asdict(karma)}
    if karma.backbone:
        from models.karma import backbones

        inputs["backbone"] = backbones.fingerprint(karma)
    return inputs


def run_directory(configuration: Configuration, date: dt.date, model: str) -> Path:
    """Where a training of `model` at `date` keeps its checkpoints; `train` finds what is finished there."""
    return _run_directory(configuration, model, _training_inputs(configuration, date, model))


def _run_directory(configuration: Configuration, model: str, inputs: Mapping[str, Any]) -> Path:
    return configuration.checkpoints / model / sha256_of_json(inputs)[:12]

"""The stages as jobs of the ledger: what each is made of by content, its code, and where what it makes lies.

A stage reads nothing that its `inputs` do not name by content or configuration, so that one whose inputs changed, such
as a night that late rows reached, is stale and runs again. Heavy libraries are imported by the work itself.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export import champions
from export.ledger import Figures, Job
from features.configuration import Configuration
from features.contracts import FEATURES, PUBLISHED
from features.errors import GateFailed
from features.files import read_json, sha256_of_file, sha256_of_json
from features.further_views import further_code, further_views
from features.landing import RawTables, is_landed, raw_tables
from features.partitions import partition_path
from features.registry import registry_config, registry_name
from features.source_code import code_hash
from features.windows import night_window, parse_date

log = logging.getLogger(__name__)


def land(configuration: Configuration, date: dt.date) -> Job:
    """Landing the raw tables that the night of `date` may know; `stale_builds` are those that late rows reached."""
    from features import landing
    from features.build import stale_builds
    from features.sources import SourceConfig, open_source

    def work() -> Figures:
        figures = landing.land(configuration, date).figures()
        since = min((parse_date(interval.split("_")[0]) for interval in figures["late"]), default=date)
        stale = [str(night) for night in stale_builds(configuration, since=since) if night < date]
        for night in stale:
            log.warning(
                "late rows: features of %s are stale; `attractor build --date %s` builds them again", night, night
            )
        return figures | {"stale_builds": stale}

    source = open_source(configuration.section("source", SourceConfig), configuration.file.parent)
    return Job(
        stage="land",
        subject=date.isoformat(),
        window=night_window(date),
        inputs=_settings(configuration, "source", "social", "features") | {"fingerprint": source.fingerprint()},
        code=code_hash("features.landing"),
        work=work,
        artifact=lambda figures: _address(configuration, configuration.raw / date.isoformat()),
        outputs=lambda figures: _landed_directories(configuration, date),
    )


def build(configuration: Configuration, date: dt.date) -> Job:
    """Building the feature partitions of `date`."""
    from features import build as building

    return Job(
        stage="build",
        subject=date.isoformat(),
        window=night_window(date),
        inputs=_feature_inputs(configuration, date),
        code=code_hash(*building.CODE),
        work=lambda: {"rows": building.build(configuration, date)},
        artifact=lambda figures: _address(configuration, configuration.features / "builds" / f"{date}.json"),
        outputs=lambda figures: [partition_path(configuration, view, date) for view in FEATURES],
    )


def register(configuration: Configuration) -> Job:
    """Registering entities, views and services in Feast: each time anew in a database, which others write to."""
    config, name = registry_config(configuration), registry_name(configuration)

    def work() -> Figures:
        from features.store import register as apply

        return apply(configuration)

    return Job(
        stage="register",
        subject="feast",
        window=None,
        inputs={"state": str(configuration.state), "registry": name, "owner": config.owner}
        | {"further": further_code(configuration)},
        code=code_hash("features.store"),
        work=work,
        artifact=lambda figures: name if config.url_variable else _address(configuration, configuration.registry),
        outputs=lambda figures: [] if config.url_variable else [configuration.registry],
        reusable=config.url_variable is None,
    )


def training_sets(configuration: Configuration, date: dt.date) -> Job:
    """Retrieving both services' training sets from Feast, point in time."""
    from features import training_sets as sets

    split_config = configuration.section("training", sets.SplitConfig)
    split = sets.split_dates(date, split_config)
    earlier = [end for end in (split.train_end, split.valid_end) if is_landed(configuration, end)]
    return Job(
        stage="training_sets",
        subject=date.isoformat(),
        window=night_window(date),
        inputs=_feature_inputs(configuration, date)
        | {"split": asdict(split_config)}
        | {"earlier": {end.isoformat(): _hashes(raw_tables(configuration, end)) for end in earlier}},
        code=code_hash("features.training_sets"),
        work=lambda: sets.build_training_sets(configuration, date),
        artifact=lambda figures: _address(configuration, configuration.training_sets / date.isoformat()),
        outputs=lambda figures: [configuration.training_sets / date.isoformat()],
    )


def train(configuration: Configuration, date: dt.date, model: str) -> Job:
    """Training `model`; what is learned stays in its checkpoint directory."""
    from export import learning

    inputs = _training_inputs(configuration, date, model)
    run = _run_of(configuration, model, inputs)
    return Job(
        stage="train",
        subject=f"{date}/{model}",
        window=night_window(date),
        inputs=inputs,
        code=_training_code(model),
        work=lambda: learning.train(configuration, date, model, run=run),
        artifact=lambda figures: _address(configuration, run),
        outputs=lambda figures: [run],
    )


def export(configuration: Configuration, date: dt.date, model: str) -> Job:
    """Exporting the trained `model` to ONNX with its parity; `figures["version"]` is the stored artifact."""
    from export import learning
    from export.karma_settings import alignment_inputs

    inputs = _training_inputs(configuration, date, model)
    encoding = _settings(configuration, "encoding") | alignment_inputs(configuration) if model == "karma" else {}
    run = _run_of(configuration, model, inputs)
    return Job(
        stage="export",
        subject=f"{date}/{model}",
        window=night_window(date),
        inputs=inputs | encoding,
        code=code_hash(f"export.{model}_graphs", f"models.{model}.training", "export.held_out"),
        work=lambda: learning.export(configuration, date, model, run=run),
        artifact=lambda figures: str(figures["version"]),
        outputs=lambda figures: [configuration.artifacts / model / figures["version"]],
    )


def score(configuration: Configuration, date: dt.date) -> Job:
    """Computing the night of `date` with the champions, on ONNX Runtime alone. Raises MissingInput without one."""
    from export.scoring import ScoreConfig, score_night

    chosen = {model: champions.champion(configuration, model) for model in champions.MODELS}
    config = configuration.section("score", ScoreConfig)
    return Job(
        stage="score",
        subject=date.isoformat(),
        window=night_window(date),
        inputs={
            "champions": {model: artifact.version for model, artifact in chosen.items()},
            "partitions": {view: sha256_of_file(partition_path(configuration, view, date)) for view in FEATURES},
            "score": asdict(config),
            "further": further_code(configuration),
        },
        code=code_hash("export.scoring"),
        work=lambda: score_night(configuration, date, chosen, config),
        artifact=lambda figures: _address(configuration, configuration.scored / date.isoformat()),
        outputs=lambda figures: [configuration.scored / date.isoformat()],
    )


def stage(configuration: Configuration, date: dt.date) -> Job:
    """Laying the scored night out as a release; `figures["release_id"]` is its content address."""
    from export import staging
    from features.releases import MANIFEST

    scored = configuration.scored / date.isoformat()

    def work() -> Figures:
        also = [view.table for view in further_views(configuration)]
        release_id = staging.stage(configuration, date, scored, read_json(scored / "scored.json"), also=also)
        manifest = read_json(staging.directory_of(configuration.releases, release_id) / MANIFEST)
        return {"release_id": release_id, "rows": {view: told["rows"] for view, told in manifest["views"].items()}}

    return Job(
        stage="stage",
        subject=date.isoformat(),
        window=night_window(date),
        inputs={path.name: sha256_of_file(path) for path in sorted(scored.iterdir())},
        code=code_hash("export.staging"),
        work=work,
        artifact=lambda figures: str(figures["release_id"]),
        outputs=lambda figures: [_release_directory(configuration, figures["release_id"])],
    )


def promote(configuration: Configuration, version: str, *, promoted_at: dt.datetime) -> Job:
    """Making an artifact the champion of its model: judged each time, against whoever is champion then."""
    from export import promotion

    return Job(
        stage="promote",
        subject=version,
        window=None,
        inputs={"version": version} | _settings(configuration, "gates"),
        code=code_hash("export.promotion"),
        work=lambda: promotion.promote(configuration, version, promoted_at=promoted_at),
        artifact=lambda figures: version,
        outputs=lambda figures: [],
        reusable=False,
    )


def audit(configuration: Configuration, release_id: str) -> Job:
    """Judging a staged release: each time anew, against what is live then; `figures["release_id"]` may be published."""
    return Job(
        stage="audit",
        subject=release_id,
        window=night_window(_date_of(release_id)),
        inputs={"release": release_id} | _settings(configuration, "audit"),
        code=code_hash("export.composition"),
        work=lambda: _audit_or_compose(configuration, release_id),
        artifact=lambda figures: str(figures["release_id"]),
        outputs=lambda figures: [],
        reusable=False,
    )


def publish(
    configuration: Configuration, release_id: str, *, published_at: dt.datetime, force_reason: str | None
) -> Job:
    """Putting a release live; doing it again changes nothing, and completes what a killed process left."""
    from export import history, release

    date = _date_of(release_id)
    partitions = [history.partition(configuration, view, date) for view in PUBLISHED]
    return Job(
        stage="publish",
        subject=release_id,
        window=night_window(date),
        inputs={"release": release_id, "force_reason": force_reason},
        code=code_hash("export.release"),
        work=lambda: asdict(
            release.publish(configuration, release_id, published_at=published_at, force_reason=force_reason)
        ),
        artifact=lambda figures: release_id,
        outputs=lambda figures: [path for path in partitions if path.is_file()],
        reusable=False,
    )


def _audit_or_compose(configuration: Configuration, release_id: str) -> Figures:
    """The audit's record; of a composed release where only one model's part was refused. Raises GateFailed."""
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


def run_directory(configuration: Configuration, date: dt.date, model: str) -> Path:
    """Where a training of `model` at `date` keeps its checkpoints; `train` finds what is finished there."""
    return _run_of(configuration, model, _training_inputs(configuration, date, model))


def _run_of(configuration: Configuration, model: str, inputs: dict[str, Any]) -> Path:
    identity = {"inputs": inputs, "code": _training_code(model)}
    return configuration.checkpoints / model / sha256_of_json(identity)[:12]


def _date_of(release_id: str) -> dt.date:
    return dt.date.fromisoformat(release_id[:10])


def _training_code(model: str) -> str:
    return code_hash(f"models.{model}.training")


def _settings(configuration: Configuration, *sections: str) -> dict[str, Any]:
    """What attractor.toml says in `sections`, as JSON: TOML also has dates."""
    given = {name: configuration.sections.get(name, {}) for name in sections}
    settings: dict[str, Any] = json.loads(json.dumps(given, default=str))
    return settings


def _address(configuration: Configuration, path: Path) -> str:
    """Relative to the state directory, which another host may have elsewhere."""
    return str(path.relative_to(configuration.state))


def _landed_directories(configuration: Configuration, date: dt.date) -> list[Path]:
    """The snapshot of `date` and the newest events that its night reads; a path that is not there before landing."""
    if not is_landed(configuration, date):
        return [configuration.raw / date.isoformat()]
    raw = raw_tables(configuration, date)
    return [raw.users.parent, raw.events[-1].parent]


def _release_directory(configuration: Configuration, release_id: str) -> Path:
    """Where the release stands; where it would be staged if it stands nowhere."""
    from features.releases import RELEASES, STAGING

    released, staged = (configuration.releases / folder / release_id for folder in (RELEASES, STAGING))
    return released if released.exists() else staged


def _hashes(raw: RawTables) -> list[str]:
    return [sha256_of_file(path) for path in (raw.users, raw.items, raw.social_edges, *raw.events)]


def _feature_inputs(configuration: Configuration, date: dt.date) -> dict[str, Any]:
    from features.transforms import FeatureConfig

    features = asdict(configuration.section("features", FeatureConfig))
    return {"raw": _hashes(raw_tables(configuration, date)), "features": features}


def _training_inputs(configuration: Configuration, date: dt.date, model: str) -> dict[str, Any]:
    from export.karma_settings import karma_config
    from export.model_settings import dicer_config
    from features.training_sets import fingerprint_of

    fingerprint = fingerprint_of(configuration, date, f"{model}_training_v1")
    # defaults too: a checkpoint fits one network
    if model == "dicer":
        return {"training_set": fingerprint, "config": asdict(dicer_config(configuration))}
    karma = karma_config(configuration)
    inputs = {"training_set": fingerprint, "config": asdict(karma)}
    if karma.backbone:
        from models.karma import backbones

        inputs["backbone"] = backbones.fingerprint(karma)
    return inputs

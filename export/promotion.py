"""Promotion: the gates that a challenger must pass to become the champion of its model."""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from export.artifacts import Artifact, load
from export.champions import champion_version, crown
from export.held_out import HELD_OUT, METRIC, held_out_gains, quality_change
from features.configuration import Configuration
from features.errors import GateFailed, MissingInput
from features.training_sets import read_training_set
from features.windows import parse_date

log = logging.getLogger(__name__)

HEADLINE = {"karma": "HR@10", "dicer": "Recall@10"}
"""The metric of each model that is compared with the popularity baseline."""


@dataclass(frozen=True)
class GateConfig:
    """What promotion asks beyond parity."""

    require_baseline: bool = False  # refuse a model that popularity beats on the test window, instead of warning
    min_quality_change: float = 0.0  # upper end of the 95 % interval of the change against the champion
    bootstrap_draws: int = 2000  # resamples of the held-out users
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        if not math.isfinite(self.min_quality_change) or self.bootstrap_draws < 100:
            raise ValueError(
                "expected a finite min_quality_change and bootstrap_draws >= 100, "
                f"got {self.min_quality_change} and {self.bootstrap_draws}"
            )


@dataclass(frozen=True)
class Verdict:
    """One gate's decision: `passed`, `warned` or `refused`, and the figures in one sentence."""

    gate: str
    decision: str
    sentence: str


def judge(artifact: Artifact, config: GateConfig) -> list[Verdict]:
    """The verdict of every promotion gate on `artifact`. A missing or non-finite figure refuses."""
    about = artifact.manifest["about"]
    verdicts = [_parity(about), _finite(about)]
    if verdicts[-1].decision == "passed":
        verdicts.append(_baseline(about, HEADLINE[artifact.model], config))
    return verdicts


def promote(configuration: Configuration, version: str, *, promoted_at: dt.datetime) -> dict[str, Any]:
    """Make the artifact `version` the champion of its model; a standing champion promoted again changes nothing.

    Raises GateFailed if a gate refuses; the champion before it stays.
    """
    artifact = load(configuration.artifacts, version)
    config = configuration.section("gates", GateConfig)
    verdicts, quality = judge(artifact, config), None
    standing = champion_version(configuration, artifact.model)
    if standing != version:
        quality = measure_quality(configuration, artifact, standing, config) if standing else None
        verdicts.append(_quality(quality, standing, config))
    refused = [v.sentence for v in verdicts if v.decision == "refused"]
    if refused:
        raise GateFailed(f"promotion of {version}", refused)
    gates = [asdict(v) for v in verdicts]
    crown(configuration, artifact, at=promoted_at, gates=gates, quality=quality)
    return {"model": artifact.model, "version": version, "gates": gates}


def measure_quality(
    configuration: Configuration, challenger: Artifact, standing: str, config: GateConfig
) -> dict[str, Any] | None:
    """Change of the held-out metric against the champion `standing`, both on the challenger's test window.

    The champion's own figures are taken if it was judged on the same window, else its graphs are run on it. None if
    the challenger has no figures, or its training set is gone and the champion cannot be measured.
    """
    about, model = challenger.manifest["about"], challenger.model
    if HELD_OUT not in challenger.manifest["files"]:
        return None
    champion = load(configuration.artifacts, standing)
    same = champion.manifest["about"].get("training_set") == about["training_set"]
    try:
        if same and HELD_OUT in champion.manifest["files"]:
            theirs = pq.read_table(champion.path(HELD_OUT))
        else:
            date = parse_date(about["split"]["test_end"])
            training_set = read_training_set(configuration, date, f"{model}_training_v1")
            if training_set.fingerprint != about["training_set"]:
                return None
            theirs = held_out_gains(champion.directory, model, training_set)
        ours = pq.read_table(challenger.path(HELD_OUT))
        change, users = quality_change(ours, theirs, draws=config.bootstrap_draws, seed=config.seed)
    except (MissingInput, ValueError) as error:
        log.warning("%s cannot be compared with %s: %s", challenger.version, standing, error)
        return None
    return {"against": standing, "metric": METRIC, "users": users, **asdict(change)}


def _parity(about: Mapping[str, Any]) -> Verdict:
    graphs = about["parity"]
    failed = [name for name, record in graphs.items() if not record["holds"]]
    if failed or not graphs:
        return Verdict("parity", "refused", f"parity fails or was never measured: {', '.join(failed) or 'no graph'}")
    worst = max(record["worst"] for record in graphs.values())
    return Verdict("parity", "passed", f"parity of {len(graphs)} graphs, worst difference {worst:.1e}")


def _finite(about: Mapping[str, Any]) -> Verdict:
    values = [
        (f"{part} {who} {name}", value)
        for part in ("validation", "test")
        for who, metrics in about["metrics"][part].items()
        for name, value in metrics.items()
    ]
    bad = [name for name, value in values if value is None or not math.isfinite(value)]
    if bad or not values:
        return Verdict("metrics", "refused", f"held-out metrics are not numbers: {', '.join(bad) or 'none recorded'}")
    return Verdict("metrics", "passed", f"{len(values)} held-out metrics recorded")


def _baseline(about: Mapping[str, Any], metric: str, config: GateConfig) -> Verdict:
    test = about["metrics"]["test"]
    model, popularity = test["model"][metric], test["popularity"][metric]
    sentence = f"test {metric} {model:.4f} against popularity {popularity:.4f}"
    if model > popularity:
        return Verdict("baseline", "passed", sentence)
    return Verdict("baseline", "refused" if config.require_baseline else "warned", sentence)


def _quality(quality: Mapping[str, Any] | None, standing: str | None, config: GateConfig) -> Verdict:
    if standing is None:
        return Verdict("quality", "passed", "nothing to compare with: the first champion")
    if quality is None:
        return Verdict("quality", "refused", f"quality against {standing} could not be measured on the same users")
    sentence = (
        f"held-out {quality['metric']} of {quality['users']} users changed by {quality['mean']:+.4f} "
        f"[{quality['low']:+.4f}, {quality['high']:+.4f}] against {standing}"
    )
    return Verdict("quality", "passed" if quality["high"] >= config.min_quality_change else "refused", sentence)

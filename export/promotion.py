"""Champions: the artifact of each model that the night uses, and the gates a challenger must pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from export.artifacts import Artifact, load
from features.configuration import Configuration
from features.errors import GateFailed, MissingInput
from features.files import read_json, write_json

MODELS = ("karma", "dicer")
HEADLINE = {"karma": "HR@10", "dicer": "Recall@10"}
"""The metric of each model that is compared with the popularity baseline."""


@dataclass(frozen=True)
class GateConfig:
    """What promotion asks beyond parity."""

    require_baseline: bool = False  # refuse a model that popularity beats on the test window, instead of warning


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


def promote(configuration: Configuration, version: str) -> dict[str, Any]:
    """Make the artifact `version` the champion of its model; a standing champion promoted again changes nothing.

    Raises GateFailed if a gate refuses; the champion before it stays.
    """
    artifact = load(configuration.artifacts, version)
    verdicts = judge(artifact, configuration.section("gates", GateConfig))
    refused = [v.sentence for v in verdicts if v.decision == "refused"]
    if refused:
        raise GateFailed(f"promotion of {version}", refused)
    pointer = configuration.champions / f"{artifact.model}.json"
    history = read_json(pointer)["history"] if pointer.is_file() else []
    if not history or history[-1] != version:
        write_json(pointer, {"version": version, "history": [*history, version]})
    return {"model": artifact.model, "version": version, "gates": [asdict(v) for v in verdicts]}


def champion(configuration: Configuration, model: str) -> Artifact:
    """The verified champion of `model`. Raises MissingInput if none was promoted."""
    pointer = configuration.champions / f"{model}.json"
    if not pointer.is_file():
        raise MissingInput(f"no champion for {model} in {configuration.champions}; run `attractor train` and promote")
    return load(configuration.artifacts, read_json(pointer)["version"])


def missing_champions(configuration: Configuration) -> list[str]:
    """Models without a champion, in a fixed order."""
    return [model for model in MODELS if not (configuration.champions / f"{model}.json").is_file()]


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

"""From a release to what its gates judge: every table, both models and the inputs, each with its figures.

Reads the release, the live one that it is compared with and the manifests of the last ones; decides nothing.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

from export import audit_comparison as comparison
from export.audit_figures import TableFigures, VectorFigures, measure, measure_lists
from export.gates import DICER, KARMA, PARTS, AuditConfig, Subject
from features.releases import Release
from features.windows import DAY, midnight, parse_date

EXPECTED = {
    "karma_user_interest": "users_expected",
    "karma_item_embedding": "items_expected",
    "dicer_user_attraction": "attraction_users_expected",
}
"""The figure of `scored.json` that says how many rows each table should have."""

FIRST = "no earlier release"
_OF_VECTORS = ("not_finite", "zero", "constant", "norm_error", "mean_cosine", "smallest_std")
_VECTOR_DRIFT = ("norm_drift", "live_cosine", "dimension_drift")

Figures = dict[str, float | None]
Alone = dict[str, str]
Manifest = Mapping[str, Any]


def subjects(release: Release, live: Release | None, last: Sequence[Manifest], config: AuditConfig) -> list[Subject]:
    """What is judged of `release`, compared with the `live` one and with the manifests of the `last` ones."""
    tables = [
        _vectors(release, live, last, view, config) if part == KARMA else _lists(release, live, last, view, config)
        for part, views in PARTS.items()
        for view in views
    ]
    return [_inputs(release.manifest), *tables, *(_model(release, live, model) for model in PARTS)]


def _inputs(manifest: Manifest) -> Subject:
    newest = manifest["figures"].get("newest_event")
    age = (midnight(parse_date(manifest["date"])) - dt.datetime.fromisoformat(newest)) / DAY if newest else None
    return Subject("inputs", tuple(PARTS), ("inputs",), {"input_age_days": age})


def _vectors(
    release: Release, live: Release | None, last: Sequence[Manifest], view: str, config: AuditConfig
) -> Subject:
    measured = _measured(release, view, config)
    figures, alone = _rows(measured, release.manifest, last, view)
    ((column, vectors),) = measured.vectors.items()
    figures |= {name: getattr(vectors, name) for name in _OF_VECTORS}
    if live is None or live.space_id != release.space_id:
        why = FIRST if live is None else f"{live.release_id} is of another embedding space, {live.space_id}"
        alone |= dict.fromkeys(_VECTOR_DRIFT, why)
    else:
        before: VectorFigures = _measured(live, view, config).vectors[column]
        figures["norm_drift"] = comparison.norm_drift(vectors, before)
        figures["dimension_drift"] = comparison.dimension_drift(vectors, before)
        figures["live_cosine"] = comparison.live_cosine(
            release.tables[view], live.tables[view], column, sample=config.sample, seed=config.seed
        )
    return Subject(view, (KARMA,), ("table", "vectors"), figures, alone)


def _lists(release: Release, live: Release | None, last: Sequence[Manifest], view: str, config: AuditConfig) -> Subject:
    measured = _measured(release, view, config)
    figures, alone = _rows(measured, release.manifest, last, view)
    lists, users = measured.lists, release.manifest["figures"].get("users_known")
    assert lists is not None
    figures |= {name: getattr(lists, name) for name in ("not_finite", "uneven", "out_of_order", "repeated")}
    figures["unknown_items"] = lists.unknown / lists.places if lists.places else None
    figures["users_with_list"] = measured.rows / users if users else None
    figures["gini"] = comparison.gini(lists.exposure)
    figures["top_items_share"] = comparison.top_items_share(lists.exposure)
    if live is None:
        alone |= dict.fromkeys(("gini_rise", "score_shift", "list_overlap", "list_overlap_new_model"), FIRST)
        return Subject(view, (DICER,), ("table", "lists"), figures, alone)
    overlap = comparison.list_overlap(release.tables[view], live.tables[view], sample=config.sample, seed=config.seed)
    before = measure_lists(live.tables[view], catalogue=live.tables["karma_item_embedding"])
    figures["gini_rise"] = comparison.gini(lists.exposure) - comparison.gini(before.exposure)
    if live.manifest["models"][DICER] == release.manifest["models"][DICER]:
        figures["list_overlap"] = overlap
        figures["score_shift"] = comparison.population_stability(lists.scores, before.scores)
        alone["list_overlap_new_model"] = f"{live.release_id} is by the same model"
    else:
        figures["list_overlap_new_model"] = overlap
        alone |= dict.fromkeys(("list_overlap", "score_shift"), f"{live.release_id} is by another model")
    return Subject(view, (DICER,), ("table", "lists"), figures, alone)


def _model(release: Release, live: Release | None, model: str) -> Subject:
    """Its parity, its quality against the champion before it, and how old its part of the release is."""
    manifest = release.manifest
    evidence = manifest.get("evidence", {}).get(model, {})
    figures: Figures = {"parity_ratio": _parity(evidence.get("parity", {})), "part_age_days": 0.0}
    stands = manifest.get("standing")
    if stands and stands["part"] == model:
        figures["part_age_days"] = (parse_date(manifest["date"]) - parse_date(stands["date"])) / DAY
    if live is not None and live.manifest["models"][model] == manifest["models"][model]:
        return Subject(
            model, (model,), ("model",), figures, {"quality_change": f"{live.release_id} is by the same model"}
        )
    quality = evidence.get("quality")
    if quality is not None:
        return Subject(model, (model,), ("model",), figures | {"quality_change": quality["high"]})
    return Subject(model, (model,), ("model",), figures, {} if live else {"quality_change": FIRST})


def _parity(graphs: Mapping[str, Any]) -> float | None:
    """The worst difference of any graph as a share of its tolerance; None if one was not measured."""
    shares = [
        graph["worst"] / graph["tolerance"] if graph["worst"] is not None else math.nan for graph in graphs.values()
    ]
    return None if not shares or any(map(math.isnan, shares)) else max(shares)


def _measured(release: Release, view: str, config: AuditConfig) -> TableFigures:
    catalogue = release.tables["karma_item_embedding"]
    return measure(release.tables[view], catalogue=catalogue, sample=config.sample, seed=config.seed)


def _rows(measured: TableFigures, manifest: Manifest, last: Sequence[Manifest], view: str) -> tuple[Figures, Alone]:
    """Keys, rows and coverage, these two also against the largest of the last releases."""
    coverage = _coverage(manifest, view)
    figures: Figures = {
        "bad_keys": measured.bad_keys,
        "repeated_keys": measured.repeated_keys,
        "rows": measured.rows,
        "coverage": coverage,
    }
    alone: Alone = {}
    most = max((int(one["views"][view]["rows"]) for one in last), default=0)
    best = max((known for one in last if math.isfinite(known := _coverage(one, view))), default=0.0)
    if most:
        figures["rows_ratio"] = measured.rows / most
    elif measured.rows:  # a table without a row has no figure either
        alone["rows_ratio"] = FIRST
    if best:
        figures["coverage_ratio"] = coverage / best
    else:
        alone["coverage_ratio"] = FIRST
    return figures, alone


def _coverage(manifest: Manifest, view: str) -> float:
    expected = manifest["figures"].get(EXPECTED[view])
    return float(manifest["views"][view]["rows"] / expected) if expected else math.nan

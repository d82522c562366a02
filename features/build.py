"""Building the feature partitions of a date, once per state of what they are made of."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from features.configuration import Configuration
from features.contracts import FEATURES
from features.files import read_json, sha256_of_file, write_json
from features.landing import RawTables, is_landed, raw_tables
from features.partitions import partition_path, write_rows
from features.source_code import code_hash
from features.transforms import FeatureConfig, known_before
from features.windows import midnight, parse_date

log = logging.getLogger(__name__)

CODE = ("features.transforms", "features.partitions")
"""Modules that decide what is in a partition; where the raw rows came from does not."""


def build(configuration: Configuration, date: dt.date) -> dict[str, int]:
    """Build every feature view as of `date` from the raw tables landed for it; rows per view.

    Raises MissingInput if they were not landed, ContractViolation if what was built breaks its contract.
    """
    return build_from(configuration, date, raw_tables(configuration, date))


def build_from(configuration: Configuration, date: dt.date, raw: RawTables) -> dict[str, int]:
    """The same from given raw tables, which may know more than `date` does.

    `features/builds/<date>.json` records what the partitions were made of, their rows, and the hubs that
    similarity left out; while that is what would go in again, nothing is rebuilt.
    """
    config = configuration.section("features", FeatureConfig)
    record = configuration.features / "builds" / f"{date.isoformat()}.json"
    inputs = _inputs(config, raw)
    paths = {view: partition_path(configuration, view, date) for view in FEATURES}
    if _stands(record, inputs, paths):
        return dict(read_json(record)["rows"])
    record.unlink(missing_ok=True)  # a build that is killed must not pass for the one before
    with known_before(raw, midnight(date), config, scratch=configuration.features) as known:
        left_out = known.prepare_similarity()
        rows = {view: write_rows(paths[view], FEATURES[view], known.view(view)) for view in FEATURES}
    write_json(record, {"inputs": inputs, "rows": rows, "left_out_of_similarity": left_out})
    log.info("built %s: %s", date, ", ".join(f"{view} {count}" for view, count in rows.items()))
    return rows


def stale_builds(configuration: Configuration, *, since: dt.date | None = None) -> list[dt.date]:
    """Landed dates after `since` whose partitions are of other raw tables, settings or queries than there are now."""
    config = configuration.section("features", FeatureConfig)
    records = {parse_date(path.stem): path for path in (configuration.features / "builds").glob("*.json")}
    return [
        date
        for date, record in sorted(records.items())
        if (since is None or date > since)
        and is_landed(configuration, date)
        and read_json(record)["inputs"] != _inputs(config, raw_tables(configuration, date))
    ]


def _inputs(config: FeatureConfig, raw: RawTables) -> dict[str, Any]:
    settings = asdict(config)
    for free in ("memory_limit", "threads"):  # what a build costs, not what it gives
        del settings[free]
    files = (raw.users, raw.items, raw.social_edges, *raw.events)
    raw_hashes = [sha256_of_file(path) for path in files]
    return {"features": settings, "raw": raw_hashes, "code": code_hash(*CODE)}


def _stands(record: Path, inputs: Mapping[str, Any], paths: Mapping[str, Path]) -> bool:
    if not record.is_file() or not all(path.is_file() for path in paths.values()):
        return False
    return bool(read_json(record)["inputs"] == inputs)

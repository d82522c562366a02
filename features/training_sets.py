"""Training sets: what Feast says was known at two instants, and what happened after each.

A model learns from `train` and is chosen on `validation`, the actions between `train_end` and `valid_end`;
it is then judged on `test`, the actions from `valid_end` on, with the features of `recent`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.build import build_from
from features.configuration import Configuration
from features.contracts import FEATURES, Table
from features.errors import MissingInput
from features.files import read_json, replacing_directory, sha256_of_file, sha256_of_json, write_json
from features.landing import RawTables, raw_tables
from features.partitions import read_partition, write_rows
from features.transforms import FeatureConfig, known_before
from features.windows import between, midnight, parse_date

TRAINING_SERVICES: Mapping[str, tuple[str, ...]] = {
    "karma_training_v1": ("user_history", "item_catalog"),
    "dicer_training_v1": ("social_graph", "item_audience"),
}
"""Views of each training service."""

META = "meta.json"
LABELS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("event_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


@dataclass(frozen=True)
class SplitConfig:
    """How many of the last days are kept from training, to choose a model and to judge it."""

    validation_days: int = 5  # choose the model
    test_days: int = 5  # judge it: the last days before the date

    def __post_init__(self) -> None:
        if self.validation_days < 1 or self.test_days < 1:
            raise ValueError(f"expected at least one day each, got {self.validation_days} and {self.test_days}")


@dataclass(frozen=True)
class Split:
    """Dates that end training, validation and test, in this order."""

    train_end: dt.date
    valid_end: dt.date
    test_end: dt.date


@dataclass(frozen=True)
class TrainingSet:
    """One service's features at two instants, and the labels after each.

    `train` (as of `train_end`) and `recent` (as of `valid_end`) map a view to its rows, in its contract's columns
    and sorted by key. Labels have user_id, item_id, query and event_at: the first action in the window of each
    user on each item, whether or not it was in the history before, ordered by user and then as histories are.
    """

    split: Split
    train: Mapping[str, pa.Table]
    recent: Mapping[str, pa.Table]
    validation: pa.Table
    test: pa.Table
    fingerprint: str


def split_dates(date: dt.date, config: SplitConfig) -> Split:
    """The split whose test ends with `date`."""
    valid_end = date - dt.timedelta(days=config.test_days)
    return Split(valid_end - dt.timedelta(days=config.validation_days), valid_end, date)


def build_training_sets(configuration: Configuration, date: dt.date) -> dict[str, Any]:
    """Retrieve the training set of every training service from Feast, point in time; rows by table.

    Feature partitions of the split's dates are built where they are missing. Raises MissingInput if `date` was not
    landed or nothing happened before `train_end` or in a label window.
    """
    raw = raw_tables(configuration, date)
    split = split_dates(date, configuration.section("training", SplitConfig))
    for end in (split.train_end, split.valid_end):
        build_from(configuration, end, _landed(configuration, end, otherwise=raw))
    with replacing_directory(_directory(configuration, date)) as directory:
        rows = _write_labels(configuration, raw, split, directory)
        rows |= _write_features(configuration, split, directory)
        fingerprints = {service: _fingerprint(directory, split, service) for service in TRAINING_SERVICES}
        write_json(directory / META, {"split": _record(split), "rows": rows, "fingerprints": fingerprints})
    return {"split": _record(split), "rows": rows, "fingerprints": fingerprints}


def read_training_set(configuration: Configuration, date: dt.date, service: str) -> TrainingSet:
    """The training set of `service` as of `date`; KeyError if there is no such service.

    Raises MissingInput if it was not built.
    """
    views, directory, meta = TRAINING_SERVICES[service], _directory(configuration, date), _meta(configuration, date)
    split = Split(**{name: parse_date(day) for name, day in meta["split"].items()})
    features = {
        part: {view: pq.read_table(directory / service / part / f"{view}.parquet") for view in views}
        for part in ("train", "recent")
    }
    validation, test = (pq.read_table(directory / f"{part}.parquet") for part in ("validation", "test"))
    return TrainingSet(split, features["train"], features["recent"], validation, test, meta["fingerprints"][service])


def fingerprint_of(configuration: Configuration, date: dt.date, service: str) -> str:
    """The hash of what a training set holds, without reading its tables. Raises MissingInput if it was not built."""
    return str(_meta(configuration, date)["fingerprints"][service])


def _meta(configuration: Configuration, date: dt.date) -> dict[str, Any]:
    directory = _directory(configuration, date)
    if not (directory / META).is_file():
        raise MissingInput(f"no training set in {directory}; run `attractor train --date {date}`")
    meta: dict[str, Any] = read_json(directory / META)
    return meta


def _directory(configuration: Configuration, date: dt.date) -> Path:
    return configuration.training_sets / date.isoformat()


def _record(split: Split) -> dict[str, str]:
    return {name: getattr(split, name).isoformat() for name in ("train_end", "valid_end", "test_end")}


def _landed(configuration: Configuration, date: dt.date, *, otherwise: RawTables) -> RawTables:
    """What was landed for the night of `date`; on a date that had no night, what is known of it today."""
    try:
        return raw_tables(configuration, date)
    except MissingInput:
        return otherwise


def _write_labels(configuration: Configuration, raw: RawTables, split: Split, directory: Path) -> dict[str, int]:
    windows = {
        "validation": between(split.train_end, split.valid_end),
        "test": between(split.valid_end, split.test_end),
    }
    config, rows = configuration.section("features", FeatureConfig), {}
    with known_before(raw, midnight(split.test_end), config, scratch=directory) as known:
        for part, window in windows.items():
            labels = known.labels(window).read_all().cast(LABELS)
            if not len(labels):
                raise MissingInput(f"no event from {window.start} to {window.end}, the {part} window of {split}")
            pq.write_table(labels, directory / f"{part}.parquet", compression="zstd")
            rows[part] = len(labels)
    return rows


def _write_features(configuration: Configuration, split: Split, directory: Path) -> dict[str, int]:
    """Retrieve every service's views as of both instants; the same keys that the partitions have."""
    from features.store import historical_features, open_store, register

    register(configuration)
    store, rows = open_store(configuration), {}
    ends = {"train": split.train_end, "recent": split.valid_end}
    for service, views in TRAINING_SERVICES.items():
        keys = [
            (midnight(end), {FEATURES[view].key[0]: _keys(configuration, view, end) for view in views})
            for end in ends.values()
        ]
        retrieved = historical_features(store, service, keys)
        for part, end in ends.items():
            for view in views:
                path = directory / service / part / f"{view}.parquet"
                table = _view_rows(retrieved, FEATURES[view], midnight(end))
                rows[f"{part}/{view}"] = write_rows(path, FEATURES[view], table.to_batches())
    return rows


def _keys(configuration: Configuration, view: str, date: dt.date) -> pa.Array:
    key = FEATURES[view].key[0]
    keys = read_partition(configuration, view, date, columns=[key])[key].combine_chunks()
    if not len(keys):
        raise MissingInput(f"{view} has no row as of {date}: the source knows nothing before")
    return keys


def _view_rows(retrieved: pa.Table, table: Table, as_of: dt.datetime) -> pa.Table:
    """One view's rows as of one instant, in its contract's columns, sorted by key: a join keeps no order."""
    key, instant = table.key
    at = pc.equal(retrieved[instant], pa.scalar(as_of, retrieved[instant].type))
    rows = retrieved.filter(pc.and_(at, retrieved[key].is_valid())).sort_by(key)
    of = {key: key, instant: instant}
    columns = [rows[of.get(name, f"{table.name}__{name}")] for name in table.schema.names]
    return pa.table(columns, names=table.schema.names).cast(_nullable(table.schema))


def _nullable(schema: pa.Schema) -> pa.Schema:
    """So that a null is refused by the contract's check, which says where it is."""
    return pa.schema([field.with_nullable(True) for field in schema])


def _fingerprint(directory: Path, split: Split, service: str) -> str:
    files = [*directory.glob("*.parquet"), *(directory / service).rglob("*.parquet")]
    hashes = {str(file.relative_to(directory)): sha256_of_file(file) for file in files}
    return sha256_of_json({"split": _record(split), "files": hashes})

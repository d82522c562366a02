"""Datasets of the stages: one graph from the warehouse to what is served, named as OpenLineage names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.lineage import MODELS, NAMESPACE, Dataset, datasets
from features.configuration import load
from features.contracts import RAW
from tests.scored_nights import configuration_at
from tests.tiny_world import write_world

NIGHT = (
    ("land", ""),
    ("build", ""),
    ("training_sets", ""),
    *((stage, model) for model in MODELS for stage in ("train", "export", "promote")),
    *((stage, "") for stage in ("score", "stage", "audit", "publish")),
)


def test_what_a_stage_reads_is_what_one_before_it_wrote(tmp_path: Path) -> None:
    configuration = load(write_world(tmp_path))
    services = {(NAMESPACE, f"{model}_training_v1") for model in MODELS}  # Feast's own events make them
    known = {Dataset(NAMESPACE, "source.synthetic"), *services}
    for stage, model in NIGHT:
        read, written = datasets(configuration, stage, model)
        assert {*read} <= known, stage
        assert read, stage
        assert written, stage
        known |= {*written}
    assert Dataset(NAMESPACE, "release.live") in known


@pytest.mark.parametrize("stage", ["register", "missing_champions", "open_staging", "close_staging", "freshness"])
def test_a_task_without_tables_tells_none(tmp_path: Path, stage: str) -> None:
    assert datasets(load(write_world(tmp_path)), stage) == ([], [])


@pytest.mark.parametrize(
    ("url", "namespace", "name"),
    [
        ("postgresql://me:hidden@db.example/shop", "postgres://db.example:5432", "shop.sales.customers"),
        ("postgres://me:hidden@db.example:5433/shop", "postgres://db.example:5433", "shop.sales.customers"),
        ("mysql+pymysql://me:hidden@db.example/shop", "mysql://db.example:3306", "shop.sales.customers"),
        ("sqlite:////data/shop.db", "sqlite://", "/data/shop.db.sales.customers"),
    ],
)
def test_a_warehouse_is_named_by_its_address_without_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, namespace: str, name: str
) -> None:
    source = {
        "kind": "sql",
        "url_variable": "WAREHOUSE_OF_A_TEST",
        "tables": {table: {} for table in RAW} | {"users": {"schema": "sales", "table": "customers"}},
    }
    configuration = configuration_at(tmp_path, source=source)
    assert datasets(configuration, "land")[0] == []  # nobody has said where it is
    monkeypatch.setenv("WAREHOUSE_OF_A_TEST", url)
    read, _ = datasets(configuration, "land")
    assert read[0] == (namespace, name)
    assert len(read) == len(RAW)
    assert "hidden" not in repr(read)


def test_a_directory_is_named_by_its_path(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path, source={"kind": "parquet", "path": "market"})
    assert datasets(configuration, "land")[0] == [("file", str(tmp_path / "market"))]

"""Which tables a stage reads and writes, as OpenLineage names datasets.

The night's tables are in the namespace of Feast's project and Feast's data sources have the names that Feast's own
events give them, so that both make one graph, from the warehouse to the feature services. A name is that of a table,
not of a night: the run tells which one it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from features.configuration import Configuration
from features.contracts import FEATURES, PUBLISHED, RAW
from features.errors import ConfigurationError

NAMESPACE = "attractor"
"""Feast's project."""

MODELS = ("karma", "dicer")
_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}


class Dataset(NamedTuple):
    """A dataset as OpenLineage names it."""

    namespace: str
    name: str


def datasets(configuration: Configuration, stage: str, model: str = "") -> tuple[list[Dataset], list[Dataset]]:
    """What the stage of `export/tasks.py` reads and writes; of the stages of one model, that model's."""
    raw, scored = [f"raw.{table}" for table in RAW], [f"scored.{view}" for view in PUBLISHED]
    built, served = [f"{view}_partitions" for view in FEATURES], [f"{view}_partitions" for view in PUBLISHED]
    training, champions = [f"training_set.{each}" for each in MODELS], [f"champion.{each}" for each in MODELS]
    flows: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "land": ([], raw),
        "build": (raw, built),
        "training_sets": ([f"{each}_training_v1" for each in MODELS], training),
        "train": ([f"training_set.{model}"], [f"checkpoint.{model}"]),
        "export": ([f"checkpoint.{model}", f"training_set.{model}"], [f"artifact.{model}"]),
        "promote": ([f"artifact.{model}"], [f"champion.{model}"]),
        "score": ([*built, *champions], scored),
        "stage": (scored, ["release.staged"]),
        "audit": (["release.staged"], ["release.audited"]),
        "publish": (["release.audited"], ["release.live", *served]),
    }
    read, written = flows.get(stage, ([], []))
    sources = _sources(configuration) if stage == "land" else []
    return [*sources, *(Dataset(NAMESPACE, name) for name in read)], [Dataset(NAMESPACE, name) for name in written]


def _sources(configuration: Configuration) -> list[Dataset]:
    """The tables of the warehouse, or the directory, that the source reads."""
    source = configuration.sections.get("source", {})
    if source.get("path"):
        return [Dataset("file", str((configuration.file.parent / Path(source["path"])).resolve()))]
    if source.get("kind") != "sql":
        return [Dataset(NAMESPACE, f"source.{source.get('kind', 'unknown')}")]
    from features.sources import SourceConfig
    from features.sources.sql_connection import warehouse_url

    config = configuration.section("source", SourceConfig)
    try:
        url = warehouse_url(config.variable)
    except ConfigurationError:  # told by the stage itself, which cannot land without it
        return []
    backend = url.get_backend_name()
    port = url.port or _DEFAULT_PORTS.get(backend)
    scheme = "postgres" if backend == "postgresql" else backend
    namespace = f"{scheme}://{url.host or ''}" + (f":{port}" if url.host and port else "")
    return [
        Dataset(namespace, ".".join(part for part in (url.database, mapped.schema, mapped.table or table) if part))
        for table, mapped in ((table, config.tables[table]) for table in RAW if table in config.tables)
    ]

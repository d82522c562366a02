"""Feast's materialisation in bounded memory: the latest rows are streamed, each batch written before the next is read.

Feast's local engine holds all rows of the window as one table, whatever `online_write_batch_size` says. In a
feature_store.yaml with the DuckDB offline store:

batch_engine:
  type: features.streamed_engine.StreamedComputeEngine
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ibis
import pyarrow as pa
from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import _convert_arrow_to_proto, _get_column_names
from tqdm import tqdm

from features.errors import ConfigurationError
from features.transforms import FeatureConfig, scratch_database

BATCH_ROWS = 10_000
"""Rows of a batch where `materialization: online_write_batch_size` is left out."""


class StreamedComputeEngineConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """`batch_engine:` of feature_store.yaml; what DuckDB may hold, beyond which it spills to `$TMPDIR`."""

    type: Literal["features.streamed_engine.StreamedComputeEngine"] = "features.streamed_engine.StreamedComputeEngine"
    memory_limit: str = "512MB"
    threads: int = 2


class StreamedComputeEngine(LocalComputeEngine):  # type: ignore[misc]
    """Materialises plain feature views; training sets and `get_historical_features` are as they were."""

    def __init__(self, **options: Any) -> None:
        """`options` are Feast's own and those of `StreamedComputeEngineConfig`."""
        own = {name: options.pop(name) for name in StreamedComputeEngineConfig.model_fields if name in options}
        super().__init__(**options)
        self.config = StreamedComputeEngineConfig(**own)

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **options: Any
    ) -> LocalMaterializationJob:
        """Write the latest row of each key in the task's window, bounds included, as Feast's local engine does.

        Raises ConfigurationError for a view that needs more than reading, or another offline store than DuckDB.
        """
        view = task.feature_view
        self._refuse_unless_plain(view)
        types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
        with self._latest(registry, task) as batches:
            for batch in batches:
                rows = _convert_arrow_to_proto(batch, view, types)
                self.online_store.online_write_batch(self.repo_config, view, rows, lambda written: None)
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.SUCCEEDED)

    def _refuse_unless_plain(self, view: FeatureView) -> None:
        more = ("feature_transformation", "source_views", "aggregations", "enable_validation", "offline")
        asked = [name for name in more if getattr(view, name, None)]
        if asked or not isinstance(self.offline_store, DuckDBOfflineStore):
            store = type(self.offline_store).__name__
            raise ConfigurationError(
                f"batch_engine {self.config.type}: expected a plain feature view on the duckdb offline store, "
                f"got {view.name!r}{''.join(f' with {name}' for name in asked)} on {store}"
            )

    @contextmanager
    def _latest(self, registry: BaseRegistry, task: MaterializationTask) -> Iterator[Iterator[pa.RecordBatch]]:
        view = task.feature_view
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        keys, names, instant, created = _get_column_names(view, entities)
        limits = FeatureConfig(memory_limit=self.config.memory_limit, threads=self.config.threads)
        with scratch_database(limits, Path(tempfile.gettempdir())) as database, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fetch_record_batch", DeprecationWarning)  # of ibis, which calls DuckDB
            database.execute("SET preserve_insertion_order = false")
            with _default_backend(ibis.duckdb.from_connection(database)):
                job = self.offline_store.pull_latest_from_table_or_query(
                    self.repo_config, view.batch_source, keys, names, instant, created, task.start_time, task.end_time
                )
                batches = self._batches(job, view.batch_source.field_mapping)
                yield tqdm(batches, desc=view.name, unit="batch", disable=None, leave=False)

    def _batches(self, job: IbisRetrievalJob, mapping: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        size = self.repo_config.materialization_config.online_write_batch_size or BATCH_ROWS
        for batch in job.table.to_pyarrow_batches(chunk_size=size):
            yield batch.rename_columns([mapping.get(name, name) for name in batch.schema.names])


@contextmanager
def _default_backend(backend: Any) -> Iterator[None]:
    """Feast's DuckDB store reads through the default backend of ibis, which has no memory limit."""
    before = ibis.options.default_backend
    ibis.set_backend(backend)
    try:
        yield
    finally:
        ibis.options.default_backend = before

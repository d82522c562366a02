"""Lay a scored night out as a release: sorted, indexed, memory-mappable, addressed by its content.

A night is written as a draft and renamed when it is whole, see `export/drafts.py`.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from export.drafts import drafting, settle
from features.configuration import Configuration
from features.contracts import KARMA_ITEM_EMBEDDING, KARMA_USER_INTEREST, PUBLISHED, Table
from features.errors import ContractViolation, DiskFailed, MissingInput
from features.files import disk_errors, fsync_tree, is_temporary, sha256_of_file, write_json
from features.key_index import key_hashes, write_index
from features.release_ids import RELEASE_ID
from features.release_table import BATCH_ROWS, INDEX_FOLDER, ROWS_FILE, embedding_columns, stored_schema
from features.releases import MANIFEST, POPULAR, READY, RELEASES, STAGING, contract_of, release_id_of
from features.windows import night_window

SPACE_MARK = b"space_id"
"""The entry of a scored file's metadata that names the embedding space of its vectors."""

SORT_MEMORY = "1GB"
"""Above it DuckDB sorts on disk, inside the draft."""

_FILE_ROW = "file_row_number"


def stage(
    configuration: Configuration, date: dt.date, scored: Path, about: Mapping[str, Any], *, also: Sequence[Table] = ()
) -> str:
    """Write `<scored>/<view>.parquet` of every published view as a staged release and return its id.

    `also` holds further tables that are served with them, see `features.feast_views`.

    `about` is `scored.json`: `date`, `models`, `space_id`, `metrics`, `figures`, `popular_items`. The same content
    gives the same id and changes nothing. Raises MissingInput without a scored file, ContractViolation if one cannot
    be laid out: columns or types differ, a value is missing, vectors differ in length, or are marked as of two spaces.
    """
    if about["date"] != date.isoformat():
        raise MissingInput(f"{scored} was scored for {about['date']}, asked for {date}; run `attractor score`")
    tables = [*PUBLISHED.values(), *also]
    with drafting(configuration.releases) as draft:
        views = {
            table.name: write_table(scored / f"{table.name}.parquet", table, draft)
            for table in tqdm(tables, desc="stage", disable=None, leave=False)
        }
        _check_space(scored, views, about["space_id"])
        if "popular_items" in about:  # a night that was scored by an earlier version has none
            write_json(draft / POPULAR, {"item_ids": list(about["popular_items"])})
        contracts = {table.name: contract_of(table) for table in tables}
        manifest = _manifest(draft, date, {"contracts": contracts, "views": views}, about)
        write_json(draft / MANIFEST, manifest)
        fsync_tree(draft)
        return settle(configuration.releases, draft, manifest["release_id"])


def _check_space(scored: Path, views: Mapping[str, Mapping[str, int]], space_id: str) -> None:
    """Refuse users' and items' vectors that cannot be compared; scoring marks each file with its space."""
    lengths, marks = {}, {}
    for table in (KARMA_USER_INTEREST, KARMA_ITEM_EMBEDDING):
        marks[table.name] = (pq.read_schema(scored / f"{table.name}.parquet").metadata or {}).get(SPACE_MARK)
        if views[table.name]["rows"]:
            lengths[table.name] = views[table.name]["dimension"]
    if set(marks.values()) not in ({None}, {space_id.encode()}):
        told = {name: mark.decode() if mark else None for name, mark in marks.items()}
        raise ContractViolation(KARMA_USER_INTEREST.name, "*", f"vectors of space {space_id} in both files", value=told)
    if len(set(lengths.values())) > 1:
        raise ContractViolation(KARMA_USER_INTEREST.name, "*", "vectors as long as those of items", value=lengths)


def is_known(configuration: Configuration, release_id: str) -> bool:
    """Whether a release of that id is staged, released or on the way between."""
    return any((configuration.releases / folder / release_id / MANIFEST).is_file() for folder in (RELEASES, STAGING))


def is_released(store: Path, release_id: str) -> bool:
    """Whether a release passed publication: it is complete and may be served."""
    return (store / RELEASES / release_id / READY).is_file()


def standing(folder: Path, mark: str) -> list[str]:
    """Names of the releases in `folder` that hold the file `mark`, oldest night first."""
    return sorted(path.parent.name for path in folder.glob(f"*/{mark}") if not is_temporary(path.parent))


def directory_of(store: Path, release_id: str) -> Path:
    """Where a release stands, staged or released. Raises MissingInput if nowhere."""
    for folder in (RELEASES, STAGING):
        if RELEASE_ID.fullmatch(release_id) and (store / folder / release_id / MANIFEST).is_file():
            return store / folder / release_id
    raise MissingInput(f"no release {release_id} in {store}, staged or released; run `attractor stage`")


def write_table(source: Path, table: Table, draft: Path) -> dict[str, int]:
    """Sort one scored file by key into `<draft>/<view>/rows.arrow` with its index; its row count and dimension.

    Memory holds one record batch, DuckDB's sort buffer and 8 bytes a row.
    """
    dimension = _dimension(source, table)
    schema = stored_schema(table, dimension)
    file = draft / table.name / ROWS_FILE
    file.parent.mkdir()
    hashes = [np.empty(0, np.uint64)]
    with disk_errors(file), pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in _sorted_batches(source, table, draft / ".sort"):
            stored = _laid_out(batch, table, schema)
            writer.write_batch(stored)
            hashes.append(key_hashes([stored.column(name) for name in table.key]))
        if len(hashes) == 1:
            writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema))
    shutil.rmtree(draft / ".sort", ignore_errors=True)
    write_index(draft / INDEX_FOLDER, table.name, np.concatenate(hashes))
    return {"rows": sum(map(len, hashes)), "dimension": dimension}


def _manifest(draft: Path, date: dt.date, laid_out: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    window = night_window(date)
    manifest: dict[str, Any] = {
        "date": date.isoformat(),
        "contracts": laid_out["contracts"],
        "files": {
            str(path.relative_to(draft)): {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        },
        "models": dict(about["models"]),
        "space_id": about["space_id"],
        "window": {"start": window.start.isoformat(), "end": window.end.isoformat()},
        "views": laid_out["views"],
        "metrics": dict(about["metrics"]),
        "figures": dict(about["figures"]),
        "evidence": dict(about.get("evidence", {})),  # without it the audit's gates of models refuse
        "version": version("attractor"),
    }
    return manifest | {"release_id": release_id_of(manifest)}


def _dimension(source: Path, table: Table) -> int:
    """Check the file's columns against the contract; the length of its first vector, 0 where there is none."""
    if not source.is_file():
        raise MissingInput(f"{source} does not exist; run `attractor score`")
    schema = pq.read_schema(source)
    for name in schema.names:
        if name not in table.schema.names:
            raise ContractViolation(table.name, name, f"only the columns {table.schema.names}", value=name)
    for field in table.schema:
        came = schema.field(field.name).type if field.name in schema.names else None
        fixed = came is not None and pa.types.is_fixed_size_list(came) and pa.list_(came.value_type) == field.type
        if came != field.type and not fixed:
            raise ContractViolation(table.name, field.name, f"a column of type {field.type}", value=str(came))
    for name in embedding_columns(table):
        for batch in pq.ParquetFile(source).iter_batches(1, columns=[name]):
            return int(pc.list_value_length(batch.column(0))[0].as_py() or 0)
    return 0


def _sorted_batches(source: Path, table: Table, scratch: Path) -> Iterator[pa.Table]:
    """Rows in key order, BATCH_ROWS at a time, with the row number each had in the file."""
    order = ", ".join(f'"{name}"' for name in (*table.key, _FILE_ROW))
    columns = ", ".join(f'"{name}"' for name in (*table.schema.names, _FILE_ROW))
    with duckdb.connect(config={"memory_limit": SORT_MEMORY, "temp_directory": str(scratch)}) as connection:
        query = f"SELECT {columns} FROM read_parquet(?, file_row_number = true) ORDER BY {order}"
        waiting: list[pa.RecordBatch] = []
        try:
            for batch in connection.execute(query, [str(source)]).to_arrow_reader(BATCH_ROWS):
                waiting.append(batch)
                while sum(map(len, waiting)) >= BATCH_ROWS:
                    together = pa.Table.from_batches(waiting)
                    yield together.slice(0, BATCH_ROWS)
                    waiting = together.slice(BATCH_ROWS).to_batches()
        except duckdb.IOException as error:
            raise DiskFailed(f"{scratch}, for sorting {source}: {error}") from error
        if sum(map(len, waiting)):
            yield pa.Table.from_batches(waiting)


def _laid_out(rows: pa.Table, table: Table, schema: pa.Schema) -> pa.RecordBatch:
    """The rows as one batch of the stored schema. Raises ContractViolation at the first value that does not fit."""
    numbers = rows.column(_FILE_ROW)
    columns = []
    for field in schema:
        column = rows.column(field.name).combine_chunks()
        if not field.nullable and column.null_count:
            _refuse(table, field.name, "a value", numbers, pc.is_null(column))
        if pa.types.is_fixed_size_list(field.type):
            lengths = pc.list_value_length(column)
            wrong = pc.not_equal(lengths, field.type.list_size)
            if pc.any(wrong).as_py():
                _refuse(table, field.name, f"a vector of {field.type.list_size}", numbers, wrong, value=lengths)
        if pa.types.is_nested(field.type):
            _check_elements(table, field.name, column, numbers)
        columns.append(_cast(column, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_elements(table: Table, name: str, column: pa.Array, numbers: pa.ChunkedArray) -> None:
    missing = pc.is_null(pc.list_flatten(column))
    if pc.any(missing).as_py():
        parent = pc.list_parent_indices(column).filter(missing)[0].as_py()
        raise ContractViolation(table.name, name, "a list without nulls", row=numbers[parent].as_py())


def _cast(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(wanted) and not pa.types.is_fixed_size_list(column.type):
        return pa.FixedSizeListArray.from_arrays(pc.list_flatten(column), type=wanted)
    return column.cast(wanted)


def _refuse(
    table: Table,
    column: str,
    rule: str,
    numbers: pa.ChunkedArray,
    wrong: pa.Array,
    *,
    value: pa.Array | None = None,
) -> None:
    place = pc.index(wrong, True).as_py()
    came = value[place].as_py() if value is not None else None
    raise ContractViolation(table.name, column, rule, row=numbers[place].as_py(), value=came)

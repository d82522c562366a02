"""One user in files: every row below a directory that names it, and Parquet files without it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from export.dicer_scoring import USER_BASES
from features.checked_tables import QUARANTINE
from features.contracts import USER_COLUMNS
from features.erased_users import naming, without
from features.files import fsync, is_temporary, read_json, replacing_file, temporary_sibling, write_json
from features.landing import RECORD


def files_naming(directory: Path, user: str) -> Iterator[tuple[Path, int]]:
    """Every Parquet and Arrow file below `directory` with a row that names the user, and how many rows do.

    Whatever has a column of users is looked into, known or not; writes that are not finished cannot be.
    """
    for file in sorted(directory.rglob("*")):
        if file.suffix in (".parquet", ".arrow") and not _is_unfinished(file, directory):
            rows = sum(int(naming(batch, user).sum()) for batch in _columns_of_users(file))
            if rows:
                yield file, rows


def unfinished(directory: Path) -> list[Path]:
    """Writes below `directory` that somebody has not finished, or never will, outermost first."""
    found = [path for path in directory.rglob("*") if is_temporary(path)]
    return sorted(path for path in found if not _is_unfinished(path.parent, directory))


def remove(path: Path) -> None:
    """Delete a file, or a directory that is first taken away in one step."""
    if path.is_dir():
        aside = path if is_temporary(path) else path.rename(temporary_sibling(path))
        shutil.rmtree(aside)
    else:
        path.unlink(missing_ok=True)
    fsync(path.parent)


def rewrite(file: Path, user: str) -> None:
    """Replace a Parquet file by the same without the user, row group by row group."""
    with replacing_file(file) as temporary:
        copy_without(file, temporary, user)


def copy_without(file: Path, target: Path, user: str) -> None:
    """Write to `target` the rows, row groups and metadata of a Parquet file without the user."""
    with pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        codec = opened.metadata.row_group(0).column(0).compression.lower() if opened.num_row_groups else "snappy"
        with pq.ParquetWriter(target, schema, compression="none" if codec == "uncompressed" else codec) as writer:
            for group in range(opened.num_row_groups):
                batches = opened.read_row_group(group).to_batches()
                writer.write_table(pa.Table.from_batches([without(batch, user) for batch in batches], schema))


def recount(directory: Path) -> None:
    """Let the record of a landed directory say how many rows its files hold now."""
    record = read_json(directory / RECORD)
    rows = {name: pq.read_metadata(directory / f"{name}.parquet").num_rows for name in record["rows"]}
    quarantined: dict[str, dict[str, int]] = {}
    for name in record["quarantined"]:
        reasons = pq.read_table(directory / QUARANTINE / f"{name}.parquet", columns=["column", "rule"]).to_pylist()
        counts = Counter(f"{reason['column']}: {reason['rule']}" for reason in reasons)
        if counts:
            quarantined[name] = dict(sorted(counts.items()))
    counted = record | {"rows": rows, "quarantined": quarantined}
    if counted != record:
        write_json(directory / RECORD, counted)


def _is_unfinished(path: Path, directory: Path) -> bool:
    return any(is_temporary(Path(part)) for part in path.relative_to(directory).parts)


def _columns_of_users(file: Path) -> Iterator[pa.RecordBatch]:
    """The columns of a file that hold users, batch by batch; nothing of a file that has none."""
    if file.suffix == ".arrow":
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_file(mapped) as reader:
            names = [name for name in reader.schema.names if name in USER_COLUMNS]
            for number in range(reader.num_record_batches if names else 0):
                yield reader.get_batch(number).select(names)
        return
    with pq.ParquetFile(file) as opened:
        names = [name for name in opened.schema_arrow.names if name in USER_COLUMNS]
        if file.name == USER_BASES:
            yield from (batch.rename_columns(["user_id"]) for batch in opened.iter_batches(columns=["id"]))
        elif names:
            yield from opened.iter_batches(columns=names)

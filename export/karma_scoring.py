"""A night of KARMA on ONNX Runtime alone: an embedding for every catalogue item and every user with a history."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from export.artifacts import Artifact
from export.karma_cache import item_cache
from export.karma_encoding import BATCH_TOKENS, Vectors, open_encoder
from export.staging import SPACE_MARK
from features.configuration import Configuration
from features.contracts import KARMA_ITEM_EMBEDDING, KARMA_USER_INTEREST, Table
from features.files import replacing_file
from features.partitions import partition_batches
from models.karma.text import Ragged, ragged, read_catalogue, read_histories

Chunk = tuple[list[str], Vectors]


def score_karma(
    artifact: Artifact,
    configuration: Configuration,
    date: dt.date,
    out: Path,
    *,
    rows: int = 8192,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, Any]:
    """Write `karma_item_embedding.parquet` and `karma_user_interest.parquet` into `out`, rows in partition order.

    `rows` are held at a time, `batch_tokens` padded tokens encoded at a time; of the catalogue, only its tokens stay.
    The figures count rows, and the items whose vectors came from an earlier night.
    """
    encoder = open_encoder(artifact.directory, batch_tokens=batch_tokens)
    row_of: dict[str, int] = {}
    words: list[Ragged] = []
    soft: list[Vectors] = []

    def items() -> Iterator[Chunk]:
        for batch in partition_batches(configuration, "item_catalog", date, rows=rows):
            catalogue = read_catalogue(batch, encoder.preparation)
            vectors = cache.encode(catalogue)
            row_of.update((item, len(row_of)) for item in catalogue.ids)
            words.append(catalogue.history_tokens)
            soft.append(vectors.soft)
            yield catalogue.ids, vectors.embeddings

    space = artifact.manifest["about"]["space_id"]
    with item_cache(artifact, encoder) as cache:
        item_count = _write(items(), KARMA_ITEM_EMBEDDING, out, space=space, label="karma items")
    all_words, all_soft = _joined(words), np.concatenate([np.empty((0, encoder.soft_numbers), np.float32), *soft])

    def users() -> Iterator[Chunk]:
        for batch in partition_batches(configuration, "user_history", date, rows=rows):
            histories = read_histories(batch, encoder.preparation, row_of)
            yield list(histories), encoder.users(list(histories.values()), all_words, all_soft)

    user_count = _write(users(), KARMA_USER_INTEREST, out, space=space, label="karma users")
    return {"items": item_count, "users": user_count, "items_reused": cache.reused}


def _write(chunks: Iterator[Chunk], table: Table, out: Path, *, space: str, label: str) -> int:
    count, schema = 0, table.schema.with_metadata({SPACE_MARK: space.encode()})
    progress = tqdm(desc=label, unit=" rows", disable=None, leave=False)
    with (
        replacing_file(out / f"{table.name}.parquet") as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
        progress,
    ):
        for ids, vectors in chunks:
            offsets = np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1]
            column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()))
            writer.write_table(pa.Table.from_arrays([pa.array(ids, pa.string()), column], schema=schema))
            count += len(ids)
            progress.update(len(ids))
    return count


def _joined(parts: list[Ragged]) -> Ragged:
    return ragged([part[row] for part in parts for row in range(len(part))])

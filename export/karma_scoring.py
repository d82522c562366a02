"""A night of KARMA on ONNX Runtime alone: an embedding for every catalogue item and every user with a history."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from export.artifacts import Artifact
from export.parity import open_session
from features.configuration import Configuration
from features.contracts import KARMA_ITEM_EMBEDDING, KARMA_USER_INTEREST, Table
from features.files import replacing_file
from features.partitions import partition_batches
from models.karma.text import (
    Catalogue,
    Preparation,
    Ragged,
    Rows,
    latest_sequence,
    length_batches,
    load_preparation,
    padded,
    ragged,
    read_catalogue,
    read_histories,
)

Vectors = NDArray[np.float32]
Chunk = tuple[list[str], Vectors]


def score_karma(
    artifact: Artifact,
    configuration: Configuration,
    date: dt.date,
    out: Path,
    *,
    rows: int = 8192,
    batch_tokens: int = 1024,
) -> dict[str, Any]:
    """Write `karma_item_embedding.parquet` and `karma_user_interest.parquet` into `out`, rows in partition order.

    `rows` are held at a time, `batch_tokens` padded tokens encoded at a time; of the catalogue, only its tokens stay.
    """
    preparation = load_preparation(artifact.directory)
    item_encoder = open_session(artifact.path("item_encoder.onnx"))
    history_encoder = open_session(artifact.path("history_encoder.onnx"))
    row_of: dict[str, int] = {}
    tokens: list[Ragged] = []

    def items() -> Iterator[Chunk]:
        for batch in partition_batches(configuration, "item_catalog", date, rows=rows):
            catalogue = read_catalogue(batch, preparation)
            row_of.update((item, len(row_of)) for item in catalogue.ids)
            tokens.append(catalogue.history_tokens)
            yield catalogue.ids, encode_items(item_encoder, catalogue, batch_tokens=batch_tokens)

    figures = {"items": _write(items(), KARMA_ITEM_EMBEDDING, out, label="karma items")}
    item_tokens = _joined(tokens)

    def users() -> Iterator[Chunk]:
        for batch in partition_batches(configuration, "user_history", date, rows=rows):
            yield encode_users(
                history_encoder, batch, preparation, row_of=row_of, item_tokens=item_tokens, batch_tokens=batch_tokens
            )

    return {**figures, "users": _write(users(), KARMA_USER_INTEREST, out, label="karma users")}


def encode_items(session: ort.InferenceSession, catalogue: Catalogue, *, batch_tokens: int) -> Vectors:
    """Item embeddings [items, d], texts of similar length together."""
    # One more token than the text for `[ITEM]`, and one for the picture.
    return _by_length(
        catalogue.tokens.lengths + 2, lambda part: session.run(None, catalogue.inputs(part))[0], batch_tokens
    )


def encode_users(
    session: ort.InferenceSession,
    batch: pa.RecordBatch,
    preparation: Preparation,
    *,
    row_of: dict[str, int],
    item_tokens: Ragged,
    batch_tokens: int,
) -> Chunk:
    """User ids and interests [users, d] of rows of `user_history`, without a current query."""
    histories = read_histories(batch, preparation, row_of)
    limit = preparation.config.sequence_tokens
    sequences = [latest_sequence(history, item_tokens, limit=limit).tokens for history in histories.values()]

    def encode(part: Rows) -> Any:
        input_ids, lengths = padded([sequences[row] for row in part])
        return session.run(None, {"input_ids": input_ids, "lengths": lengths})[0]

    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    return list(histories), _by_length(lengths, encode, batch_tokens)


def _by_length(lengths: Rows, encode: Callable[[Rows], Any], batch_tokens: int) -> Vectors:
    parts = [(rows, encode(rows)) for rows in length_batches(lengths, tokens=batch_tokens)]
    vectors = np.empty((len(lengths), parts[0][1].shape[1] if parts else 0), np.float32)
    for rows, encoded in parts:
        vectors[rows] = encoded
    return vectors


def _write(chunks: Iterator[Chunk], table: Table, out: Path, *, label: str) -> int:
    count = 0
    progress = tqdm(desc=label, unit=" rows", disable=None, leave=False)
    with (
        replacing_file(out / f"{table.name}.parquet") as temporary,
        pq.ParquetWriter(temporary, table.schema) as writer,
        progress,
    ):
        for ids, vectors in chunks:
            offsets = np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1]
            column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()))
            writer.write_table(pa.Table.from_arrays([pa.array(ids, pa.string()), column], schema=table.schema))
            count += len(ids)
            progress.update(len(ids))
    return count


def _joined(parts: list[Ragged]) -> Ragged:
    return ragged([part[row] for part in parts for row in range(len(part))])

"""Vectors of items that an earlier night made: looked up by what an item is, not by its name.

One Arrow file beside the artifact, named by its version: another artifact's vectors are never found. A changed title,
picture or id makes another key, so that this item alone is encoded again. The file holds what the last night used.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from export.artifacts import Artifact
from export.karma_encoding import Encoder, ItemVectors
from features.files import replacing_file
from models.karma.text import Catalogue

KEY_BYTES = 16
_CHECK = b"sha256"  # in a batch's metadata: of its rows

log = logging.getLogger(__name__)


def cache_path(artifact: Artifact) -> Path:
    """Where the vectors of an artifact's items lie."""
    return artifact.directory.with_name(f"{artifact.version}.items.arrow")


def content_keys(catalogue: Catalogue) -> list[bytes]:
    """A hash of everything that the item encoder sees of each item."""
    return [
        hashlib.blake2b(
            b"".join(
                (
                    catalogue.id_index[row].tobytes(),
                    catalogue.has_picture[row].tobytes(),
                    catalogue.pictures[row].tobytes(),
                    catalogue.tokens[row].tobytes(),
                )
            ),
            digest_size=KEY_BYTES,
        ).digest()
        for row in range(len(catalogue))
    ]


def _schema(artifact: Artifact, encoder: Encoder) -> pa.Schema:
    """Names the artifact too: a file that was moved or renamed is no cache of another one."""
    return pa.schema(
        {
            "key": pa.binary(KEY_BYTES),
            # The embedding, then the soft tokens.
            "vectors": pa.list_(pa.float32(), encoder.preparation.config.embedding + encoder.soft_numbers),
        },
        {b"artifact": artifact.version.encode()},
    )


@contextmanager
def item_cache(artifact: Artifact, encoder: Encoder) -> Iterator[ItemCache]:
    """The cache of one night; its file takes the place of the earlier one when the block ends well."""
    path, schema = cache_path(artifact), _schema(artifact, encoder)
    stored = _stored(path, schema)
    with replacing_file(path) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        yield ItemCache(encoder, stored, writer, schema)


def _stored(path: Path, schema: pa.Schema) -> pa.Table | None:
    """The rows of an earlier night; None if there are none, or the file is not what an earlier night wrote.

    They are read through once; memory holds what is asked for.
    """
    if not path.is_file():
        return None
    batches = []
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))  # stays on disk until a row is asked for
        for number in range(reader.num_record_batches):
            batch, marks = reader.get_batch_with_custom_metadata(number)
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns) or (marks or {}).get(_CHECK) != _check(batch):
                raise pa.ArrowInvalid(f"batch {number} is not what was written")
            batches.append(batch)
    except (OSError, pa.ArrowException) as error:
        log.warning("%s cannot be read and is made anew: %s", path, error)
        return None
    if not reader.schema.equals(schema, check_metadata=True):
        log.warning("%s holds vectors of another artifact and is made anew", path)
        return None
    return pa.Table.from_batches(batches, schema)


def _check(batch: pa.RecordBatch) -> bytes:
    """SHA-256 of the rows of a batch: a night re-uses only what a night wrote, bit for bit."""
    found = hashlib.sha256(b"".join(batch["key"].to_pylist()))
    found.update(np.ascontiguousarray(batch["vectors"].flatten().to_numpy()).data)
    return found.hexdigest().encode()


class ItemCache:
    """Encodes items, each content once; `reused` counts the items whose vectors an earlier night made."""

    def __init__(
        self, encoder: Encoder, stored: pa.Table | None, writer: pa.ipc.RecordBatchFileWriter, schema: pa.Schema
    ) -> None:
        """`stored` are the rows of an earlier night's file, None if there is none; `writer` gets this night's."""
        self.reused = 0
        self._encoder, self._stored, self._writer, self._schema = encoder, stored, writer, schema
        self._place = {} if stored is None else {key: row for row, key in enumerate(stored["key"].to_pylist())}
        self._written: set[bytes] = set()

    def encode(self, catalogue: Catalogue) -> ItemVectors:
        """Vectors of every item of `catalogue`."""
        keys = content_keys(catalogue)
        first: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        known = [key for key in first if key in self._place]
        new = [key for key in first if key not in self._place]
        made = self._encoder.items(catalogue, np.array([first[key] for key in new], np.int64))
        vectors = _stacked(self._found(known), made)
        self._write([*known, *new], vectors)
        self.reused += sum(key in self._place for key in keys)
        place = {key: row for row, key in enumerate([*known, *new])}
        return vectors.take(np.array([place[key] for key in keys], np.int64))

    def _found(self, keys: Sequence[bytes]) -> ItemVectors:
        width = self._encoder.preparation.config.embedding
        block = np.empty((0, width + self._encoder.soft_numbers), np.float32)
        if keys and self._stored is not None:
            rows = self._stored["vectors"].take(pa.array([self._place[key] for key in keys]))
            block = rows.combine_chunks().flatten().to_numpy().reshape(len(keys), -1)
        return ItemVectors(block[:, :width], block[:, width:])

    def _write(self, keys: Sequence[bytes], vectors: ItemVectors) -> None:
        fresh = [row for row, key in enumerate(keys) if key not in self._written]
        self._written.update(keys)
        part = vectors.take(np.array(fresh, np.int64))
        block = np.concatenate([part.embeddings, part.soft], axis=1).ravel()
        columns = [
            pa.array([keys[row] for row in fresh], self._schema.field("key").type),
            pa.FixedSizeListArray.from_arrays(pa.array(block), type=self._schema.field("vectors").type),
        ]
        batch = pa.record_batch(columns, schema=self._schema)
        self._writer.write_batch(batch, custom_metadata={_CHECK: _check(batch)})


def _stacked(first: ItemVectors, second: ItemVectors) -> ItemVectors:
    return ItemVectors(np.concatenate([first.embeddings, second.embeddings]), np.concatenate([first.soft, second.soft]))

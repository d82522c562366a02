"""Users who asked to be forgotten: keyed hashes of their ids, by which landing leaves out their rows for good.

The list lies in `<state>/erased.json` and holds no id. Its key is beside the hashes, so whoever has the file and a
candidate id can test the one against the other, as landing does; nobody reads the ids out of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.contracts import USER_COLUMNS
from features.errors import ArtifactCorrupt
from features.files import read_json, write_json

LIST = "erased.json"
SALT_BYTES = 32
_HASH_BYTES = 16


@dataclass(frozen=True)
class ErasedUsers:
    """The list; without users nothing is left out."""

    salt: bytes
    hashes: frozenset[bytes]

    def __contains__(self, user: str) -> bool:
        return bool(self.hashes) and hashed(user, self.salt) in self.hashes

    def rows(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Which rows of a raw table name an erased user in any of their columns."""
        found = np.zeros(len(batch), np.bool_)
        if self.hashes:
            for name in USER_COLUMNS.intersection(batch.schema.names):
                ids = batch.column(name).dictionary_encode()
                erased = pa.array([user in self for user in ids.dictionary.to_pylist()], pa.bool_())
                found |= erased.take(ids.indices).fill_null(False).to_numpy(zero_copy_only=False)
        return found


NOBODY = ErasedUsers(b"", frozenset())


def read_erased(state: Path) -> ErasedUsers:
    """The list of a state directory. Raises ArtifactCorrupt if there is one that cannot be read."""
    file = state / LIST
    if not file.is_file():
        return NOBODY
    try:
        record = read_json(file)
        return ErasedUsers(bytes.fromhex(record["salt"]), frozenset(map(bytes.fromhex, record["users"])))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{file}: expected a salt and the hashes of users, got {error!r}") from error


def remember(state: Path, user: str, *, salt: bytes) -> None:
    """Put a user on the list, for one who holds the lock of erasures. The first user's `salt` is every user's.

    Raises ValueError for a salt of another length.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"expected {SALT_BYTES} random bytes, got {len(salt)}")
    known = read_erased(state)
    salt = known.salt or salt
    users = sorted({*known.hashes, hashed(user, salt)})
    write_json(state / LIST, {"salt": salt.hex(), "users": [one.hex() for one in users]})


def hashed(user: str, salt: bytes) -> bytes:
    """The user's keyed BLAKE2b hash (RFC 7693)."""
    return hashlib.blake2b(user.encode(), key=salt, digest_size=_HASH_BYTES).digest()


def without(batch: pa.RecordBatch, user: str) -> pa.RecordBatch:
    """The batch without the user: rows that name it are left out, lists that hold it are cut, their counts with them.

    `<what>_count` is the number of `<what>_ids`, as the contracts of the feature tables have it.
    """
    batch = batch.filter(pa.array(~_named(batch, user, nested=False)))
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in USER_COLUMNS.intersection(columns):
        if pa.types.is_list(columns[name].type):
            columns[name] = _cut(columns[name], user)
            count = f"{name.removesuffix('_ids')}_count"
            if count in columns:
                columns[count] = pc.list_value_length(columns[name]).cast(columns[count].type)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def naming(batch: pa.RecordBatch, user: str) -> NDArray[np.bool_]:
    """Which rows name the user in a column of users or hold it in a list."""
    return _named(batch, user, nested=False) | _named(batch, user, nested=True)


def _named(batch: pa.RecordBatch, user: str, *, nested: bool) -> NDArray[np.bool_]:
    found = np.zeros(len(batch), np.bool_)
    for name in USER_COLUMNS.intersection(batch.schema.names):
        column = batch.column(name)
        if pa.types.is_list(column.type) != nested:
            continue
        if pa.types.is_integer(column.type):  # the key of somebody's own view
            column = column.cast(pa.string())
        if nested:
            parents = pc.list_parent_indices(column).filter(pc.equal(pc.list_flatten(column), user))
            found[parents.to_numpy(zero_copy_only=False)] = True
        else:
            found |= pc.equal(column, user).fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _cut(lists: pa.ListArray, user: str) -> pa.ListArray:
    values = pc.list_flatten(lists)
    kept = pc.fill_null(pc.not_equal(values, user), True)
    parents = pc.list_parent_indices(lists).filter(kept).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(parents, minlength=len(lists)))]).astype(np.int32)
    mask = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), values.filter(kept), type=lists.type, mask=mask)

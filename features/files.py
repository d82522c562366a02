"""Durable writes: everything goes to a temporary sibling, is fsynced, then renamed into place."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from features.errors import ArtifactCorrupt, DiskFailed

_TEMPORARY = ".tmp-"
_SEAL = "sha256"
_OF_THE_DISK = {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk into DiskFailed naming the file that it refused; `path` if that is not told."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        refused = Path(str(error.filename2 or error.filename or path))  # of a copy or a move the target
        if not refused.is_absolute() or is_temporary(refused):  # removing a directory tells names alone
            refused = path
        raise DiskFailed(f"{refused}: {os.strerror(error.errno)}") from error


def fsync(path: Path) -> None:
    """Flush one file's, or one directory's, entries to the disk."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fsync_tree(directory: Path) -> None:
    """Flush every file and directory below `directory`, and the directory itself."""
    for root, _, names in os.walk(directory):
        for name in names:
            fsync(Path(root, name))
        fsync(Path(root))


def share_alike(directory: Path, usual: Path) -> None:
    """Give every file below `directory` the permissions of `usual`, a file that was written plainly.

    safetensors and onnx leave some of theirs to their owner alone, and who trains need not be who resumes or scores.
    """
    permissions = usual.stat().st_mode
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(permissions)


def temporary_sibling(path: Path) -> Path:
    """A fresh name beside `path`, on the same file system, that readers know to ignore."""
    return path.with_name(f"{_TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")


def is_temporary(path: Path) -> bool:
    """Whether `path` is an unfinished write that a killed process may have left."""
    return path.name.startswith(_TEMPORARY)


def remove_temporaries(folder: Path) -> None:
    """Remove the unfinished writes in `folder`; for whoever knows that nobody else is writing there."""
    for path in list(folder.glob(f"{_TEMPORARY}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def make_directory(path: Path) -> None:
    """Make `path` and what is missing above it, durably: a file is only as safe as the entries that lead to it."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        fsync(path.parent)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it becomes `path` in one step, on failure it is removed."""
    temporary = temporary_sibling(path)
    try:
        with disk_errors(path):
            make_directory(path.parent)
            yield temporary
            fsync(temporary)
            os.replace(temporary, path)
            fsync(path.parent)
    finally:
        with suppress(OSError):  # what a broken disk keeps is ignored by readers and removed by a later writer
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory to fill; on success it becomes `path`, on failure it is removed.

    A directory that stood at `path` is moved aside first and deleted after. For state that is
    served while it is replaced, use content addresses and a pointer instead.
    """
    temporary, retired = temporary_sibling(path), temporary_sibling(path)
    try:
        with disk_errors(path):
            make_directory(path.parent)
            temporary.mkdir()
            yield temporary
            fsync_tree(temporary)
            if path.exists():
                os.rename(path, retired)
            os.rename(temporary, path)
            fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text durably and in one step."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write canonical, readable JSON durably; NaN is refused because it is not JSON."""
    write_text(path, _written(value))


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON that carries the SHA-256 of what it says, for `read_sealed_json`."""
    write_json(path, {**value, _SEAL: sha256_of_json(value)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The object of `write_sealed_json`. Raises ArtifactCorrupt if it is missing or a byte of it changed."""
    try:
        text = path.read_text(encoding="utf-8")
        sealed = _parsed(text)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{path} cannot be read: {error}") from error
    value = {name: told for name, told in sealed.items() if name != _SEAL}
    if text != _written(sealed) or sealed.get(_SEAL) != sha256_of_json(value):
        raise ArtifactCorrupt(f"{path} is not what was written: its own SHA-256 is that of other content")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object stored at `path`.

    Raises ValueError for what is not UTF-8 or not JSON, NaN and infinities, and a name that an object has twice.
    """
    return _parsed(path.read_text(encoding="utf-8"))


def _written(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("expected JSON, got values nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python's own reading keeps the last of two values, other readers the first.
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"expected names once, got {next(name for name in names if names.count(name) > 1)!r} again")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected JSON, got {name}")


def _finite(text: str) -> float:
    # Python reads 1e999 as infinity, without asking parse_constant.
    if not math.isfinite(value := float(text)):
        raise ValueError(f"expected a number within the range of a float, got {text}")
    return value


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a value's canonical JSON: the identity of inputs and manifests."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

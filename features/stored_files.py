"""The files that the manifest of an artifact or a release names: plain names inside its directory, nothing linked.

A manifest is read before anything that it names is trusted, so what it says is checked like any other input.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import ArtifactCorrupt
from features.files import sha256_of_file

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,7}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredFile:
    """What a manifest records of a file that is there."""

    path: Path
    bytes: int
    sha256: str

    def verify(self) -> None:
        """Read the file. Raises ArtifactCorrupt if its bytes are not those recorded, or it is gone."""
        try:
            came = sha256_of_file(self.path)
        except OSError as error:
            raise ArtifactCorrupt(f"{self.path} cannot be read: {error}") from error
        if came != self.sha256:
            raise ArtifactCorrupt(f"{self.path}: expected SHA-256 {self.sha256}, got {came}")


def stored_files(manifest: Path, files: Any) -> dict[str, StoredFile]:
    """The files of a manifest's `files` entry, by name, each looked at in the manifest's directory but not read.

    Raises ArtifactCorrupt as `recorded_files` does, and where a file is missing, has another size, or is not a file of
    its own: a link, a directory, a device, or below a linked directory.
    """
    found = recorded_files(manifest, files)
    for file in found.values():
        _check_stands(manifest.parent, file)
    return found


def recorded_files(manifest: Path, files: Any) -> dict[str, StoredFile]:
    """What a manifest's `files` entry records, by name, whether or not it is there yet.

    Raises ArtifactCorrupt for a name that is not plain (absolute, `..`, hidden, a control character, beyond ASCII), two
    that differ in case alone, and a record without size and SHA-256.
    """
    if not isinstance(files, Mapping):
        raise ArtifactCorrupt(f"{manifest}: expected `files` as an object of names, got {type(files).__name__}")
    known: dict[str, str] = {}
    for name in files:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ArtifactCorrupt(f"{manifest}: expected names of files inside the directory, got {name!r}")
        if known.setdefault(name.casefold(), name) != name:
            raise ArtifactCorrupt(f"{manifest}: {known[name.casefold()]!r} and {name!r} differ in case alone")
    return {name: _recorded(manifest, name, record) for name, record in files.items()}


def _recorded(manifest: Path, name: str, record: Any) -> StoredFile:
    size, digest = (record.get("bytes"), record.get("sha256")) if isinstance(record, Mapping) else (None, None)
    if type(size) is not int or size < 0 or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ArtifactCorrupt(f"{manifest}: expected `bytes` and `sha256` of {name!r}, got {record!r}")
    return StoredFile(manifest.parent / name, size, digest)


def _check_stands(directory: Path, file: StoredFile) -> None:
    """That the file is one of its own, of its size: `lstat` says so without following a link or opening a pipe."""
    above = [path for path in file.path.parents if directory in path.parents]
    try:
        linked = any(stat.S_ISLNK(path.lstat().st_mode) for path in above)
        found = file.path.lstat()
    except OSError as error:
        raise ArtifactCorrupt(f"{file.path}: expected {file.bytes} bytes, got no file: {error.strerror}") from error
    if linked or not stat.S_ISREG(found.st_mode):
        raise ArtifactCorrupt(f"{file.path}: expected a file of its own, got a link or no plain file")
    if found.st_size != file.bytes:
        raise ArtifactCorrupt(f"{file.path}: expected {file.bytes} bytes, got {found.st_size}")

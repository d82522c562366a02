"""Reading every byte of the release store again: which files are not what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from export.staging import directory_of, is_known
from features.configuration import Configuration
from features.errors import ArtifactCorrupt
from features.files import is_temporary, read_sealed_json, sha256_of_file
from features.release_bucket import ReleaseBucket
from features.release_storage import bucket_of
from features.releases import (
    AUDIT,
    MANIFEST,
    POINTER,
    READY,
    RELEASES,
    REPORT,
    STAGING,
    open_release,
    read_object,
    read_pointer,
)
from features.stored_files import stored_files

_SEALED_BY_READY = {MANIFEST: "manifest_sha256", AUDIT: "audit_sha256", REPORT: "report_sha256"}


@dataclass(frozen=True)
class Verified:
    """What was read of a release, or of the pointer: its name, how much, and a sentence for each damaged file."""

    name: str
    bytes: int
    damaged: tuple[str, ...]


def verify(configuration: Configuration, release_id: str | None = None) -> list[Verified]:
    """Read one release, or the pointer and every release, staged ones too, oldest night first; in the bucket as well.

    Raises MissingInput if there is no release of that name.
    """
    store, bucket = configuration.releases, bucket_of(configuration)
    there = _verified_in_bucket(bucket, release_id) if bucket is not None else []
    if release_id is not None:
        here = is_known(configuration, release_id) or not there
        return [*([_verified_release(directory_of(store, release_id))] if here else []), *there]
    found = [path for folder in (RELEASES, STAGING) for path in (store / folder).glob("*") if path.is_dir()]
    directories = sorted((path for path in found if not is_temporary(path)), key=lambda path: path.name)
    return [*_verified_pointer(store), *map(_verified_release, directories), *there]


def _verified_in_bucket(bucket: ReleaseBucket, release_id: str | None) -> list[Verified]:
    """Read from the bucket without storing anything."""
    sizes = bucket.sizes()
    releases = [
        Verified(f"{bucket.url}/{RELEASES}/{name}", size, _damage([partial(bucket.verify, name)]))
        for name, size in sizes.items()
        if release_id in (None, name)
    ]
    pointer = (
        [Verified(f"{bucket.url}/{POINTER}", 0, _damage([partial(_check_remote_pointer, bucket)]))]
        if release_id is None
        else []
    )
    return [*pointer, *releases]


def _verified_pointer(store: Path) -> list[Verified]:
    file = store / POINTER
    if not file.is_file():
        return []
    return [Verified(POINTER, file.stat().st_size, _damage([partial(_check_pointer, store)]))]


def _verified_release(directory: Path) -> Verified:
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    damaged = _damage([partial(open_release, directory)])  # reads every file that the manifest names, once
    if damaged:
        damaged = _damage([*_sealed(directory), *_files_one_by_one(directory)]) or damaged
    else:
        damaged = _damage(_sealed(directory))
    return Verified(directory.name, size, damaged)


def _damage(checks: Iterable[Callable[[], object]]) -> tuple[str, ...]:
    told = []
    for check in checks:
        try:
            check()
        except ArtifactCorrupt as error:
            told.append(str(error))
    return tuple(told)


def _sealed(directory: Path) -> Iterator[Callable[[], object]]:
    yield partial(read_object, directory / MANIFEST)
    if (directory / READY).exists():
        for name, entry in _SEALED_BY_READY.items():
            yield partial(_check_sealed, directory, name, entry)


def _files_one_by_one(directory: Path) -> Iterator[Callable[[], object]]:
    for name, record in _files(directory).items():
        yield partial(_check_file, directory / MANIFEST, name, record)


def _files(directory: Path) -> Mapping[str, Any]:
    try:
        files = read_object(directory / MANIFEST).get("files")
    except ArtifactCorrupt:
        return {}  # told already
    return files if isinstance(files, Mapping) else {}


def _check_file(manifest: Path, name: str, record: Any) -> None:
    stored_files(manifest, {name: record})[name].verify()


def _check_sealed(directory: Path, name: str, entry: str) -> None:
    ready = read_sealed_json(directory / READY)
    try:
        came = sha256_of_file(directory / name)
    except OSError as error:
        raise ArtifactCorrupt(f"{directory / name} cannot be read: {error}") from error
    if came != ready.get(entry):
        raise ArtifactCorrupt(f"{directory / name}: expected SHA-256 {ready.get(entry)}, got {came}")


def _check_remote_pointer(bucket: ReleaseBucket) -> None:
    found = bucket.pointer()
    if found is not None and bucket.ready(found.pointer.release_id) is None:
        raise ArtifactCorrupt(f"{bucket.url}/{POINTER} names {found.pointer.release_id}, which is not there")


def _check_pointer(store: Path) -> None:
    pointer = read_pointer(store)
    if pointer is not None and not (store / RELEASES / pointer.release_id / READY).is_file():
        raise ArtifactCorrupt(f"{store / POINTER} names {pointer.release_id}, which is not there or not ready")

"""Releases in an S3-compatible bucket: whole ones by their manifest, and one pointer that is replaced conditionally.

The layout is that of a local store, without staging: `<url>/current.json` and `<url>/releases/<id>/…`. READY is the
last object of a release that is written and the first that is deleted. Endpoint and credentials are those that boto
finds: `AWS_ENDPOINT_URL`, `AWS_PROFILE`, an instance's role; none of them is ever in a configuration file.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from features.errors import ArtifactCorrupt, AttractorError, BucketUnreachable, ConfigurationError, MissingInput
from features.files import read_sealed_json, sha256_of_file, write_sealed_json
from features.release_ids import RELEASE_ID
from features.releases import AUDIT, MANIFEST, POINTER, READY, RELEASES, REPORT, Pointer, read_object
from features.stored_files import recorded_files

RETIRING = "retiring"
"""Entry of the bucket's pointer: releases whose deletion was decided and that nothing may point at any more."""

DESCRIPTION = (MANIFEST, AUDIT, REPORT)
"""What stands beside READY and is not in the manifest."""

BLOCK = 8 * 2**20
_RETRIES = {"retries": {"max_attempts": 2, "mode": "standard"}, "connect_timeout": 5, "read_timeout": 30}


class PointerMoved(AttractorError):
    """Somebody else moved the pointer between its reading and its replacement; nothing was changed."""


@dataclass(frozen=True)
class RemotePointer:
    """The bucket's pointer, what is being deleted, and the ETag that a replacement must still find."""

    pointer: Pointer
    retiring: tuple[str, ...]
    etag: str


class ReleaseBucket:
    """The releases below `s3://bucket/prefix`. Methods raise BucketUnreachable where the bucket does not answer."""

    def __init__(self, url: str) -> None:
        if not url.startswith("s3://") or not url.removeprefix("s3://").strip("/"):
            raise ConfigurationError(f"expected releases at s3://bucket/prefix, got {url!r}")
        self.url = url.rstrip("/")
        self._root = self.url.removeprefix("s3://")

    def pointer_etag(self) -> str | None:
        """What changes when the pointer does, None before the first publication; one request without a body."""
        with self._reaching():
            try:
                return str(self._files.info(self._path(POINTER))["ETag"])
            except FileNotFoundError:
                return None

    def pointer(self) -> RemotePointer | None:
        """The pointer, None before the first publication. Raises ArtifactCorrupt if it is not what was written."""
        with self._reaching(), tempfile.TemporaryDirectory() as folder:
            try:
                with self._files.open(self._path(POINTER), "rb") as stream:  # reads the object of this ETag, or fails
                    etag, content = str(stream.details["ETag"]), stream.read()
            except FileNotFoundError:
                return None
            file = Path(folder, POINTER)
            file.write_bytes(content)
            try:
                record = read_sealed_json(file)
                return RemotePointer(Pointer.of(record), tuple(record[RETIRING]), etag)
            except (ArtifactCorrupt, KeyError, TypeError, ValueError) as error:
                raise ArtifactCorrupt(f"{self.url}/{POINTER} is not a pointer that was written: {error}") from error

    def replace_pointer(self, pointer: Pointer, *, retiring: tuple[str, ...], expected: str | None) -> str:
        """Write the pointer if the one of ETag `expected` still stands, None: if none does; the new ETag.

        Raises PointerMoved if another publisher was first.
        """
        content = _sealed(pointer.record() | {RETIRING: list(retiring)})
        condition: dict[str, str] = {"mode": "create"} if expected is None else {"IfMatch": expected}
        try:
            with self._reaching():
                answer = self._files.pipe_file(self._path(POINTER), content, **condition)
                return str(answer["ETag"])
        except BucketUnreachable:
            found = self.pointer()
            if found is not None and (found.pointer, found.retiring) == (pointer, retiring):
                return found.etag  # written, but the answer was lost and the second attempt found the first one's
            if (found.etag if found else None) == expected:
                raise
            now = found.pointer.release_id if found else "nothing"
            raise PointerMoved(
                f"{self.url}: another publisher made {now} live meanwhile; nothing was changed, run the command again"
            ) from None

    def release_ids(self) -> list[str]:
        """Releases that are complete, oldest night first."""
        return [name for name, ready in self._listed().items() if ready]

    def sizes(self) -> dict[str, int]:
        """The bytes of every complete release, oldest night first."""
        sizes = dict.fromkeys(self.release_ids(), 0)
        for name, _, size, _ in self._objects():
            if name in sizes:
                sizes[name] += size
        return sizes

    def unfinished(self, *, before: dt.datetime) -> list[str]:
        """Releases without READY none of whose objects was written since `before`: uploads that were killed."""
        newest = self._newest()
        return [name for name, ready in self._listed().items() if not ready and newest[name] < before]

    def ready(self, release_id: str) -> bytes | None:
        """The content of a release's READY, None if it is not complete."""
        with self._reaching():
            try:
                # one request: with more than one reader s3fs asks for the size first
                content: bytes = self._files.cat_file(self._path(RELEASES, release_id, READY), max_concurrency=1)
            except FileNotFoundError:
                return None
            return content

    def upload(self, directory: Path) -> None:
        """Upload a local release, READY last; each object is read back and compared before READY is written.

        What an upload that was killed left is used where it is whole. Raises ArtifactCorrupt if the bucket, or the
        disk, gives other bytes than the manifest records.
        """
        release_id = directory.name
        standing = self.ready(release_id)
        if standing == (directory / READY).read_bytes():
            return
        digests = _digests(directory)
        if standing is not None:
            self._delete(RELEASES, release_id, READY)  # of other content: never beside files that it does not name
        there = {rest: size for name, rest, size, _ in self._objects() if name == release_id}
        for name, digest in digests.items():
            path, size = self._path(RELEASES, release_id, name), (directory / name).stat().st_size
            if there.get(name) == size and self._sha256(path, size) == digest:
                continue
            with self._reaching():
                self._files.put_file(str(directory / name), path)
            if self._sha256(path, size) != digest:
                raise ArtifactCorrupt(f"s3://{path}: expected SHA-256 {digest}, got other bytes back")
        with self._reaching():
            self._files.pipe_file(self._path(RELEASES, release_id, READY), (directory / READY).read_bytes())

    def download(self, release_id: str, directory: Path, *, described_only: bool = False) -> None:
        """Download a release into an empty directory, all or only what describes it; for `open_release` to verify.

        Raises MissingInput if the bucket has no complete release of that id, ArtifactCorrupt for a manifest whose
        names leave the directory.
        """
        ready = self.ready(release_id)
        if ready is None:
            raise MissingInput(f"no release {release_id} in {self.url}; `attractor releases` lists them")
        for name in DESCRIPTION:
            self._fetch(release_id, name, directory / name)
        if not described_only:
            manifest = directory / MANIFEST
            for name in recorded_files(manifest, read_object(manifest).get("files")):
                self._fetch(release_id, name, directory / name)
        (directory / READY).write_bytes(ready)

    def verify(self, release_id: str) -> None:
        """Read every object of a release and compare its SHA-256, storing none. Raises ArtifactCorrupt naming one."""
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder, release_id)
            directory.mkdir()
            self.download(release_id, directory, described_only=True)
            for name, digest in _digests(directory).items():
                path = self._path(RELEASES, release_id, name)
                if (came := self._sha256(path)) != digest:
                    raise ArtifactCorrupt(f"s3://{path}: expected SHA-256 {digest}, got {came or 'no object'}")

    def delete(self, release_id: str) -> None:
        """Delete a release, READY first; deleting what is gone does nothing."""
        self._delete(RELEASES, release_id, READY)
        with self._reaching():
            for path in self._files.find(self._path(RELEASES, release_id)):
                self._files.rm_file(path)

    @property
    def _files(self) -> AbstractFileSystem:
        """fsspec keeps one file system a process, and makes another after a fork."""
        try:
            return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=_RETRIES)
        except ImportError as error:
            raise ConfigurationError(f"{self.url} needs s3fs: pip install 'attractor[s3]'") from error

    def _path(self, *names: str) -> str:
        return "/".join((self._root, *names))

    def _fetch(self, release_id: str, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        path = self._path(RELEASES, release_id, name)
        with self._reaching():
            try:
                self._files.get_file(path, str(target))
            except FileNotFoundError as error:
                raise ArtifactCorrupt(f"s3://{path}: expected an object, got none") from error

    def _sha256(self, path: str, size: int | None = None) -> str | None:
        """Of an object's bytes, of the first `size` of them if it is known, which saves a request; None without one."""
        digest = hashlib.sha256()
        with self._reaching():
            try:
                with self._files.open(path, "rb", block_size=BLOCK, cache_type="readahead", size=size) as stream:
                    while block := stream.read(BLOCK):
                        digest.update(block)
            except FileNotFoundError:
                return None
        return digest.hexdigest()

    def _delete(self, *names: str) -> None:
        with self._reaching():
            self._files.rm_file(self._path(*names))

    def _listed(self) -> dict[str, bool]:
        """Every release that has an object, and whether it has READY."""
        found: dict[str, bool] = {}
        for name, rest, *_ in self._objects():
            found[name] = found.get(name, False) or rest == READY
        return dict(sorted(found.items()))

    def _newest(self) -> dict[str, dt.datetime]:
        newest: dict[str, dt.datetime] = {}
        for name, _, _, at in self._objects():
            newest[name] = max(at, newest.get(name, at))
        return newest

    def _objects(self) -> Iterator[tuple[str, str, int, dt.datetime]]:
        """Release, name within it, bytes and time of each object."""
        prefix = self._path(RELEASES)
        with self._reaching():
            objects: Mapping[str, Any] = self._files.find(prefix, detail=True)
        for path, told in objects.items():
            name, _, rest = path.removeprefix(f"{prefix}/").partition("/")
            if RELEASE_ID.fullmatch(name):
                yield name, rest, told["size"], told["LastModified"]

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (OSError, BotoCoreError, ClientError) as error:
            raise BucketUnreachable(f"{self.url}: {type(error).__name__}: {error}") from error


def _digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of everything in a release but READY: what READY and the manifest record, so far as they do."""
    ready = read_sealed_json(directory / READY)
    described = {
        MANIFEST: ready.get("manifest_sha256"),
        AUDIT: ready.get("audit_sha256"),
        REPORT: ready.get("report_sha256"),
    }
    recorded = recorded_files(directory / MANIFEST, read_object(directory / MANIFEST).get("files"))
    return {
        **{name: str(digest or sha256_of_file(directory / name)) for name, digest in described.items()},
        **{name: file.sha256 for name, file in recorded.items()},
    }


def _sealed(record: Mapping[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, POINTER)
        write_sealed_json(file, record)
        return file.read_bytes()

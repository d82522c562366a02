"""The bucket behind a publisher's store. The bucket's pointer is the truth, the store's is a copy of it.

A publisher holds its store's lock, brings the store to what the bucket has, decides as ever, uploads, and replaces the
bucket's pointer on condition that it is still the one that was read. Only then the store's pointer follows: whoever is
killed before is behind, and the next command brings the store up to date.

A deletion is announced in the bucket's pointer before it begins, so that no other publisher can point at what goes.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from export.drafts import DRAFTS, discard, move
from export.staging import is_released, standing
from features.configuration import Configuration
from features.errors import ArtifactCorrupt, BucketUnreachable, MissingInput
from features.files import fsync_tree, make_directory, write_sealed_json
from features.release_bucket import PointerMoved, ReleaseBucket
from features.release_storage import bucket_of
from features.releases import MANIFEST, POINTER, RELEASES, STAGING, Pointer, open_release, read_pointer

log = logging.getLogger(__name__)


class Remote:
    """One publisher's view of its bucket, for as long as it holds its store's lock."""

    def __init__(self, store: Path, bucket: ReleaseBucket) -> None:
        self._store, self._bucket = store, bucket
        self._etag: str | None = None
        self._retiring: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self._bucket.url

    def pull(self, *, fetch: bool = True) -> None:
        """Bring the store to the bucket's pointer and, with `fetch`, its releases; an empty one changes nothing."""
        found = self._bucket.pointer()
        if found is not None:
            self._etag, self._retiring = found.etag, found.retiring
        if fetch:
            for release_id in self.release_ids():
                self.fetch(release_id)
        if found is not None and read_pointer(self._store) != found.pointer:
            write_sealed_json(self._store / POINTER, found.pointer.record())

    def release_ids(self) -> list[str]:
        """Complete releases of the bucket that nobody is deleting, oldest night first."""
        return [name for name in self._bucket.release_ids() if name not in self._retiring]

    def unfinished(self, *, before: dt.datetime) -> list[str]:
        """Releases whose upload was killed before an instant."""
        return self._bucket.unfinished(before=before)

    def fetch(self, release_id: str) -> None:
        """Have a release of the bucket in the store, verified byte by byte. Raises MissingInput as `upload` does."""
        self._check_stays(release_id)
        if is_released(self._store, release_id):
            return
        draft = self._store / DRAFTS / f"download-{release_id}"
        make_directory(draft)
        self._bucket.download(release_id, draft)
        if open_release(draft).release_id != release_id:
            raise ArtifactCorrupt(f"{self}/{RELEASES}/{release_id} holds another release")
        fsync_tree(draft)
        for folder in (RELEASES, STAGING):
            if (self._store / folder / release_id).exists():  # the same content, not admitted here
                discard(self._store, self._store / folder / release_id)
        move(draft, self._store / RELEASES / release_id)

    def upload(self, release_id: str) -> None:
        """Have a release of the store in the bucket, whole. Raises MissingInput for one that is being deleted."""
        self._check_stays(release_id)
        self._bucket.upload(self._store / RELEASES / release_id)

    def point(self, pointer: Pointer) -> None:
        """Make `pointer` the bucket's, then the store's. Raises PointerMoved if another publisher was first."""
        for name in (pointer.release_id, pointer.previous):
            if name is not None and is_released(self._store, name):
                self.upload(name)
        self._etag = self._bucket.replace_pointer(pointer, retiring=self._retiring, expected=self._etag)
        write_sealed_json(self._store / POINTER, pointer.record())

    def delete(self, pointer: Pointer, release_ids: Collection[str]) -> None:
        """Delete releases that `pointer` does not need, and complete deletions that were killed.

        Raises PointerMoved, with nothing deleted, if another publisher moved the pointer.
        """
        doomed = tuple(sorted({*release_ids, *self._retiring} - {pointer.release_id, pointer.previous}))
        if not doomed:
            return
        self._announce(pointer, doomed)
        for name in doomed:
            self._bucket.delete(name)
            log.info("retired %s from %s", name, self)
        self._announce(pointer, ())

    def delete_if_possible(self, pointer: Pointer, release_ids: Sequence[str]) -> None:
        """The same after a publication, which stands whether or not old releases can be deleted now."""
        try:
            self.delete(pointer, release_ids)
        except (PointerMoved, BucketUnreachable) as error:
            log.warning("old releases stay in %s until the next publication: %s", self, error)

    def _check_stays(self, release_id: str) -> None:
        if release_id in self._retiring:
            raise MissingInput(f"{release_id} is being deleted from {self}: run `attractor gc` to the end first")

    def _announce(self, pointer: Pointer, retiring: tuple[str, ...]) -> None:
        self._etag = self._bucket.replace_pointer(pointer, retiring=retiring, expected=self._etag)
        self._retiring = retiring


def remote_of(configuration: Configuration) -> Remote | None:
    """The bucket that [releases] names, None where releases stay in the state directory."""
    bucket = bucket_of(configuration)
    return Remote(configuration.releases, bucket) if bucket is not None else None


def point(store: Path, pointer: Pointer, remote: Remote | None) -> None:
    """Make `pointer` what is served."""
    if remote is None:
        write_sealed_json(store / POINTER, pointer.record())
    else:
        remote.point(pointer)


@contextmanager
def described(configuration: Configuration) -> Iterator[tuple[Pointer | None, list[Path]]]:
    """The pointer, and a directory with the manifest of every release: of this machine, and of the bucket.

    While the bucket does not answer, what is known is that of this machine, and the log says so.
    """
    store, bucket = configuration.releases, bucket_of(configuration)
    local = [store / folder / name for folder in (RELEASES, STAGING) for name in standing(store / folder, MANIFEST)]
    if bucket is None:
        yield read_pointer(store), local
        return
    try:
        found = bucket.pointer()
    except BucketUnreachable as error:
        log.warning("this machine's releases only: %s", error)
        yield read_pointer(store), local
        return
    here = {directory.name for directory in local if directory.parent.name == RELEASES}
    with tempfile.TemporaryDirectory() as folder:
        for name in bucket.release_ids():
            if name not in here:
                Path(folder, name).mkdir()
                bucket.download(name, Path(folder, name), described_only=True)
        yield found.pointer if found else None, [*local, *sorted(Path(folder).iterdir())]

"""A reader's verified copy of what a bucket serves: the pointer is looked at now and then, and requests never wait.

The copy is laid out as a local store, so that everything that reads a store reads it. A release is downloaded into
`incoming/`, verified byte by byte, and renamed; only then does the copy's pointer name it. While the bucket does not
answer, the copy goes on being served and `unheard()` says for how long nothing was heard.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from features.errors import ArtifactCorrupt, AttractorError, MissingInput
from features.files import fsync, fsync_tree, make_directory, temporary_sibling, write_sealed_json
from features.locks import exclusive
from features.release_bucket import ReleaseBucket
from features.releases import MANIFEST, POINTER, READY, RELEASES, Pointer, open_release, read_pointer

INCOMING, LOCK = "incoming", ".copy-lock"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleasesConfig:
    """Where releases live, and how readers follow them there."""

    url: str = ""  # s3://bucket/prefix; empty: the store in the state directory
    recheck_seconds: float = 5.0  # a reader looks at the bucket's pointer at most this often
    cached_releases: int = 2  # kept on a reader's disk, beside the live one and the one before it

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith("s3://"):
            raise ValueError(f'expected url = "s3://bucket/prefix", or none for the state directory, got {self.url!r}')
        if not self.recheck_seconds >= 0 or self.cached_releases < 0:
            raise ValueError("expected recheck_seconds and cached_releases of at least 0")


class ReleaseCopy:
    """The verified copy of a bucket's releases below `root`; shared by the threads and processes of a host.

    `clock` counts seconds. `local` is a store on the same disk whose whole releases need not be downloaded.
    """

    def __init__(
        self,
        bucket: ReleaseBucket,
        root: Path,
        config: ReleasesConfig,
        *,
        local: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket, self._root, self._config, self._local, self._clock = bucket, root, config, local, clock
        self._seen: str | None = None  # the ETag whose release is in the copy
        self._checked_at: float | None = None
        self._heard_at: float | None = None
        self._fault: str | None = None
        self._refreshing: threading.Thread | None = None
        self._starting = threading.Lock()

    def follow(self) -> None:
        """For the beginning of a request: look at the bucket where the last look is `recheck_seconds` ago.

        The first look of a process is waited for, later ones and their downloads run beside the requests. Raises
        what went wrong only while there is nothing to serve.
        """
        if self._checked_at is None:
            self.refresh()
        elif self._clock() - self._checked_at >= self._config.recheck_seconds and not self._is_refreshing():
            with self._starting:
                if not self._is_refreshing():
                    self._refreshing = threading.Thread(target=self._refresh, name="releases", daemon=True)
                    self._refreshing.start()

    def refresh(self) -> None:
        """Look at the bucket now and wait for what it serves. Raises only while there is nothing to serve."""
        error = self._refresh()
        if error is not None and read_pointer(self._root) is None:
            raise error

    def fetch(self, release_id: str) -> None:
        """Have a release in the copy. Raises MissingInput if the bucket has no such release."""
        with exclusive(self._root / LOCK):
            self._fetch(release_id)

    def unheard(self) -> str | None:
        """Why the bucket was not heard at the last look, and for how long; None if it was."""
        if self._fault is None:
            return None
        silent = "since this process began" if self._heard_at is None else f"for {self._clock() - self._heard_at:.0f} s"
        return f"not heard from {self._bucket.url} {silent}, the verified copy is served: {self._fault}"

    def _is_refreshing(self) -> bool:
        return self._refreshing is not None and self._refreshing.is_alive()  # a thread does not survive a fork

    def _refresh(self) -> AttractorError | None:
        try:
            with exclusive(self._root / LOCK):  # one download a host, and pointers in the order of the bucket
                self._update()
        except AttractorError as error:
            if self._fault != str(error):
                log.warning("the copy of %s stays as it is: %s", self._bucket.url, error)
            self._fault = str(error)
            return error
        else:
            self._fault, self._heard_at = None, self._clock()
            return None
        finally:
            self._checked_at = self._clock()

    def _update(self) -> None:
        etag = self._bucket.pointer_etag()
        if etag is not None and etag == self._seen:
            return
        found = self._bucket.pointer()
        if found is None:
            raise MissingInput(f"no release is published in {self._bucket.url}")
        self._fetch(found.pointer.release_id)
        if self._pointer() != found.pointer:
            write_sealed_json(self._root / POINTER, found.pointer.record())
        if found.pointer.previous is not None:  # for a fallback or a rollback that needs no download
            with suppress(MissingInput):
                self._fetch(found.pointer.previous)
        self._seen = found.etag
        self._evict(found.pointer)

    def _pointer(self) -> Pointer | None:
        try:
            return read_pointer(self._root)
        except ArtifactCorrupt:
            return None  # is written anew

    def _fetch(self, release_id: str) -> None:
        """Download, verify, rename; for one who holds the copy's lock."""
        target = self._root / RELEASES / release_id
        if (target / READY).is_file():
            return
        shutil.rmtree(self._root / INCOMING, ignore_errors=True)  # of a killed download
        directory = self._root / INCOMING / release_id
        make_directory(directory)
        if not self._linked(release_id, directory):
            self._bucket.download(release_id, directory)
        if open_release(directory).release_id != release_id:
            raise ArtifactCorrupt(f"{self._bucket.url}/{RELEASES}/{release_id} holds another release")
        fsync_tree(directory)
        make_directory(target.parent)
        if target.exists():  # without READY: an eviction was killed in it
            shutil.rmtree(target)
        directory.rename(target)
        fsync(target.parent)

    def _linked(self, release_id: str, directory: Path) -> bool:
        """Link the files of the local store's release, if it has it whole."""
        local = self._local / RELEASES / release_id if self._local else None
        if local is None or not (local / READY).is_file():
            return False
        try:
            shutil.copytree(local, directory, copy_function=os.link, dirs_exist_ok=True)
        except OSError:  # another disk, or retired meanwhile
            shutil.rmtree(directory)
            directory.mkdir()
            return False
        return True

    def _evict(self, pointer: Pointer) -> None:
        """Delete all but the live release, the one before and the newest few. Who holds an evicted one reads on."""
        releases = self._root / RELEASES
        whole = sorted(path.parent.name for path in releases.glob(f"*/{MANIFEST}"))
        newest = whole[len(whole) - self._config.cached_releases :]
        for name in set(whole) - {pointer.release_id, pointer.previous, *newest}:
            aside = temporary_sibling(self._root / INCOMING / name)
            make_directory(aside.parent)
            (releases / name).rename(aside)
            shutil.rmtree(aside)

"""Writing to the release store: one writer at a time, directories that appear and vanish whole, nothing left behind.

What is not whole stands in `drafts/` or under a temporary name, where no reader looks. A process that is killed leaves
it there; the next writer removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.files import disk_errors, fsync, make_directory, remove_temporaries
from features.locks import exclusive
from features.releases import RELEASES, STAGING

LOCK, DRAFTS = ".lock", "drafts"


@contextmanager
def exclusive_store(store: Path) -> Iterator[None]:
    """Hold the store's lock, with what killed writers left removed. Raises DiskFailed naming what the disk refuses."""
    with disk_errors(store), exclusive(store / LOCK):
        for folder in (
            store,
            store / RELEASES,
            store / STAGING,
            *store.glob(f"{RELEASES}/*"),
            *store.glob(f"{STAGING}/*"),
        ):
            remove_temporaries(folder)
        for draft in store.glob(f"{DRAFTS}/*"):
            if not _is_held(draft):
                shutil.rmtree(draft)
        yield


@contextmanager
def drafting(store: Path) -> Iterator[Path]:
    """Yield an empty directory to fill and to `settle`; what is not settled is removed.

    It is locked for as long as this process lives, so that other writers know whose drafts may go: several processes
    draft at once, also the same night.
    """
    with exclusive_store(store):
        draft = _fresh(store, "draft")
        draft.mkdir()
        held = os.open(draft, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with disk_errors(draft):
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(held)


def settle(store: Path, draft: Path, release_id: str) -> str:
    """Put the draft in its place; a staged twin gives way because its figures may be older, a released one stays."""
    with exclusive_store(store):
        if not (store / RELEASES / release_id).exists():
            target = store / STAGING / release_id
            if target.exists():
                discard(store, target)
            move(draft, target)
    return release_id


def move(directory: Path, target: Path) -> None:
    """Rename a directory within the store, durably."""
    make_directory(target.parent)
    directory.rename(target)
    fsync(target.parent)
    fsync(directory.parent)


def discard(store: Path, directory: Path) -> None:
    """Take a directory out of the store in one step, then delete it; for one who holds the store's lock."""
    aside = _fresh(store, directory.name)
    move(directory, aside)
    with disk_errors(aside):
        shutil.rmtree(aside)


def _fresh(store: Path, name: str) -> Path:
    make_directory(store / DRAFTS)
    return store / DRAFTS / f"{name}-{uuid.uuid4().hex[:8]}"


def _is_held(draft: Path) -> bool:
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

"""Which releases stay: the live one, the one before it, and the newest few; the others are deleted."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.drafts import discard, exclusive_store
from export.remote import remote_of
from export.staging import standing
from features.configuration import Configuration
from features.errors import MissingInput
from features.releases import MANIFEST, RELEASES, STAGING, Pointer, read_pointer

KEEP_RELEASES = 7
"""Releases that stay for rolling back, beside the live one and the one before it."""

KEEP_LEAST = 3
"""Fewer are never kept."""

KEEP_STAGED = 7
"""Refused or forgotten nights that stay in staging to be looked at."""

STAGED_TIME = dt.timedelta(days=1)
"""Before that, a staged night may be waiting for its audit or its publication: a backfill stages many at once."""

UPLOAD_TIME = dt.timedelta(days=1)
"""An upload that wrote nothing for so long was killed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """What was deleted, or with a dry run would be, and what stays."""

    deleted: tuple[str, ...]
    unfinished: tuple[str, ...]  # uploads that were killed
    kept: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {name: list(value) for name, value in asdict(self).items()}


def superfluous(names: Sequence[str], *, keep: int, spared: Collection[str | None]) -> list[str]:
    """Of release names, oldest night first, those beyond the newest `keep` that are not spared."""
    assert keep > 0
    return [name for name in names[:-keep] if name not in spared]


def retire(
    store: Path, pointer: Pointer, *, now: dt.datetime, spared: str | None = None, keep: int = KEEP_RELEASES
) -> None:
    """Delete old releases and old staged nights; for one who holds the store's lock."""
    kept = {pointer.release_id, pointer.previous, spared}
    at_work = _touched(store / STAGING, since=now - STAGED_TIME)
    for folder, most, needed in ((RELEASES, max(KEEP_LEAST, keep), kept), (STAGING, KEEP_STAGED, kept | at_work)):
        for name in superfluous(standing(store / folder, MANIFEST), keep=most, spared=needed):
            discard(store, store / folder / name)
            log.info("retired %s", name)


def _touched(folder: Path, *, since: dt.datetime) -> set[str]:
    """Names of the directories in which a file was made or replaced at `since` or later."""
    return {path.name for path in folder.glob("*") if path.stat().st_mtime >= since.timestamp()}


def collect(configuration: Configuration, *, keep: int, now: dt.datetime, dry_run: bool = False) -> Collected:
    """Delete all but the live release, the one before and the newest `keep`, at least 3; on disk and in the bucket.

    In a bucket, what a killed upload or deletion left goes too. Raises MissingInput if nothing was ever published,
    ValueError for fewer than 3.
    """
    if keep < KEEP_LEAST:
        raise ValueError(f"expected to keep at least {KEEP_LEAST} releases, got {keep}")
    store = configuration.releases
    with exclusive_store(store):
        remote = remote_of(configuration)
        if remote is not None:
            remote.pull()
        pointer = read_pointer(store)
        if pointer is None:
            raise MissingInput(f"no release is published in {remote or store}: nothing to collect")
        kept = {pointer.release_id, pointer.previous}
        names = sorted({*standing(store / RELEASES, MANIFEST), *(remote.release_ids() if remote else [])})
        doomed = superfluous(names, keep=keep, spared=kept)
        unfinished = remote.unfinished(before=now - UPLOAD_TIME) if remote else []
        if not dry_run:
            if remote is not None:
                remote.delete(pointer, [*doomed, *unfinished])
            retire(store, pointer, now=now, keep=keep)
    return Collected(tuple(doomed), tuple(unfinished), tuple(name for name in names if name not in doomed))

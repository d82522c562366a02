"""Around staging: room for the night before it is laid out, nothing of a killed run left behind after it."""

from __future__ import annotations

import datetime as dt
import errno
import os

from export.drafts import DRAFTS, exclusive_store
from export.plan import free_bytes
from features.configuration import Configuration
from features.errors import DiskFailed, MissingInput

DRAFT_FACTOR = 2
"""A night's bytes stand there twice while it is staged: the sorted rows, and what the sort keeps aside."""


def open_staging(configuration: Configuration, date: dt.date) -> int:
    """Remove what killed runs left, then see whether the disk holds the scored night; the bytes that it needs.

    Raises MissingInput if the night was not scored, DiskFailed if there is no room.
    """
    scored = configuration.scored / date.isoformat()
    if not scored.is_dir():
        raise MissingInput(f"the night of {date} was not scored: no {scored}; run `attractor score --date {date}`")
    close_staging(configuration)
    needed = DRAFT_FACTOR * sum(file.stat().st_size for file in scored.iterdir())
    free = free_bytes(configuration.releases)
    if needed > free:
        raise DiskFailed(
            f"{configuration.releases}: {os.strerror(errno.ENOSPC)}: staging the night of {date} needs {needed:,} "
            f"bytes, {free:,} are free; `attractor gc` deletes old releases"
        )
    return needed


def close_staging(configuration: Configuration) -> list[str]:
    """Remove the drafts that no living process holds; their names."""
    drafts = configuration.releases / DRAFTS
    before = {draft.name for draft in drafts.glob("*")}
    with exclusive_store(configuration.releases):  # removes them as it is entered
        return sorted(before - {draft.name for draft in drafts.glob("*")})

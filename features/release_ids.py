"""What releases are called: their night, and twelve hexadecimal digits of the hash of their content."""

from __future__ import annotations

import datetime as dt
import re

from features.windows import parse_date

RELEASE_ID = re.compile(r"\d{4}-\d{2}-\d{2}-[0-9a-f]{12}", re.ASCII)


def night_of_release(release_id: str) -> dt.date:
    """The night of an id. Raises ValueError for what is none: an id can be a directory's name, whoever gave it."""
    message = f"expected a release id such as 2026-03-01-0123456789ab, got {release_id!r}"
    if not RELEASE_ID.fullmatch(release_id):
        raise ValueError(message)
    try:
        return parse_date(release_id[:10])
    except ValueError as error:
        raise ValueError(message) from error

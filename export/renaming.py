"""Records that name releases or artifacts, by the names that those have now."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Names = Mapping[str, str]
"""New names by old ones."""


def renamed(record: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A JSON object with the old names replaced in all of its texts, also within sentences."""
    if not names:
        return dict(record)
    pattern = re.compile("|".join(map(re.escape, names)))
    told: dict[str, Any] = json.loads(pattern.sub(lambda found: names[found[0]], json.dumps(record)))
    return told

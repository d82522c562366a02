"""A market of 120 people in which a whole night, training included, takes seconds."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.dicer.config import dicer_tiny
from models.karma.config import karma_tiny

NIGHT = dt.date(2026, 1, 21)
"""The day after the last of the market's events."""

WORLD: Mapping[str, Mapping[str, Any]] = {
    "source": {"kind": "synthetic", "users": 120, "items": 80, "days": 20},
    "training": {"validation_days": 3, "test_days": 3},
    "karma": asdict(karma_tiny()),
    "dicer": asdict(dicer_tiny()),
}


def write_world(directory: Path, **changed: Mapping[str, Any]) -> Path:
    """Write `attractor.toml` for the market, with the sections in `changed` added or replaced."""
    lines = ['state = "state"']
    for section, settings in {**WORLD, **changed}.items():
        lines += [
            f"[{section}]",
            *(f"{name} = {json.dumps(value)}" for name, value in settings.items() if value is not None),
        ]
    file = directory / "attractor.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file

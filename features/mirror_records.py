"""What a state directory knows of the stores that its releases were mirrored into: where they are, and which keys.

Apart from `features/feast_mirror.py`, because it is asked by commands that need no Feast.
"""

from __future__ import annotations

from pathlib import Path

from features.files import read_json, sha256_of_json, write_json

MIRRORS, TARGET = "mirrors", "target.json"


def folder_of(state: Path, project: str, target: Path) -> Path:
    """Where the keys that a mirror was given are kept, a Parquet file a view."""
    return state / MIRRORS / sha256_of_json([project, str(target.resolve())])[:12]


def remember_target(folder: Path, target: Path) -> None:
    """Keep which feature_store.yaml the mirror is of."""
    record = {"target": str(target.resolve())}
    if not (folder / TARGET).is_file() or read_json(folder / TARGET) != record:
        write_json(folder / TARGET, record)


def target_of(folder: Path) -> str:
    """The feature_store.yaml of a mirror."""
    return str(read_json(folder / TARGET)["target"])

"""Model artifacts without one user: its row of DICER's base embeddings, and its held-out gain.

What the other weights learned from what the user did stays in them until the next training. An artifact without the
user is another one, by its content address; its manifest says which it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from export.artifacts import Artifact, load, save
from export.champions import rename
from export.dicer_scoring import USER_BASES
from export.erased_files import copy_without, files_naming, remove
from export.held_out import HELD_OUT
from export.karma_cache import cache_path
from features.configuration import Configuration

WEIGHTS, USER_BASE = "weights.safetensors", "user_base"


def erase_from_artifacts(configuration: Configuration, user: str) -> dict[str, str]:
    """Store every artifact that holds the user again without it, and name the new ones champions.

    Returns new versions by old ones. The old ones stand until `remove_artifacts`, when nothing names them any more.
    """
    root = configuration.artifacts
    holding = {file.relative_to(root).parts[1] for file, _ in files_naming(root, user)}
    versions = {version: _without(root, load(root, version), user).version for version in sorted(holding)}
    rename(configuration, versions)
    return versions


def remove_artifacts(configuration: Configuration, versions: Iterable[str]) -> None:
    """Remove artifacts that nothing names any more, each in one step."""
    for version in versions:
        directory = configuration.artifacts / version.rsplit("-", 1)[0] / version
        remove(directory.with_name(f"{version}.items.arrow"))
        remove(directory)


def _without(root: Path, artifact: Artifact, user: str) -> Artifact:
    changed = {file.name for file, _ in files_naming(artifact.directory, user)}
    if USER_BASES in changed:
        changed.add(WEIGHTS)

    def fill(directory: Path) -> Mapping[str, Any]:
        for name in artifact.manifest["files"]:
            if name not in changed:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(artifact.path(name), directory / name)  # weights of gigabytes are neither read nor copied
        if USER_BASES in changed:
            _cut_bases(artifact, directory, user)
        about = dict(artifact.manifest["about"])
        if HELD_OUT in changed:
            copy_without(artifact.path(HELD_OUT), directory / HELD_OUT, user)
            gains = pq.read_table(directory / HELD_OUT)["gain"]
            about["held_out"] = about["held_out"] | {"users": len(gains), "mean": pc.mean(gains).as_py()}
        return about | {"erased_from": [*about.get("erased_from", []), artifact.version]}

    made = save(root, artifact.model, fill)
    cache = cache_path(artifact)
    if cache.is_file() and not cache_path(made).is_file():
        os.link(cache, cache_path(made))
    return made


def _cut_bases(artifact: Artifact, directory: Path, user: str) -> None:
    """Row k of the weights' user bases is of the k-th user of `user_bases.parquet`."""
    bases = pq.read_table(artifact.path(USER_BASES))
    kept = pc.not_equal(bases["id"], user)
    pq.write_table(bases.filter(kept), directory / USER_BASES)
    weights = load_file(artifact.path(WEIGHTS))
    rows = np.flatnonzero(kept.to_numpy())
    save_file(weights | {USER_BASE: np.ascontiguousarray(weights[USER_BASE][rows])}, directory / WEIGHTS)

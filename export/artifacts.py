"""Model artifacts: immutable directories named by the hash of what they hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import ArtifactCorrupt, MissingInput
from features.files import fsync, fsync_tree, read_json, sha256_of_file, sha256_of_json, temporary_sibling, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """One stored artifact: `model` is `karma` or `dicer`, `version` the content address."""

    model: str
    version: str
    directory: Path
    manifest: Mapping[str, Any]

    def path(self, name: str) -> Path:
        """The file `name` inside the artifact."""
        return self.directory / name


def save(root: Path, model: str, fill: Callable[[Path], Mapping[str, Any]]) -> Artifact:
    """Store what `fill(directory)` writes; the JSON object it returns becomes the manifest's `about`.

    The version is the hash of every file and of `about`, so saving the same content twice gives the
    same artifact. Nothing is left behind if `fill` raises.
    """
    (root / model).mkdir(parents=True, exist_ok=True)
    draft = temporary_sibling(root / model / "draft")
    draft.mkdir()
    try:
        about = fill(draft)
        files = {
            str(path.relative_to(draft)): {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        manifest = {"model": model, "files": files, "about": dict(about)}
        version = f"{model}-{sha256_of_json(manifest)[:12]}"
        write_json(draft / MANIFEST, manifest)
        fsync_tree(draft)
        if not (root / model / version).exists():
            draft.rename(root / model / version)
            fsync(root / model)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return load(root, version)


def load(root: Path, version: str) -> Artifact:
    """Open and verify an artifact. Raises MissingInput if absent, ArtifactCorrupt if a byte changed."""
    model = version.rsplit("-", 1)[0]
    directory = root / model / version
    if not (directory / MANIFEST).is_file():
        raise MissingInput(f"no artifact {version} under {root}; run `attractor train` and `attractor export`")
    manifest = read_json(directory / MANIFEST)
    if f"{model}-{sha256_of_json(manifest)[:12]}" != version:
        raise ArtifactCorrupt(f"{directory / MANIFEST} does not hash to {version}")
    for name, recorded in manifest["files"].items():
        path = directory / name
        if not path.is_file() or sha256_of_file(path) != recorded["sha256"]:
            raise ArtifactCorrupt(f"{path} is not the file recorded in {directory / MANIFEST}")
    return Artifact(model, version, directory, manifest)

"""Model artifacts: immutable directories named by the hash of what they hold."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import ArtifactCorrupt, MissingInput
from features.files import (
    fsync,
    fsync_tree,
    sha256_of_file,
    sha256_of_json,
    share_alike,
    temporary_sibling,
    write_json,
)
from features.releases import read_object
from features.stored_files import stored_files

MANIFEST = "manifest.json"
VERSION = re.compile(r"([a-z][a-z0-9_]{0,31})-[0-9a-f]{12}")


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
        share_alike(draft, draft / MANIFEST)
        fsync_tree(draft)
        if not (root / model / version).exists():
            draft.rename(root / model / version)
            fsync(root / model)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return load(root, version)


def load(root: Path, version: str) -> Artifact:
    """Open and verify an artifact.

    Raises MissingInput if absent, ArtifactCorrupt if a byte changed, a file is there that the manifest does not name,
    or an ONNX graph reads weights from a file that is not of the artifact.
    """
    parts = VERSION.fullmatch(version)
    if parts is None:
        raise MissingInput(f"expected an artifact such as karma-0123456789ab, got {version!r}")
    model = parts[1]
    directory = root / model / version
    if not (directory / MANIFEST).is_file():
        raise MissingInput(f"no artifact {version} under {root}; run `attractor train` and `attractor export`")
    manifest = read_object(directory / MANIFEST)
    if f"{model}-{sha256_of_json(manifest)[:12]}" != version:
        raise ArtifactCorrupt(f"{directory / MANIFEST} does not hash to {version}")
    if manifest.get("model") != model or not isinstance(manifest.get("about"), Mapping):
        raise ArtifactCorrupt(f"{directory / MANIFEST}: expected `about` and the model {model}")
    _check_files(directory, manifest.get("files"))
    return Artifact(model, version, directory, manifest)


def _check_files(directory: Path, recorded: Any) -> None:
    files = stored_files(directory / MANIFEST, recorded)
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if name not in files and name != MANIFEST and (path.is_symlink() or not path.is_dir()):
            raise ArtifactCorrupt(f"{path} is not named by {directory / MANIFEST}: a graph beside it might be run")
    for file in files.values():
        file.verify()
    for name, file in files.items():
        if file.path.suffix == ".onnx":
            from export.external_data import check_external_data  # onnx: not needed to look at other artifacts

            check_external_data(file.path, files.keys(), folder=name.rpartition("/")[0])

"""Artifacts: named by content, verified when opened, never half-written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from export.artifacts import load, save
from features.errors import ArtifactCorrupt, MissingInput


def fill(text: str) -> Any:
    def write(directory: Path) -> Mapping[str, Any]:
        (directory / "weights.bin").write_text(text)
        return {"metrics": {"HR@10": 0.5}}

    return write


def test_the_same_content_is_the_same_artifact(tmp_path: Path) -> None:
    first, again, other = (save(tmp_path, "karma", fill(text)) for text in ("a", "a", "b"))
    assert first.version == again.version != other.version
    assert load(tmp_path, first.version).manifest["about"] == {"metrics": {"HR@10": 0.5}}
    assert sorted(path.name for path in (tmp_path / "karma").iterdir()) == sorted({first.version, other.version})


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    artifact = save(tmp_path, "karma", fill("a"))
    artifact.path("weights.bin").write_text("b")
    with pytest.raises(ArtifactCorrupt, match=r"weights\.bin"):
        load(tmp_path, artifact.version)


def test_an_edited_manifest_is_found(tmp_path: Path) -> None:
    artifact = save(tmp_path, "karma", fill("a"))
    manifest = artifact.path("manifest.json")
    manifest.write_text(manifest.read_text().replace("0.5", "0.9"))
    with pytest.raises(ArtifactCorrupt, match="does not hash"):
        load(tmp_path, artifact.version)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> Mapping[str, Any]:
        (directory / "half").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        save(tmp_path, "dicer", fail)
    assert not list((tmp_path / "dicer").iterdir())


def test_an_absent_artifact_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="attractor train"):
        load(tmp_path, "karma-000000000000")

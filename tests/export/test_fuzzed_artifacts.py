"""The artifact loader on bad input: a changed byte is an error that names the file, whatever the file is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from export import artifacts
from export.external_data import check_external_data
from features.errors import ArtifactCorrupt, MissingInput
from features.files import read_json, write_json
from tests.bad_inputs import ANY_EDITS, Edit, edited, fed, fuzzed, replaced


def fill(directory: Path) -> Mapping[str, Any]:
    """One file of every kind that artifacts hold."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [2], np.ones(2, np.float32).tobytes(), raw=True)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "weight"], ["y"])], "sum", ends[:1], ends[1:], [weight])
    onnx.save_model(helper.make_model(graph), directory / "encoder.onnx")
    save_file({"weight": np.ones(3, np.float32)}, directory / "weights.safetensors")
    pq.write_table(pa.table({"item_id": ["a", "b"]}), directory / "item_index.parquet")
    write_json(directory / "config.json", {"embedding": 8})
    return {"space_id": "space-1"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> artifacts.Artifact:
    return artifacts.save(tmp_path_factory.mktemp("artifacts"), "karma", fill)


@given(place=st.floats(0, 1, exclude_max=True), edits=ANY_EDITS)
@fuzzed(60)
def test_any_file_with_bytes_changed_is_refused(artifact: artifacts.Artifact, place: float, edits: list[Edit]) -> None:
    files = sorted(artifact.directory.iterdir())
    path = files[int(place * len(files))]
    before = path.read_bytes()
    content = edited(before, edits)
    fed(f"artifact bytes, {path.suffix}")
    try:
        path.write_bytes(content)
        loaded = artifacts.load(artifact.directory.parents[1], artifact.version)
        assert content == before or (path.name == artifacts.MANIFEST and loaded.manifest == artifact.manifest)
    except ArtifactCorrupt as error:
        assert artifact.version in str(error)  # noqa: PT017
    finally:
        path.write_bytes(before)


@given(data=st.data())
@fuzzed(40)
def test_a_manifest_with_one_value_changed_is_refused(artifact: artifacts.Artifact, data: st.DataObject) -> None:
    path = artifact.path(artifacts.MANIFEST)
    before = path.read_bytes()
    changed = replaced(read_json(path), data.draw)
    fed("artifact manifest values")
    try:
        path.write_text(json.dumps(changed))
        loaded = artifacts.load(artifact.directory.parents[1], artifact.version)
        assert loaded.manifest == artifact.manifest
    except ArtifactCorrupt:
        pass
    finally:
        path.write_bytes(before)


@given(edits=ANY_EDITS)
@fuzzed(60)
def test_a_graph_with_bytes_changed_is_looked_through_or_refused(
    artifact: artifacts.Artifact, tmp_path: Path, edits: list[Edit]
) -> None:
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(edited(artifact.path("encoder.onnx").read_bytes(), edits))
    fed("graph bytes")
    try:
        check_external_data(graph, {"encoder.onnx"})
    except ArtifactCorrupt as error:
        assert "encoder.onnx" in str(error)  # noqa: PT017


@given(version=st.text(max_size=40))
@fuzzed(60)
def test_any_text_is_no_artifact(artifact: artifacts.Artifact, version: str) -> None:
    fed("artifact versions")
    for asked in (version, f"../karma/{artifact.version}", f"{artifact.version}{version[:1]}"):
        if asked != artifact.version:
            with pytest.raises(MissingInput):
                artifacts.load(artifact.directory.parents[1], asked)

"""What is loaded cannot run code, lead outside its directory or be taken for something else."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export import artifacts
from export.external_data import check_external_data
from features.errors import ArtifactCorrupt, MissingInput
from features.files import read_json, read_sealed_json, sha256_of_file, write_json, write_sealed_json
from features.releases import MANIFEST, READY, open_release, open_releases, release_id_of
from features.stored_files import stored_files
from tests.pickle_search import pickles_below, pickles_in_code
from tests.scored_nights import configuration_at, publish_night, stage_night, tables

ROOT = Path(__file__).resolve().parents[2]
NIGHT = dt.date(2026, 3, 1)
SOURCES = [
    path for part in ("features", "models", "export", "dags", "benchmarks") for path in (ROOT / part).rglob("*.py")
]


def test_no_code_reads_or_writes_a_pickle() -> None:
    assert len(SOURCES) > 100
    found = {str(path.relative_to(ROOT)): pickles_in_code(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: offences for path, offences in found.items() if offences} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.save(network, path)",
        "yaml.load(text)",
        "frame.to_pickle(path)",
        "eval(setting)",
    ],
)
def test_the_search_of_code_finds_what_it_is_for(line: str) -> None:
    assert pickles_in_code(line)
    assert not pickles_in_code("torch.load(path, weights_only=True); np.load(path, allow_pickle=False); a.eval()")


def test_the_search_of_files_finds_what_it_is_for(tmp_path: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / f"protocol-{protocol}").write_bytes(pickle.dumps({"a": [1, 2.5]}, protocol=protocol))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps([1]))
    connection = sqlite3.connect(tmp_path / "cells.db")
    with connection:
        connection.execute("CREATE TABLE cells (value BLOB)")
        connection.execute("INSERT INTO cells VALUES (?)", (pickle.dumps({"x": 1}),))
    connection.close()
    assert len(pickles_below(tmp_path)) == len(list(tmp_path.iterdir()))

    clean = tmp_path / "clean"
    clean.mkdir()
    np.save(clean / "numbers.npy", np.arange(5), allow_pickle=False)
    write_json(clean / "some.json", {"a": 1})
    (clean / "empty").touch()
    assert pickles_below(clean) == []


# Names in manifests


def manifest_of(folder: Path, *names: str) -> tuple[Path, dict[str, Any]]:
    """A directory with those files, and what a manifest records of them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of_file(folder / name)} for name in names}
    return folder / "manifest.json", files


BAD_NAMES = [
    "../secret", "a/../../secret", "a/..", "..", ".", "", "/etc/passwd", "//host/share", "C:\\windows", "a\\b",
    "a//b", "a/", "./a", ".hidden", "a/.hidden", "a\0b", "a\nb", "a b", "é", "a\u202eb", "~", "~root/a", "-rf",
    "$HOME", "a" * 300, "/".join("a" * 20), "%2e%2e/a", "file:a", "a*", "a?",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_plain_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "inside").mkdir()
    recorded = {name: {"bytes": 1, "sha256": sha256_of_file(tmp_path / "secret")}}
    with pytest.raises(ArtifactCorrupt, match="inside the directory"):
        stored_files(tmp_path / "inside" / "manifest.json", recorded)


def test_plain_names_are_found_and_verified(tmp_path: Path) -> None:
    manifest, files = manifest_of(tmp_path, "a.onnx", "index/view-1.rows.npy", "view_1/rows.arrow")
    found = stored_files(manifest, files)
    assert list(found) == list(files)
    for file in found.values():
        file.verify()
    (tmp_path / "a.onnx").write_bytes(b"b.onnx")
    with pytest.raises(ArtifactCorrupt, match=r"a\.onnx.*SHA-256"):
        stored_files(manifest, files)["a.onnx"].verify()


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    manifest, files = manifest_of(tmp_path, "Rows.arrow", "rows.arrow")
    with pytest.raises(ArtifactCorrupt, match="case alone"):
        stored_files(manifest, files)


@pytest.mark.parametrize(
    "record",
    [None, 1, [], {}, {"bytes": 1}, {"sha256": "0" * 64}, {"bytes": True, "sha256": "0" * 64},
     {"bytes": -1, "sha256": "0" * 64}, {"bytes": 1.0, "sha256": "0" * 64}, {"bytes": "1", "sha256": "0" * 64},
     {"bytes": 1, "sha256": "A" * 64}, {"bytes": 1, "sha256": "0" * 63}, {"bytes": 1, "sha256": "0" * 64 + "\n"}],
    ids=str,
)  # fmt: skip
def test_a_record_without_size_and_hash_is_refused(tmp_path: Path, record: Any) -> None:
    manifest, _ = manifest_of(tmp_path, "a")
    with pytest.raises(ArtifactCorrupt, match="expected `bytes` and `sha256`"):
        stored_files(manifest, {"a": record})


@pytest.mark.parametrize("files", [None, [], "a", 3, [["a", {}]]])
def test_files_that_are_no_object_are_refused(tmp_path: Path, files: Any) -> None:
    with pytest.raises(ArtifactCorrupt, match="expected `files`"):
        stored_files(tmp_path / "manifest.json", files)


def to_link(path: Path) -> None:
    shutil.move(path, path.parents[1] / "aside")
    path.symlink_to(path.parents[1] / "aside")


def to_linked_folder(path: Path) -> None:
    shutil.move(path.parent, path.parents[1] / "aside")
    path.parent.symlink_to(path.parents[1] / "aside", target_is_directory=True)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [to_link, to_linked_folder, to_pipe, to_folder, Path.unlink])
def test_what_is_no_file_of_its_own_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    manifest, files = manifest_of(tmp_path, "view/rows.arrow")
    change(tmp_path / "view" / "rows.arrow")
    with pytest.raises(ArtifactCorrupt, match=r"rows\.arrow.*(file of its own|no file)"):
        stored_files(manifest, files)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', '{"a": NaN}', '{"a": -Infinity}', '{"a": -1e999}', "[]", "1", "",
     "[" * 100_000, '{"a": ' * 50_000, '{"a": ' + "1" * 5000 + "}", "\ufeff{}"],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_json_that_can_be_read_in_two_ways_or_not_at_all_is_a_value_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "some.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"\w"):
        read_json(tmp_path / "some.json")


# Artifacts


def graph(location: str | None) -> onnx.ModelProto:
    """x + weight, where the weight lies inside the file or at `location`."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [2], np.ones(2, np.float32).tobytes(), raw=True)
    if location is not None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    nodes = [helper.make_node("Add", ["x", "weight"], ["y"])]
    return helper.make_model(helper.make_graph(nodes, "graph", shape[:1], shape[1:], [weight]))


def in_constant(location: str) -> onnx.ModelProto:
    """The same in a constant of a branch, where no list of weights names it."""
    (weight,) = graph(location).graph.initializer
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=weight)],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    given = [helper.make_tensor_value_info("x", TensorProto.BOOL, [])]
    return helper.make_model(helper.make_graph([node], "graph", given, list(branch.output)))


def artifact_of(root: Path, model: onnx.ModelProto, **more: bytes) -> artifacts.Artifact:
    def fill(directory: Path) -> dict[str, Any]:
        (directory / "encoder.onnx").write_bytes(model.SerializeToString())
        for name, content in more.items():
            (directory / name).write_bytes(content)
        return {}

    return artifacts.save(root, "karma", fill)


@pytest.mark.parametrize("make", [graph, in_constant])
@pytest.mark.parametrize("location", ["/etc/passwd", "../weights", "weights", "", "sub/weights", "manifest.json"])
def test_weights_outside_the_manifest_are_refused(
    tmp_path: Path, make: Callable[[str], onnx.ModelProto], location: str
) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"encoder\.onnx.*tensor 'weight'"):
        artifact_of(tmp_path, make(location))


def test_weights_that_the_manifest_names_and_hashes_are_loaded(tmp_path: Path) -> None:
    content = np.ones(2, np.float32).tobytes()
    artifact = artifact_of(tmp_path, graph("weights"), weights=content)
    assert artifacts.load(tmp_path, artifact.version).manifest["files"]["weights"]["bytes"] == len(content)
    assert artifact_of(tmp_path, graph(None)).path("encoder.onnx").is_file()


def test_a_tensor_with_two_locations_is_refused(tmp_path: Path) -> None:
    model = graph("weights")
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactCorrupt, match="passwd"):
        check_external_data(tmp_path / "graph.onnx", {"weights"})


@pytest.mark.parametrize("planted", ["encoder.int8.onnx", "more/encoder.onnx", ".hidden"])
def test_a_file_that_an_artifact_does_not_name_is_refused(tmp_path: Path, planted: str) -> None:
    """The night prefers an int8 graph where there is one: nobody may lay one beside."""
    artifact = artifact_of(tmp_path, graph(None))
    (artifact.directory / planted).parent.mkdir(exist_ok=True)
    shutil.copyfile(artifact.path("encoder.onnx"), artifact.directory / planted)
    with pytest.raises(ArtifactCorrupt, match="not named"):
        artifacts.load(tmp_path, artifact.version)


@pytest.mark.parametrize(
    "version",
    ["", "karma", "karma-", "../karma-0123456789ab", "karma-0123456789AB", "karma-0123456789ab/..",
     "/karma-0123456789ab", "karma-0123456789ab\n", "a/b-0123456789ab", ".-0123456789ab", "karma-0123456789ab\0"],
)  # fmt: skip
def test_an_artifact_is_not_loaded_by_a_path(tmp_path: Path, version: str) -> None:
    with pytest.raises(MissingInput, match="expected an artifact such as"):
        artifacts.load(tmp_path, version)


def test_an_artifact_under_another_name_is_refused(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path, graph(None))
    other = tmp_path / "karma" / "karma-0123456789ab"
    shutil.copytree(artifact.directory, other)
    with pytest.raises(ArtifactCorrupt, match="does not hash to"):
        artifacts.load(tmp_path, other.name)


# Releases


def readdressed(directory: Path, **changed: Any) -> Path:
    """A staged release with another manifest that hashes to its own name, as only somebody who means it would make."""
    manifest = {**read_json(directory / MANIFEST), **changed}
    manifest["release_id"] = release_id_of(manifest)
    write_json(directory / MANIFEST, manifest)
    return directory


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    configuration = configuration_at(tmp_path)
    return configuration.releases / "staging" / stage_night(configuration, NIGHT, tables(users=3, items=3))


def test_a_readdressed_release_opens_if_nothing_is_wrong_with_it(staged: Path) -> None:
    assert open_release(readdressed(staged, space_id="other")).space_id == "other"


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "a/../b", "Index/x"])
def test_a_release_that_names_other_files_is_refused(staged: Path, name: str) -> None:
    files = read_json(staged / MANIFEST)["files"]
    with pytest.raises(ArtifactCorrupt, match=staged.name):
        open_release(readdressed(staged, files={**files, name: {"bytes": 1, "sha256": "0" * 64}}))


def test_a_release_without_the_hash_of_what_it_serves_is_refused(staged: Path) -> None:
    files = read_json(staged / MANIFEST)["files"]
    mapped = [name for name in files if name.endswith((".arrow", ".npy"))]
    assert len(mapped) == 3 * 3
    for name in mapped:
        less = {kept: record for kept, record in files.items() if kept != name}
        with pytest.raises(ArtifactCorrupt, match=f"names no {name}"):
            open_release(readdressed(staged, files=less))


def test_a_link_in_a_release_is_refused(staged: Path) -> None:
    rows = staged / "karma_user_interest" / "rows.arrow"
    shutil.move(rows, staged.parent / "aside")
    rows.symlink_to(staged.parent / "aside")
    with pytest.raises(ArtifactCorrupt, match="file of its own"):
        open_release(staged)


@pytest.mark.parametrize(
    "changed",
    [{"space_id": None}, {"space_id": ""}, {"models": {"karma": "karma-1"}}, {"models": []}, {"date": "2026-13-01"},
     {"date": 20260301}, {"files": []}, {"contracts": []}, {"contracts": {}}, {"standing": {"views": ["nowhere"]}},
     {"standing": {"views": ["other"], "date": "2026-03-01"}}],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_does_not_tell_what_reads_tell_is_refused(staged: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(ArtifactCorrupt, match=staged.name):
        open_release(readdressed(staged, **changed))


def test_a_release_under_another_name_is_refused(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    releases = configuration.releases / "releases"
    genuine = releases / publish_night(configuration, NIGHT)
    other = releases / "2026-03-09-0123456789ab"
    shutil.copytree(genuine, other)
    with pytest.raises(ArtifactCorrupt, match=genuine.name):
        open_releases(configuration.releases).open(other.name)
    (genuine / MANIFEST).unlink()
    with pytest.raises(ArtifactCorrupt, match=MANIFEST):
        open_releases(configuration.releases).open(genuine.name)


@pytest.mark.parametrize(
    "changed",
    [{"release_id": 3}, {"release_id": "../x"}, {"previous": "../x"}, {"previous": 1}, {"withdrawn": ["x"]},
     {"withdrawn": None}, {"history": ["x"]}, {"history": 1}, {"published_at": "2026-03-01"}, {"published_at": 1}],
    ids=str,
)  # fmt: skip
def test_a_pointer_that_names_no_release_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    configuration = configuration_at(tmp_path)
    publish_night(configuration, NIGHT, tables(users=3, items=3))
    pointer = configuration.releases / "current.json"
    write_sealed_json(pointer, {**read_sealed_json(pointer), **changed})
    with pytest.raises(ArtifactCorrupt, match=r"current\.json"):
        open_releases(configuration.releases).current()


def test_ready_that_is_not_json_is_refused(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    ready = configuration.releases / "releases" / publish_night(configuration, NIGHT) / READY
    for text in ("", "[]", json.dumps({"manifest_sha256": 1})):
        ready.write_text(text)
        with pytest.raises(ArtifactCorrupt, match=NIGHT.isoformat()):
            open_releases(configuration.releases).current()

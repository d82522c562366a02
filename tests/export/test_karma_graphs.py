"""KARMA's artifact: the graphs compute what the network does, hold nothing that only training needs, are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from export.karma_graphs import HISTORY_GRAPH, ITEM_GRAPH, WEIGHTS, HistoryEncoder, space_id, write_graph
from export.parity import Case, open_session
from export.promotion import GateConfig, judge
from features.files import read_json
from models.karma.config import karma_tiny
from models.karma.network import Karma
from models.karma.text import BOS, INT, SPECIALS, load_preparation, vocabulary_size
from tests.karma_world import KARMA_EXPORTED, ExportedKarma

CONFIG = KARMA_EXPORTED


def about(karma: ExportedKarma) -> Mapping[str, Any]:
    return karma.artifact.manifest["about"]


def test_parity_holds_on_every_case(karma: ExportedKarma) -> None:
    parity = about(karma)["parity"]
    assert set(parity) == {HISTORY_GRAPH, ITEM_GRAPH}
    for record in parity.values():
        assert record["holds"]
        assert record["worst"] < 1e-5
    assert {"empty history, alone", "longest history, alone", "one user", "seven users"} <= set(
        parity[HISTORY_GRAPH]["differences"]
    )
    assert {"without picture", "without text", "without text and picture", "unknown id"} <= set(
        parity[ITEM_GRAPH]["differences"]
    )
    assert parity == read_json(karma.artifact.path("parity.json"))


def test_promotion_accepts_it(karma: ExportedKarma) -> None:
    assert [verdict.gate for verdict in judge(karma.artifact, GateConfig())] == ["parity", "metrics", "baseline"]
    assert not [v for v in judge(karma.artifact, GateConfig()) if v.decision == "refused"]


@pytest.mark.parametrize("graph", [HISTORY_GRAPH, ITEM_GRAPH])
def test_training_only_parts_are_absent(karma: ExportedKarma, graph: str) -> None:
    model = onnx.load(karma.artifact.path(graph))
    vocabulary = vocabulary_size(karma.trained.preparation.tokenizer)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert not [name for name in weights if any(part in name for part in ("soft", "painter", "decoder", "log_scale"))]
    assert list(weights.values()).count((vocabulary, CONFIG.hidden)) == 1, "token embeddings, and no output layer"
    assert (CONFIG.hidden, vocabulary) not in weights.values()
    assert (CONFIG.embedding, CONFIG.soft_tokens * CONFIG.hidden) not in weights.values()
    assert (CONFIG.soft_tokens * CONFIG.hidden, CONFIG.embedding) not in weights.values()
    embedding = next(name for name, dims in weights.items() if dims == (vocabulary, CONFIG.hidden))
    readers = {node.op_type for node in model.graph.node if embedding in node.input}
    assert readers == {"Gather"}, "read by token, never multiplied by states"
    ids = (len(karma.trained.preparation.item_index) + 1, CONFIG.embedding)
    assert (ids in weights.values()) == (graph == ITEM_GRAPH)


def test_of_a_large_vocabulary_compressed_histories_keep_their_marks_alone(tmp_path: Path) -> None:
    network = Karma(replace(karma_tiny(), history="compressed"), vocabulary=5000, items=3, picture_width=1).eval()
    sequences = {"input_ids": np.array([[BOS, INT]] * 2), "lengths": np.array([2, 2])}
    soft = np.zeros((2, network.width), np.float32)
    write_graph(HistoryEncoder(network), Case("two", {**sequences, "soft": soft}), tmp_path / "g", outputs=["interest"])
    sizes = [tuple(tensor.dims) for tensor in onnx.load(tmp_path / "g").graph.initializer]
    assert (len(SPECIALS), network.width) in sizes
    assert all(5000 not in dims for dims in sizes)


@pytest.mark.parametrize("graph", [HISTORY_GRAPH, ITEM_GRAPH])
def test_axes_are_dynamic_and_nothing_of_this_machine_is_inside(karma: ExportedKarma, graph: str) -> None:
    path = karma.artifact.path(graph)
    model = onnx.load(path)
    for value in model.graph.input:
        axes = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
        assert axes[0], f"{value.name} has a fixed batch"
        assert not value.name.endswith("_ids") or axes[1], f"{value.name} has a fixed length"
    assert str(Path.cwd()).encode() not in path.read_bytes()
    assert {file.name for file in path.parent.iterdir()} == {
        HISTORY_GRAPH, ITEM_GRAPH, WEIGHTS, "tokenizer.json", "item_index.parquet", "config.json",
        "parity.json", "metrics.json", "manifest.json",
    }  # fmt: skip


def test_the_graph_takes_sizes_that_parity_never_saw(karma: ExportedKarma) -> None:
    session = open_session(karma.artifact.path(HISTORY_GRAPH))
    for batch, length in ((1, 2), (33, 5), (3, CONFIG.sequence_tokens)):
        ids = np.full((batch, length), 20, np.int64)
        ids[:, 0], ids[:, -1] = BOS, INT
        lengths = np.full(batch, length, np.int64)
        (ours,) = session.run(None, {"input_ids": ids, "lengths": lengths})
        with torch.no_grad():
            theirs = karma.trained.network.encode_history(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy()
        assert np.abs(ours - theirs).max() < 1e-5


def test_stored_weights_are_those_of_the_night(karma: ExportedKarma) -> None:
    stored, state = load_file(karma.artifact.path(WEIGHTS)), karma.trained.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in stored.items())
    dropped = {name.split(".")[0] for name in state if name not in stored}
    assert dropped == {"soft", "painter", "log_scale"}  # what only training reads


def test_the_space_changes_with_what_makes_the_vectors(karma: ExportedKarma, tmp_path: Path) -> None:
    directory = karma.artifact.directory
    copies = [WEIGHTS, "tokenizer.json", "item_index.parquet", "config.json"]
    for name in copies:
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    assert space_id(tmp_path) == about(karma)["space_id"]
    for name in copies:
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before + b" ")
        assert space_id(tmp_path) != about(karma)["space_id"]
        (tmp_path / name).write_bytes(before)


def test_preparation_comes_back(karma: ExportedKarma) -> None:
    again = load_preparation(karma.artifact.directory)
    assert again.config == CONFIG
    assert again.item_index == karma.trained.preparation.item_index

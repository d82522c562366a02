"""DICER's graphs compute what torch computes, on every shape a night could meet, and the artifact is complete."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from export.dicer_graphs import adversarial_worlds, measure_parity
from export.dicer_scoring import ENCODER, ITEM_BASES, SCORER
from features.files import read_json
from models.dicer.network import Dicer
from tests.dicer_worlds import ExportedDicer


def test_both_graphs_hold_and_the_awkward_cases_are_among_them(dicer: ExportedDicer) -> None:
    parity = dicer.artifact.manifest["about"]["parity"]
    assert set(parity) == {ENCODER, SCORER}
    assert all(record["holds"] and record["worst"] < 1e-5 for record in parity.values()), parity
    assert set(parity[ENCODER]["differences"]) == {"the night's graph", *adversarial_worlds(4)}
    named = " | ".join(parity[SCORER]["differences"])
    for words in (
        "user without friends",
        "user with friends",
        "user without history",
        "item without audience",
        "the night's graph: 1 users x 1 items",
        "the night's graph: 7 users x 10 items",
        "one user, one item: 1 users x 1 items",
        "dense and large: 64 users x 500 items",
    ):
        assert words in named


def test_every_axis_of_nodes_edges_and_blocks_is_free(dicer: ExportedDicer) -> None:
    fixed = {name: [] for name in (ENCODER, SCORER)}
    for file, sizes in fixed.items():
        for value in onnx.load(dicer.artifact.path(file)).graph.input:
            sizes.extend(axis.dim_value for axis in value.type.tensor_type.shape.dim if not axis.dim_param)
    config = dicer.trained.config
    assert fixed[ENCODER] == [config.dimension] * 2 + [2] * 4, "two ends of each edge"
    one, two = config.width, 2 * config.width
    assert fixed[SCORER] == [one, two, one, one, *[one] * 6, two], "tables of users, of items, and the friends' ends"


def test_another_network_fails_parity_and_that_is_recorded_not_raised(dicer: ExportedDicer) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        other = Dicer(dicer.trained.config, 9, 7).eval()
    measured = measure_parity(other, dicer.artifact.directory, dicer.world.graphs())
    assert not measured[ENCODER].record()["holds"]


def test_the_artifact_holds_graphs_bases_weights_parity_and_metrics(dicer: ExportedDicer) -> None:
    artifact, trained = dicer.artifact, dicer.trained
    about = artifact.manifest["about"]
    assert about["split"] == {"train_end": "2026-01-01", "valid_end": "2026-01-06", "test_end": "2026-01-11"}
    assert about["graph"]["users"] == 13
    assert read_json(artifact.path("metrics.json")) == about["metrics"] == trained.metrics
    assert read_json(artifact.path("parity.json")) == about["parity"]
    assert read_json(artifact.path("config.json")) == about["config"]
    json.dumps(about, allow_nan=False)
    bases = pq.read_table(artifact.path(ITEM_BASES))
    assert bases["id"].to_pylist() == trained.item_ids.to_pylist()
    np.testing.assert_array_equal(np.array(bases["base"].to_pylist()), trained.network.item_base.detach().numpy())
    weights = load_file(artifact.path("weights.safetensors"))
    assert all(torch.equal(weights[name], value) for name, value in trained.network.state_dict().items())

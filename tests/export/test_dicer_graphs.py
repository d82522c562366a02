"""DICER's graphs compute what torch computes, on every shape a night could meet, and the artifact is complete."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from export.dicer_graphs import adversarial_worlds, export_graphs, measure_parity
from export.dicer_scoring import ENCODER, ITEM_BASES, SCORER, encode, open_scorer
from features.errors import ConfigurationError
from features.files import read_json
from models.dicer.config import dicer_tiny
from models.dicer.definition import pair_lists, pair_scores
from models.dicer.encoder import edges_of
from models.dicer.graphs import Graphs
from models.dicer.network import Dicer
from tests.dicer_examples import VARIANTS, WORLDS, likeness_in, network_of
from tests.dicer_worlds import ExportedDicer, World, night_world


def test_both_graphs_hold_and_the_awkward_cases_are_among_them(dicer: ExportedDicer) -> None:
    parity = dicer.artifact.manifest["about"]["parity"]
    assert set(parity) == {ENCODER, SCORER}
    assert all(record["holds"] and record["worst"] < 1e-5 for record in parity.values()), parity
    assert set(parity[ENCODER]["differences"]) == {"the night's graph", *adversarial_worlds(dicer_tiny())}
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


def test_sums_over_many_edges_are_the_same_in_every_run(dicer: ExportedDicer) -> None:
    """On several threads the runtime loses summands now and then: issues 18048 and 23396 of onnxruntime."""
    config, generator = dicer.trained.config, np.random.default_rng(0)
    users, items = 300, 200
    ends = {"friends": (users, users), "similar_users": (users, users), "similar_items": (items, items)}
    edges = {name: generator.integers(0, np.array(kinds)[:, None], (2, 60_000)) for name, kinds in ends.items()}
    graphs = Graphs(
        user_ids=pa.array([str(n) for n in range(users)]),
        item_ids=pa.array([str(n) for n in range(items)]),
        interactions=generator.integers(0, [[users], [items]], (2, 60_000)),
        dangling=0,
        **edges,
    )
    bases = [generator.normal(0, 0.5, (count, config.dimension)).astype(np.float32) for count in (users, items)]
    first, *others = (encode(dicer.artifact.path(ENCODER), graphs, *bases) for _ in range(30))
    for other in others:
        for name, table in first.items():
            np.testing.assert_array_equal(other[name], table)


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
    assert len({path.stat().st_mode for path in artifact.directory.iterdir()}) == 1, "whoever trained it"


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dicer, Path]:
    """A network with some of its parts, and the folder with its graphs; they fit any world."""
    network = network_of(night_world(), VARIANTS[request.param], 5)
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(network, folder)
    return network, folder


@settings(max_examples=20, deadline=None)
@given(world=WORLDS, seed=st.integers(0, 1000))
def test_exported_graphs_score_as_defined_in_any_world(variant: tuple[Dicer, Path], world: World, seed: int) -> None:
    (network, folder), graphs, generator = variant, world.graphs(), np.random.default_rng(seed)
    shapes = ((graphs.users, network.config.base_widths[0]), (graphs.items, network.config.base_widths[1]))
    bases = [generator.normal(0, 0.5, shape).astype(np.float32) for shape in shapes]
    scorer = open_scorer(folder / SCORER, graphs, encode(folder / ENCODER, graphs, *bases), block=(3, 4))
    users, items = np.divmod(np.arange(graphs.users * graphs.items), graphs.items)
    lists = pair_lists(graphs.histories(), graphs.heard_friends(), graphs.audiences(), users, items)
    with torch.no_grad():
        known = torch.from_numpy(bases[0]), torch.from_numpy(bases[1])
        h, z = network.encode(*known, edges_of(graphs))
        expected = pair_scores(network, h, z, lists, likeness_in(network, graphs, known))
    expected = expected.view(graphs.users, graphs.items)
    np.testing.assert_allclose(scorer.scores(np.arange(graphs.users)), expected, atol=1e-5, rtol=0)


def test_parity_holds_for_a_network_without_heads_for_modulations(tmp_path: Path) -> None:
    config = dataclasses.replace(dicer_tiny(), user_interest=False, item_attraction=False)
    network = network_of(night_world(), config, 0)
    export_graphs(network, tmp_path)
    measured = measure_parity(network, tmp_path, night_world().graphs())
    assert all(parity.holds for parity in measured.values())


def test_a_network_without_tables_is_refused(tmp_path: Path) -> None:
    network = network_of(night_world(), dataclasses.replace(dicer_tiny(), modulation="attention"), 0)
    with pytest.raises(ConfigurationError, match="'extremes' only, got 'attention'"):
        export_graphs(network, tmp_path)
    assert not list(tmp_path.iterdir())

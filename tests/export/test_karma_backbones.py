"""A night with a pre-trained backbone: trained with LoRA, exported, and scored as torch computes it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from export import karma_graphs
from export.artifacts import Artifact, save
from export.karma_encoding import quantised
from export.karma_graphs import HISTORY_GRAPH, ITEM_GRAPH, WEIGHTS, export_karma
from export.karma_scoring import score_karma
from export.karma_settings import EncodingConfig
from features.configuration import Configuration
from features.contracts import FEATURES
from features.files import read_json
from features.partitions import partition_path, write_rows
from models.karma import evaluation
from models.karma.compressed import latest_histories
from models.karma.config import karma_tiny
from models.karma.text import EMPTY
from models.karma.training import TrainedKarma, read_world, train_karma
from tests.backbone_checkpoints import write_checkpoint
from tests.karma_world import training_set

DATE = dt.date(2026, 1, 20)


def trained_on(directory: Path) -> TrainedKarma:
    config = replace(karma_tiny(), backbone=str(directory), adaptation="lora", lora_rank=2)
    return train_karma(training_set(), replace(config, steps=6, pretraining_steps=4, validate_every=3), seed=0)


def vectors(path: Path, column: str) -> np.ndarray:
    return np.stack(pq.read_table(path)[column].to_numpy(zero_copy_only=False))


def weight_names(artifact: Artifact) -> list[str]:
    with safe_open(artifact.path(WEIGHTS), "np") as stored:
        return list(stored.keys())


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "qwen3_vl"])
def test_the_night_computes_what_torch_does(tmp_path: Path, family: str) -> None:
    judge_a_night(tmp_path, family)


def test_weights_too_large_for_one_file_stand_beside_their_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(karma_graphs, "SINGLE_FILE_BYTES", 1000)
    artifact = judge_a_night(tmp_path, "smollm")
    encoding = EncodingConfig(precision="int8", overlap_floor=0.0)
    trained = trained_on(tmp_path / "backbone")
    rough = save(tmp_path / "int8", "karma", lambda folder: export_karma(trained, training_set(), folder, encoding))
    quantised_graphs = [quantised(graph) for graph in (HISTORY_GRAPH, ITEM_GRAPH)]
    for made, graphs in ((artifact, (HISTORY_GRAPH, ITEM_GRAPH)), (rough, quantised_graphs)):
        for graph in graphs:
            assert made.path(f"{graph}.data").stat().st_size > 10_000
            assert f"{graph}.data" in made.manifest["files"], "its bytes are checked as the graph's are"
        assert len({path.stat().st_mode for path in made.directory.iterdir()}) == 1
    monkeypatch.undo()
    inside = save(tmp_path / "inside", "karma", lambda folder: export_karma(trained, training_set(), folder, encoding))
    assert inside.manifest["about"]["int8"] == rough.manifest["about"]["int8"]
    assert not inside.path(f"{quantised(ITEM_GRAPH)}.data").exists()


def judge_a_night(tmp_path: Path, family: str) -> Artifact:
    """Train, export and score a tiny world on a backbone of `family`; every vector is what torch computes."""
    trained = trained_on(write_checkpoint(tmp_path / "backbone", family))
    artifact = save(tmp_path, "karma", lambda directory: export_karma(trained, training_set(), directory))
    for record in read_json(artifact.path("parity.json")).values():
        assert record["holds"]
        assert record["worst"] < 1e-5
    assert not [name for name in weight_names(artifact) if "lora" in name or "output" in name]
    configuration, features = Configuration(tmp_path / "attractor.toml", tmp_path, {}), training_set().recent
    for view, table in features.items():
        write_rows(partition_path(configuration, view, DATE), FEATURES[view], table.to_batches())
    score_karma(artifact, configuration, DATE, tmp_path / "out", rows=16, batch_tokens=256)
    world, limit = read_world(features, trained.preparation), trained.preparation.config.sequence_tokens
    queries = [EMPTY] * len(world.histories)
    known = latest_histories(list(world.histories.values()), queries, world.catalogue, limit=limit)
    with torch.no_grad():
        items = evaluation.encode_catalogue(trained.network, world.catalogue)
        users = evaluation.encode_users(trained.network, known)
    for name, column, expected in (
        ("karma_item_embedding", "item_embedding", items),
        ("karma_user_interest", "interest_embedding", users),
    ):
        assert np.abs(vectors(tmp_path / "out" / f"{name}.parquet", column) - expected).max() < 1e-5
    return artifact

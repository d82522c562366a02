"""What is dear to make and read by more than one file."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from export.artifacts import save
from export.dicer_graphs import export_dicer
from export.karma_graphs import export_karma
from export.karma_settings import EncodingConfig
from models.dicer.config import dicer_tiny
from models.dicer.network import Dicer
from models.dicer.training import TrainedDicer
from models.karma.training import train_karma
from tests.dicer_worlds import ExportedDicer, item_ids, night_world, user_ids
from tests.dicer_worlds import training_set as dicer_training_set
from tests.karma_world import KARMA_EXPORTED, ExportedKarma, training_set


@pytest.fixture(scope="session")
def karma(tmp_path_factory: pytest.TempPathFactory) -> ExportedKarma:
    """KARMA trained for a few steps on the tiny market, and exported."""
    root, world = tmp_path_factory.mktemp("artifacts"), training_set()
    trained = train_karma(world, KARMA_EXPORTED, seed=0)
    return ExportedKarma(trained, save(root, "karma", lambda directory: export_karma(trained, world, directory)))


@pytest.fixture(scope="session")
def compressed_karma(tmp_path_factory: pytest.TempPathFactory) -> ExportedKarma:
    """The same over compressed histories of two soft tokens, with int8 graphs."""
    root, world = tmp_path_factory.mktemp("artifacts"), training_set()
    config = replace(KARMA_EXPORTED, history="compressed", compressed_tokens=2, compressed_sequence_tokens=20)
    trained, encoding = train_karma(world, config, seed=0), EncodingConfig(precision="int8", overlap_floor=0.5)
    return ExportedKarma(
        trained, save(root, "karma", lambda directory: export_karma(trained, world, directory, encoding))
    )


@pytest.fixture(scope="session")
def dicer(tmp_path_factory: pytest.TempPathFactory) -> ExportedDicer:
    """A DICER with random weights that knows 9 users and 7 items of a world with more of both, exported."""
    world, root = night_world(), tmp_path_factory.mktemp("artifacts")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = Dicer(dicer_tiny(), 9, 7).eval()
        torch.nn.init.normal_(network.user_base)  # Xavier bases are so small that every score would look alike
        torch.nn.init.normal_(network.item_base)
    metrics = {"test": {"model": {"Recall@10": 0.5}, "popularity": {"Recall@10": 0.25}}}
    ids = pa.array(user_ids(range(9))), pa.array(item_ids(range(7)))
    trained = TrainedDicer(network, network.config, *ids, metrics)
    known = dicer_training_set(world, [])
    return ExportedDicer(world, trained, save(root, "dicer", lambda directory: export_dicer(trained, known, directory)))

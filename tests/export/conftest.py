"""What is dear to make and read by more than one file."""

from __future__ import annotations

import pytest

from export.artifacts import save
from export.karma_graphs import export_karma
from models.karma.training import train_karma
from tests.karma_world import KARMA_EXPORTED, ExportedKarma, training_set


@pytest.fixture(scope="session")
def karma(tmp_path_factory: pytest.TempPathFactory) -> ExportedKarma:
    """KARMA trained for a few steps on the tiny market, and exported."""
    root, world = tmp_path_factory.mktemp("artifacts"), training_set()
    trained = train_karma(world, KARMA_EXPORTED, seed=0)
    return ExportedKarma(trained, save(root, "karma", lambda directory: export_karma(trained, world, directory)))

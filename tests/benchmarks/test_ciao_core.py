"""The 5-core that benchmarks run on: the relations in its files must be those of its people."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.io import savemat

from features.errors import SocialMisalignment
from tests.split_worlds import toy_split

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def ciao_core(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As a script beside it imports it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("ciao_core")


def write(folder: Path, friends: np.ndarray) -> Path:
    """Files as Ciao's, of 400 users with two tastes, numbered from 1."""
    savemat(folder / "rating.mat", {"rating": toy_split(0, users=400).interactions.T + 1})
    savemat(folder / "trustnetwork.mat", {"trustnetwork": friends.T + 1})
    return folder


def test_relations_of_its_people_are_read(ciao_core: ModuleType, tmp_path: Path) -> None:
    core = ciao_core.five_core(write(tmp_path, toy_split(0, users=400).friends), seed=0)
    assert (core.users, core.items, core.friends.shape) == (400, 60, (2, 400))
    assert core.name.startswith("Ciao")


def test_relations_of_other_people_are_refused(ciao_core: ModuleType, tmp_path: Path) -> None:
    dealt = np.random.default_rng(0).permutation(400)
    data = write(tmp_path, dealt[toy_split(0, users=400).friends])
    with pytest.raises(SocialMisalignment, match=r"Nothing was measured\."):
        ciao_core.five_core(data, seed=0)


def test_without_files_lists_are_generated_and_said_to_be(ciao_core: ModuleType, tmp_path: Path) -> None:
    core = ciao_core.five_core(tmp_path, seed=0)
    assert core.name.startswith("GENERATED")
    assert np.bincount(core.pairs[0]).min() >= 5

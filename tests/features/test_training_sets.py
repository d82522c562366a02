"""Splits and reading; what Feast retrieves for training sets is tested beside the store."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest

from features.configuration import Configuration
from features.errors import MissingInput
from features.training_sets import Split, SplitConfig, read_training_set, split_dates

DATE = dt.date(2026, 3, 2)


def test_the_test_ends_with_the_date_and_follows_the_validation() -> None:
    expected = Split(dt.date(2026, 2, 22), dt.date(2026, 2, 25), DATE)
    assert split_dates(DATE, SplitConfig(validation_days=3, test_days=5)) == expected


@pytest.mark.parametrize("days", [(0, 5), (5, 0), (-1, 5)])
def test_an_empty_window_is_refused(days: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one day each"):
        SplitConfig(*days)


def test_a_training_set_that_was_not_built_is_said_to_be_missing(tmp_path: Path) -> None:
    here = Configuration(tmp_path / "attractor.toml", tmp_path / "state", {})
    with pytest.raises(MissingInput, match="attractor train --date 2026-03-02"):
        read_training_set(here, DATE, "karma_training_v1")
    with pytest.raises(KeyError):
        read_training_set(here, DATE, "no_such_service")


def test_reading_partitions_and_training_sets_loads_neither_feast_nor_torch() -> None:
    program = "import sys, features.partitions, features.training_sets; print({'feast', 'torch'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"

"""The 5-core of Ciao that DICER's benchmarks run on: 5,858 users, 10,685 items, 141,900 pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.social_alignment import require_alignment, social_alignment
from features.sources.ciao import RATING_COLUMNS, TRUST_COLUMNS
from features.sources.matlab import read_matrix

CIAO = Path(__file__).resolve().parents[2] / "shared" / "data" / "ciao"
CORE = 5

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Core:
    """Pairs [2, n] (user row, item row) and relations [2, m] between users."""

    name: str
    pairs: Indices
    friends: Indices
    users: int
    items: int


def five_core(data: Path, *, seed: int) -> Core:
    """The 5-core of the files in `data`, or where they are absent one of lists whose lengths are as skewed.

    Raises ConfigurationError if the files cannot be read, SocialMisalignment if their relations are of other people
    than their ratings.
    """
    read = (data / "rating.mat").is_file()
    if read:
        pairs = read_matrix(data / "rating.mat", ("rating",), RATING_COLUMNS[:2], more=True)
        friends = read_matrix(data / "trustnetwork.mat", ("trustnetwork",), TRUST_COLUMNS)
        name = f"Ciao, {CORE}-core of {data}"
    else:
        generator = np.random.default_rng(seed)
        lengths = np.clip(generator.lognormal(2.6, 1.0, 6000).astype(np.int64), CORE, 600)
        pairs = np.stack([np.repeat(np.arange(6000), lengths), _popular(generator, 11_000, lengths.sum())], axis=1)
        friends = generator.integers(0, 6000, (100_000, 2))
        name = f"GENERATED lists of log-normal lengths, seed {seed}: no {data / 'rating.mat'}"
    pairs = _core(np.unique(pairs, axis=0))
    users, user_rows = np.unique(pairs[:, 0], return_inverse=True)
    items, item_rows = np.unique(pairs[:, 1], return_inverse=True)
    known = np.searchsorted(users, friends[np.isin(friends, users).all(axis=1)]).T
    core = Core(name, np.stack([user_rows, item_rows]), known, len(users), len(items))
    if read:  # generated relations are nobody's
        alignment = social_alignment(core.friends, core.pairs, seed=0, users=core.users)
        require_alignment(alignment, advice=f"Nothing was measured. Check that {data} has its own trustnetwork.mat")
    return core


def _popular(generator: np.random.Generator, items: int, count: int) -> Indices:
    weights = 1 / np.arange(10, items + 10)
    drawn: Indices = generator.choice(items, count, p=weights / weights.sum())
    return drawn


def _core(pairs: Indices) -> Indices:
    """The pairs left when users and items with fewer than 5 go, until none has."""
    while True:
        kept = np.ones(len(pairs), dtype=bool)
        for side in (0, 1):
            _, node, degrees = np.unique(pairs[:, side], return_inverse=True, return_counts=True)
            kept &= degrees[node] >= CORE
        if kept.all():
            return pairs
        pairs = pairs[kept]

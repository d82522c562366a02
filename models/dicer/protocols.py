"""The three protocols of the benchmark: how public data is split, what is ranked, and which metrics count.

- `paper` (Fu et al., WWW 2021, section 4.1): `ciao/`, every rating is a positive; all pairs 80/10/10 by seed; ranked
  are a user's positives among 1,000 items that the user has in no part, drawn by seed.
- `full` (Chen et al., SIGIR 2019): `ciao-eatnn-split/`, split as published, so that a seed only starts a model; ranked
  are all items that the user has not in train. Their program leaves validation items among the test's candidates
  (code/EATNN.py, `dev_step`), so this does too. It divides Recall by min(positives, K): `CappedRecall` here.
- `lastfm` (RecBole-GNN's table): `hetrec2011-lastfm-2k/`; each user's pairs 8:1:1 by seed; ranked are all items that
  the user has not in train nor, for the test, in validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Protocol as Interface

import numpy as np

from features.errors import ConfigurationError, MissingInput
from features.social_alignment import Alignment, social_alignment
from features.sources.ciao import RATING_COLUMNS, TRUST_COLUMNS
from features.sources.matlab import read_matrix
from models.dicer.evaluation import Evaluation, HeldOut, Scorers, evaluate_full, evaluate_sampled, truth_of
from models.dicer.graphs import Graphs, Indices, Lists
from models.dicer.histories import lists_of_pairs, unseen_of

SAMPLED_ITEMS = 1000


class Part(Interface):
    """A part of a split that can be judged: truth, and what it is ranked among."""

    @property
    def truth(self) -> HeldOut:
        """Users and their positives."""

    def sample(self, users: int, *, seed: int) -> Part:
        """The same for at most so many of the users, drawn without replacement."""

    def evaluate(self, scorers: Scorers, cutoffs: Sequence[int]) -> Evaluation:
        """The metrics of a model."""


@dataclass(frozen=True, eq=False)
class EveryItem:
    """Ranked among all items but the `excluded` ones of the user."""

    truth: HeldOut
    excluded: Lists  # of every user row

    def sample(self, users: int, *, seed: int) -> EveryItem:
        """As `Part`."""
        return EveryItem(self.truth.sample(users, seed=seed), self.excluded)

    def evaluate(self, scorers: Scorers, cutoffs: Sequence[int]) -> Evaluation:
        """As `Part`."""
        return evaluate_full(scorers.every_item, self.truth, self.excluded, cutoffs=cutoffs)


@dataclass(frozen=True, eq=False)
class SampledItems:
    """Ranked among the `candidates` of the user, positives included."""

    truth: HeldOut
    candidates: Lists  # of each of truth.users

    def sample(self, users: int, *, seed: int) -> SampledItems:
        """As `Part`."""
        truth = self.truth.sample(users, seed=seed)
        places = np.searchsorted(self.truth.users, truth.users)
        lengths = self.candidates.lengths[places]
        values = [self.candidates.of(place) for place in places.tolist()]
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        return SampledItems(truth, Lists(offsets, np.concatenate([*values, np.empty(0, np.int64)])))

    def evaluate(self, scorers: Scorers, cutoffs: Sequence[int]) -> Evaluation:
        """As `Part`."""
        return evaluate_sampled(scorers.pairs, self.truth, self.candidates, cutoffs=cutoffs)


@dataclass(frozen=True, eq=False)
class Split:
    """Training interactions [2, n] (user row, item row), the social network [2, m] as given, and two judged parts.

    `strangers` are the relations left out of `friends`, because they name someone who has no pair in any part.
    """

    users: int
    items: int
    interactions: Indices
    friends: Indices
    validation: Part
    test: Part
    strangers: int = 0

    def graphs(self, *, threshold: float = 0.1, cap: int | None = None) -> Graphs:
        """DICER's graphs of the training interactions, at most `cap` similar nodes a node."""
        from models.dicer.similarity import graphs_from_arrays

        return graphs_from_arrays(self.interactions, self.friends, self.users, self.items, threshold=threshold, cap=cap)

    @cached_property
    def alignment(self) -> Alignment:
        """Whether the network belongs to the people of the training interactions."""
        strangers = self.strangers
        return social_alignment(self.friends, self.interactions, seed=0, users=self.users, strangers=strangers)

    def fingerprint(self) -> str:
        """SHA-256 of the training interactions, the network and the truth of both parts."""
        digest = sha256(f"{self.users} {self.items}".encode())
        for array in (self.interactions, self.friends, _pairs_of(self.validation.truth), _pairs_of(self.test.truth)):
            digest.update(f" {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array, np.int64).tobytes())
        return digest.hexdigest()

    def facts(self) -> dict[str, float | int | None]:
        """What the page says of the split; `cold` is the share of test positives whose item is not in train.

        `lift` and `correlation` are the alignment's, None where they cannot be computed.
        """
        trained = np.zeros(self.items, np.bool_)
        trained[self.interactions[1]] = True
        wanted = np.array([item for items in self.test.truth.positives for item in items], np.int64)
        return {
            "users": self.users,
            "items": self.items,
            "train": self.interactions.shape[1],
            "validation": sum(len(items) for items in self.validation.truth.positives),
            "test": len(wanted),
            "validation_users": len(self.validation.truth.users),
            "test_users": len(self.test.truth.users),
            "relations": self.friends.shape[1],
            "cold": round(float((~trained[wanted]).mean()), 4) if len(wanted) else 0.0,
            "lift": _rounded(self.alignment.lift),
            "correlation": _rounded(self.alignment.correlation),
        }


@dataclass(frozen=True)
class Protocol:
    """A way to split and to judge. `metrics` are the page's columns, the first of them its headline."""

    name: str
    read: Callable[[Path, int], Split]
    cutoffs: tuple[int, ...]
    metrics: tuple[str, ...]
    selection: str = "NDCG@10"  # of the validation part; decides when a run stops and which configuration wins


def paper(data: Path, seed: int) -> Split:
    """Ciao, 80/10/10, 1,000 sampled items. Raises MissingInput without its files."""
    ratings = read_matrix(_present(data / "ciao" / "rating.mat"), ("rating",), RATING_COLUMNS[:2], more=True)
    trust = read_matrix(_present(data / "ciao" / "trustnetwork.mat"), ("trustnetwork",), TRUST_COLUMNS)
    pairs, friends, users, items = _numbered(ratings, trust)
    generator = np.random.default_rng([seed, 0])
    shuffled = pairs[:, generator.permutation(pairs.shape[1])]
    train, validation, test = np.split(shuffled, _ends(pairs.shape[1]), axis=1)
    had = lists_of_pairs(pairs, users)
    return Split(
        users,
        items,
        train,
        friends,
        _sampled(validation, had, items, generator=np.random.default_rng([seed, 1])),
        _sampled(test, had, items, generator=np.random.default_rng([seed, 2])),
        len(trust) - friends.shape[1],
    )


def full(data: Path, seed: int) -> Split:
    """Ciao as EATNN's authors split it; the seed changes nothing. Raises MissingInput without its files."""
    folder = data / "ciao-eatnn-split"
    train, validation, test, friends = (
        _table(folder / f"{name}.csv", delimiter=",").T for name in ("train", "valid", "test", "trust")
    )
    ids = ("unique_uid_sub.txt", "unique_sid_sub.txt")
    users, items = (len(_table(folder / name, columns=1, header=0)) for name in ids)
    for name, rows, ends in (
        ("train", train, (users, items)),
        ("valid", validation, (users, items)),
        ("test", test, (users, items)),
        ("trust", friends, (users, users)),
    ):
        _require_rows(folder / f"{name}.csv", rows, ends)
    had = lists_of_pairs(train, users)
    return Split(users, items, train, friends, EveryItem(truth_of(validation), had), EveryItem(truth_of(test), had))


def lastfm(data: Path, seed: int) -> Split:
    """Last.fm, 8:1:1 of each user's artists as RecBole cuts them. Raises MissingInput without its files."""
    folder = data / "hetrec2011-lastfm-2k"
    relations = _table(folder / "user_friends.dat")
    pairs, friends, users, items = _numbered(_table(folder / "user_artists.dat"), relations)
    order = np.random.default_rng([seed, 0]).permutation(pairs.shape[1])
    order = order[np.argsort(pairs[0, order], kind="stable")]
    totals = np.bincount(pairs[0], minlength=users)
    place = np.arange(len(order)) - np.repeat(totals.cumsum() - totals, totals)
    train_end, validation_end = (np.repeat(ends, totals) for ends in _ends_of_each(totals))
    train = pairs[:, order[place < train_end]]
    validation = pairs[:, order[(place >= train_end) & (place < validation_end)]]
    test = pairs[:, order[place >= validation_end]]
    return Split(
        users,
        items,
        train,
        friends,
        EveryItem(truth_of(validation), lists_of_pairs(train, users)),
        EveryItem(truth_of(test), lists_of_pairs(np.concatenate([train, validation], axis=1), users)),
        len(relations) - friends.shape[1],
    )


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "paper",
            paper,
            (5, 10, 15),
            ("CappedRecall@10", "NDCG@10", "CappedRecall@5", "NDCG@5", "CappedRecall@15", "NDCG@15"),
        ),
        Protocol(
            "full",
            full,
            (10, 50, 100),
            ("Recall@10", "NDCG@10", "CappedRecall@10", "Recall@50", "CappedRecall@50", "NDCG@50", "Recall@100"),
        ),
        Protocol("lastfm", lastfm, (10,), ("Recall@10", "NDCG@10", "MRR@10", "HR@10", "Precision@10")),
    )
}


def _pairs_of(truth: HeldOut) -> Indices:
    """User row and item row of every positive, [2, n]."""
    lists = [sorted(items) for items in truth.positives]
    items = np.array([item for listed in lists for item in listed], np.int64)
    return np.stack([np.repeat(truth.users, np.array([len(listed) for listed in lists], np.int64)), items])


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)


def _ends(pairs: int) -> tuple[int, int]:
    """Where train ends and where validation ends, of 80/10/10."""
    tenth = round(pairs / 10)
    return pairs - 2 * tenth, pairs - tenth


def _ends_of_each(totals: Indices) -> tuple[Indices, Indices]:
    """RecBole's 8:1:1 of each user: tenths are rounded down, but who has 2 gives 1 to test, and who has 3 to both."""
    test = np.where(totals < 10, (totals >= 2).astype(np.int64), totals // 10)
    validation = np.where(totals < 10, (totals >= 3).astype(np.int64), totals // 10)
    return totals - test - validation, totals - test


def _sampled(positives: Indices, had: Lists, items: int, *, generator: np.random.Generator) -> SampledItems:
    truth, unseen = truth_of(positives), unseen_of(had, items)
    listed = []
    for user, wanted in zip(truth.users, truth.positives, strict=True):
        left = int(unseen.counts[user])
        ranks = generator.choice(left, min(SAMPLED_ITEMS, left), replace=False, shuffle=False)
        drawn = unseen.take(np.array([user]), ranks[None])[0]
        listed.append(np.sort(np.concatenate([drawn, np.array(list(wanted), np.int64)])))
    offsets = np.cumsum([0, *(len(candidates) for candidates in listed)])
    return SampledItems(truth, Lists(offsets, np.concatenate([*listed, np.empty(0, np.int64)])))


def _numbered(pairs: Indices, friends: Indices) -> tuple[Indices, Indices, int, int]:
    """Distinct pairs [2, n] by row, relations [2, m] between users who have pairs, and how many users and items."""
    distinct = np.unique(pairs, axis=0)
    users, user_rows = np.unique(distinct[:, 0], return_inverse=True)
    items, item_rows = np.unique(distinct[:, 1], return_inverse=True)
    known = friends[np.isin(friends, users).all(axis=1)]
    return np.stack([user_rows, item_rows]), np.searchsorted(users, known).T, len(users), len(items)


def _table(file: Path, *, columns: int = 2, delimiter: str = "\t", header: int = 1) -> Indices:
    """The first columns of a file of whole numbers, [rows, columns].

    Raises MissingInput without the file, ConfigurationError if it holds anything else.
    """
    try:
        table = np.loadtxt(_present(file), delimiter=delimiter, skiprows=header, dtype=np.int64, ndmin=2)
    except ValueError as error:  # it tells row and column
        raise ConfigurationError(f"{file}: expected whole numbers: {error}") from error
    if table.shape[1] < columns:
        raise ConfigurationError(f"{file}: expected at least {columns} columns, got {table.shape[1]}")
    return table[:, :columns]


def _require_rows(file: Path, rows: Indices, ends: tuple[int, int]) -> None:
    """Raise ConfigurationError for a line of `file` that names a row beyond its `ends`."""
    beyond = np.argwhere((rows.T < 0) | (np.array(ends) <= rows.T))
    if len(beyond):
        line, column = beyond[0].tolist()
        expected = f"expected a number from 0 to {ends[column] - 1} in column {column + 1}"
        raise ConfigurationError(f"{file}, line {line + 2}: {expected}, got {rows[column, line]}")


def _present(file: Path) -> Path:
    if not file.is_file():
        raise MissingInput(f"expected {file}; --data names the folder that has ciao, ciao-eatnn-split and hetrec2011-*")
    return file

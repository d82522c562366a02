"""A split with something to learn: two tastes that never meet, friends of one taste, both kinds of parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.dicer.evaluation import truth_of
from models.dicer.graphs import Lists
from models.dicer.histories import lists_of_pairs
from models.dicer.protocols import EveryItem, Protocol, SampledItems, Split


def toy_split(seed: int, *, users: int = 40, items: int = 60, sampled: bool = False) -> Split:
    """Each user has 60/20/20 of half of a taste's items; a sampled candidate is any item that the user has not had."""
    generator = np.random.default_rng(seed)
    parts: tuple[list[tuple[int, int]], ...] = ([], [], [])
    for user in range(users):
        own = (2 * generator.permutation(items // 2)[: items // 4] + user % 2).tolist()
        for part, ends in zip(parts, (own[:9], own[9:12], own[12:]), strict=True):
            part.extend((user, item) for item in ends)
    train, validation, test = (np.array(part, np.int64).T for part in parts)
    ring = np.arange(users)
    had = lists_of_pairs(np.concatenate([train, validation, test], axis=1), users)
    judged = [
        SampledItems(truth_of(pairs), _candidates(pairs, had, items))
        if sampled
        else EveryItem(truth_of(pairs), lists_of_pairs(train, users))
        for pairs in (validation, test)
    ]
    return Split(users, items, train, np.stack([ring, (ring + 2) % users]), judged[0], judged[1])


def toy_protocol(*, users: int = 40, sampled: bool = False) -> Protocol:
    """Reads nothing."""

    def read(data: Path, seed: int) -> Split:
        return toy_split(seed, users=users, sampled=sampled)

    return Protocol("toy", read, (5, 10), ("Recall@10", "NDCG@10"))


def _candidates(pairs: np.ndarray, had: Lists, items: int) -> Lists:
    truth = truth_of(pairs)
    lists = [
        sorted(set(range(items)).difference(had.of(user).tolist()) | wanted)
        for user, wanted in zip(truth.users.tolist(), truth.positives, strict=True)
    ]
    offsets = np.cumsum([0, *(len(listed) for listed in lists)])
    return Lists(offsets, np.array([item for listed in lists for item in listed], np.int64))

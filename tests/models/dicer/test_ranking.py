"""Exact lists: the same as a sort of everything, ties included."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dicer.graphs import Lists
from models.dicer.ranking import top_items


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.2000001, 0.7]), min_size=1, max_size=30),
    taken=st.sets(st.integers(0, 29)),
    k=st.integers(1, 35),
)
def test_lists_equal_a_full_sort(scores: list[float], taken: set[int], k: int) -> None:
    seen = sorted(item for item in taken if item < len(scores))
    row = np.array(scores, np.float32)
    left = [item for item in range(len(scores)) if item not in seen]
    expected = sorted(left, key=lambda item: (-row[item], item))[:k]
    lists = Lists(np.array([0, len(seen)]), np.array(seen, np.int64))
    (best,) = top_items(row[None].copy(), lists, np.array([0]), k)
    assert best.tolist() == expected


def test_who_has_had_everything_gets_nothing() -> None:
    lists = Lists(np.array([0, 2]), np.array([0, 1]))
    (best,) = top_items(np.ones((1, 2), np.float32), lists, np.array([0]), 5)
    assert best.tolist() == []

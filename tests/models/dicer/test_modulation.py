"""The extremes of lists against loops over them: values, owners, gradients, and one neighbour left out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dicer import modulation
from models.dicer.modulation import ends_of, extremes_of, halves

NEIGHBOURS, NODES, WIDTH = 5, 4, 3
# few values, so that lists have ties, and nothing above zero as often as not
ROWS = st.lists(
    st.lists(st.sampled_from([-2.0, -0.5, -0.0, 0.0, 1e-40, 0.5, 2.0]), min_size=WIDTH, max_size=WIDTH),
    min_size=NEIGHBOURS,
    max_size=NEIGHBOURS,
)
PAIRS = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NEIGHBOURS - 1)), max_size=25)  # in any order
Pairs = Sequence[tuple[int, int]]


def tensors(pairs: Pairs) -> tuple[Tensor, Tensor]:
    nodes, neighbours = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(dim=1)
    return nodes, neighbours


def slow_owners(x: Tensor, pairs: Pairs, node: int, left_out: int | None = None) -> list[int]:
    """The owner of each of the 2D ends of a node, -1 where there is none; of equals the largest number."""
    said, owners = halves(x.detach()).tolist(), []
    listed = [neighbour for at, neighbour in pairs if at == node and neighbour != left_out]
    for column in range(2 * x.shape[1]):
        best = max(((said[neighbour][column], neighbour) for neighbour in listed), default=(0.0, -1))
        owners.append(best[1] if best[0] > 0 else -1)
    return owners


def slow_ends(x: Tensor, owners: Sequence[Sequence[int]]) -> Tensor:
    """What the owners say, one number after the other."""
    rows = halves(x)
    ends = [0 * rows[0, 0] if i < 0 else rows[i, column] for owned in owners for column, i in enumerate(owned)]
    return torch.stack(ends).view(len(owners), -1)


def assert_same_with_gradients(fast: Tensor, slow: Tensor, x: Tensor, seed: int) -> None:
    assert torch.equal(fast, slow)
    towards = torch.randn(fast.shape, generator=torch.Generator().manual_seed(seed))
    ours, theirs = (torch.autograd.grad((towards * ends).sum(), x)[0] for ends in (fast, slow))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("entries", [3, 1024])  # lists longer than a block, and all of them in one
@settings(max_examples=60, deadline=None)
@given(rows=ROWS, pairs=PAIRS, seed=st.integers(0, 100))
@example(rows=[[1.0] * WIDTH] * NEIGHBOURS, pairs=[], seed=0)  # no pair at all
@example(rows=[[1.0] * WIDTH] * NEIGHBOURS, pairs=[(2, 4)], seed=0)  # one list of one
@example(rows=[[1.0, -1.0, 0.0]] * NEIGHBOURS, pairs=[(0, 3), (0, 1), (0, 3)], seed=0)  # one neighbour twice, and a tie
def test_extremes_are_those_of_loops_over_the_lists(
    entries: int, rows: list[list[float]], pairs: Pairs, seed: int
) -> None:
    x = torch.tensor(rows, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modulation, "_ENTRIES", entries)
        found = extremes_of(x, *tensors(pairs), NODES)
        asked = [(node, left_out) for node in range(NODES) for left_out in range(NEIGHBOURS)]
        without = found.without(*tensors(asked))
    owners = [slow_owners(x, pairs, node) for node in range(NODES)]
    assert found.first_owner.tolist() == owners
    assert_same_with_gradients(found.first, slow_ends(x, owners), x, seed)
    assert torch.equal(found.first, ends_of(x, *tensors(pairs), NODES))
    some = [3, 0, 3]
    assert_same_with_gradients(found.of(torch.tensor(some)), slow_ends(x, [owners[node] for node in some]), x, seed)
    others = [slow_owners(x, pairs, node, left_out) for node, left_out in asked]
    assert_same_with_gradients(without, slow_ends(x, others), x, seed)


def test_extremes_of_long_lists_of_ordinary_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator, requires_grad=True)
    nodes = (torch.rand(5000, generator=generator).square() * 40).long()  # from some 800 entries down to a few
    neighbours = torch.randint(300, (5000,), generator=generator)
    pairs = list(zip(nodes.tolist(), neighbours.tolist(), strict=True))
    asked = pairs[:200]
    found = extremes_of(x, nodes, neighbours, 41)
    slow = slow_ends(x, [slow_owners(x, pairs, node) for node in range(41)])
    assert_same_with_gradients(found.first, slow, x, 1)
    slow = slow_ends(x, [slow_owners(x, pairs, node, left_out) for node, left_out in asked])
    assert_same_with_gradients(found.without(*tensors(asked)), slow, x, 2)

"""Sums over groups of twins against the sum edge by edge."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric import EdgeIndex

from models.dicer.encoder import NeighbourSum, quiet_about_sparse_tensors
from models.dicer.similarity import similar
from models.dicer.twins import Twins, twins_of


def summed(edges: np.ndarray, nodes: int, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The sum by groups, and how many groups there are."""
    group, between = twins_of(edges, nodes)
    count = int(group.max()) + 1
    with quiet_about_sparse_tensors():
        index = EdgeIndex(torch.from_numpy(between), sparse_size=(count, count), sort_order="col")
        twins = Twins(torch.from_numpy(edges), torch.from_numpy(group), index)
        return NeighbourSum()(x, twins), count


@settings(deadline=None)
@given(
    nodes=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    both_ways=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_a_sum_by_groups_is_the_sum_edge_by_edge_and_so_is_its_gradient(
    nodes: int, density: float, both_ways: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    heard = rng.random((nodes, nodes)) < density
    heard = (heard | heard.T if both_ways else heard) & ~np.eye(nodes, dtype=bool)
    edges = np.stack(np.nonzero(heard.T))
    x = torch.from_numpy(rng.normal(size=(nodes, 3)).astype(np.float32)).requires_grad_()
    weights = torch.from_numpy(rng.normal(size=(nodes, 3)).astype(np.float32))
    literal = torch.from_numpy((heard + np.eye(nodes)).astype(np.float32)) @ x
    ours, _ = summed(edges, nodes, x)
    torch.testing.assert_close(ours, literal)
    expected = torch.autograd.grad((literal * weights).sum(), x)
    torch.testing.assert_close(torch.autograd.grad((ours * weights).sum(), x), expected)


def test_items_that_one_user_alone_has_had_are_one_group() -> None:
    pairs = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 2]])  # items 0-2 by user 0, 3 and 4 by user 1, 5 by user 2
    edges = similar(pairs, 7, 3, threshold=0.1, cap=None)  # item 6 has nobody
    _, count = summed(edges, 7, torch.zeros(7, 1))
    assert edges.shape[1] == 8
    assert count == 4


def test_nodes_that_hear_the_same_but_are_not_heard_by_the_same_stay_apart() -> None:
    edges = np.array([[1, 0, 0], [0, 1, 2]])  # 0 and 1 hear each other, 2 hears 0 alone
    group, _ = twins_of(edges, 3)
    assert len(set(group.tolist())) == 3

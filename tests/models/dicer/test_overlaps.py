"""Sums by shared lists against the sum edge by edge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric import EdgeIndex

from models.dicer import encoder
from models.dicer.encoder import NeighbourSum, edges_of, quiet_about_sparse_tensors
from models.dicer.overlaps import Overlaps, overlaps_of
from models.dicer.similarity import graphs_from_arrays, similar


def random_pairs(lists: int, nodes: int, density: float, rng: np.random.Generator) -> np.ndarray:
    """Distinct (list, node)."""
    return np.stack(np.nonzero(rng.random((lists, nodes)) < density))


def compare(edges: np.ndarray, pairs: np.ndarray, nodes: int, rng: np.random.Generator) -> None:
    """Sum and gradient, as the encoder takes them, against the matrix of all edges."""
    with quiet_about_sparse_tensors():
        graph = overlaps_of(edges, pairs, nodes)
        assert graph is not None
        x = torch.from_numpy(rng.normal(size=(nodes, 3)).astype(np.float32)).requires_grad_()
        weights = torch.from_numpy(rng.normal(size=(nodes, 3)).astype(np.float32))
        ours = NeighbourSum()(x, graph)
        gradient = torch.autograd.grad((ours * weights).sum(), x)
    matrix = np.eye(nodes, dtype=np.float32)
    matrix[edges[1], edges[0]] = 1.0
    literal = torch.from_numpy(matrix) @ x
    torch.testing.assert_close(ours, literal, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad((literal * weights).sum(), x), rtol=1e-5, atol=1e-5)
    assert graph.as_tensor().tolist() == edges.tolist()


@settings(deadline=None)
@given(
    lists=st.integers(1, 8),
    nodes=st.integers(1, 12),
    density=st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]),
    threshold=st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.8, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_the_sum_over_similar_nodes_is_the_sum_edge_by_edge_and_so_is_its_gradient(
    lists: int, nodes: int, density: float, threshold: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pairs = random_pairs(lists, nodes, density, rng)
    compare(similar(pairs[::-1], nodes, lists, threshold=threshold, cap=None), pairs, nodes, rng)


@settings(deadline=None)
@given(nodes=st.integers(1, 9), density=st.sampled_from([0.0, 0.2, 0.6, 1.0]), seed=st.integers(0, 10**6))
def test_so_is_that_over_edges_that_have_nothing_to_do_with_the_lists(nodes: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    heard = rng.random((nodes, nodes)) < density
    heard = (heard | heard.T) & ~np.eye(nodes, dtype=bool)
    compare(np.stack(np.nonzero(heard.T)), random_pairs(4, nodes, 0.4, rng), nodes, rng)


def test_edges_of_one_direction_are_left_as_they_are() -> None:
    assert overlaps_of(np.array([[1, 0, 0], [0, 1, 2]]), np.array([[0, 0, 0], [0, 1, 2]]), 3) is None


def test_one_shared_list_is_enough_for_nodes_of_few() -> None:
    pairs = np.array([[0] * 5 + [1] * 4, [0, 1, 2, 3, 4, 4, 5, 6, 7]])
    edges = similar(pairs[::-1], 8, 2, threshold=0.1, cap=None)
    with quiet_about_sparse_tensors():
        graph = overlaps_of(edges, pairs, 8)
    assert graph is not None
    assert edges.shape[1] == 32
    assert graph.heard.shape == (8, 4), "each list for nodes of one list, and for the one that is in both"
    assert graph.rest.values().tolist() == [1.0], "that one's own loop, which no group of small enough degrees has"


@pytest.mark.parametrize(("few", "cap"), [(0, None), (10**6, None), (0, 1)])
def test_the_encoder_takes_them_where_they_are_fewer(
    few: int, cap: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_FEW", few)
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(30), 20), np.arange(600)  # each item has one user; then some have two
    pairs = np.concatenate([np.stack([user, item]), np.stack([(user + 1) % 30, item])[:, :60]], axis=1)
    graphs = graphs_from_arrays(pairs, rng.integers(0, 30, (2, 40)), 30, 600, cap=cap)
    with quiet_about_sparse_tensors():
        made = edges_of(graphs)
    assert isinstance(made.similar_items, Overlaps if few == 0 and cap is None else EdgeIndex)
    assert isinstance(made.friends, EdgeIndex)

"""The network against the definition, pair by pair: values and gradients, on random and on awkward worlds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dicer import definition
from models.dicer.config import dicer_tiny
from models.dicer.graphs import graphs_of
from models.dicer.network import (
    Dicer,
    Edges,
    Friends,
    Head,
    Relation,
    edges_of,
    ends_of,
    extremes_of,
    friend_ends,
    modulate,
    user_interest,
)
from tests.dicer_worlds import World, random_world

WORLDS = st.builds(
    random_world,
    seed=st.integers(0, 10_000),
    users=st.integers(1, 7),
    items=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.15, 0.4, 0.9]),
)
AWKWARD = {
    "no friends at all": World([[], []], [[], []], [[], [], []], [[0, 1], [2]]),
    "no history at all": World([[1], [0]], [[], []], [[], []], [[], []]),
    "one-element lists": World([[1], [0]], [[1], [0]], [[1], [0]], [[0], [1]]),
    "friend named twice": World([[1, 1, 2], [0], [0]], [[], [], []], [[], []], [[0], [1], [0, 1]]),
    "silent friend": World([[1, 2], [0], [0]], [[], [], []], [[], []], [[0], [], [1]]),
    "one user, one item": World([[]], [[]], [[]], [[0]]),
}


def encoded(world: World, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of about unit length, as the encoder's pieces are: longer ones turn float32's rounding into differences."""
    generator = torch.Generator().manual_seed(seed)
    h, z = (5**-0.5 * torch.randn(nodes, 5, generator=generator) for nodes in (len(world.friends), world.items))
    return h.requires_grad_(), z.requires_grad_()


def all_pairs_fast(world: World, h: Tensor, z: Tensor, *, leave_out: bool) -> tuple[Tensor, Tensor]:
    """x_ui and y_iu of every pair, [users, items, D], as the network makes them."""
    graphs = world.graphs()
    users, items = torch.from_numpy(graphs.interactions)
    index, real = (torch.from_numpy(a) for a in graphs.heard_friends().padded(np.arange(graphs.users)))
    ends, audience = ends_of(z, users, items, graphs.users), ends_of(h, items, users, graphs.items)
    heard = Friends(ends[index] * real[..., None], real)
    if not leave_out:
        return user_interest(z[None], ends[:, None], heard), modulate(h[:, None], audience[None])
    everyone, everything = torch.arange(graphs.users)[:, None], torch.arange(graphs.items)[None]
    histories, audiences = (
        extremes_of(z, users, items, graphs.users),
        extremes_of(h, items, users, graphs.items),
    )
    return (
        user_interest(z[None], histories.without(everyone, everything), heard),
        modulate(h[:, None], audiences.without(everything, everyone)),
    )


def all_pairs_slow(world: World, h: Tensor, z: Tensor, *, leave_out: bool) -> tuple[Tensor, Tensor]:
    histories, friends, audiences = (
        [set(x) for x in world.histories],
        [set(x) for x in world.friends],
        world.audiences(),
    )
    users, items = range(len(histories)), range(world.items)
    interest = [
        [definition.user_interest(z, u, i, histories, friends, leave_out=leave_out) for i in items] for u in users
    ]
    attraction = [[definition.item_attraction(h, u, i, audiences, leave_out=leave_out) for i in items] for u in users]
    return torch.stack([torch.stack(row) for row in interest]), torch.stack([torch.stack(row) for row in attraction])


def assert_modulations_agree(world: World, seed: int, *, leave_out: bool) -> None:
    h, z = encoded(world, seed)
    weights = torch.randn(2, len(h), len(z), 5, generator=torch.Generator().manual_seed(seed + 1))
    results = []
    for form in (all_pairs_fast, all_pairs_slow):
        interest, attraction = form(world, h, z, leave_out=leave_out)
        total = (weights[0] * interest).sum() + (weights[1] * attraction).sum()
        total = total + 0 * (h.sum() + z.sum())  # where every list is empty the definition depends on nothing
        gradients = torch.autograd.grad(total, (h, z))
        results.append((interest, attraction, *gradients))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(world=WORLDS, seed=st.integers(0, 1000), leave_out=st.booleans())
def test_modulations_are_the_definition_in_value_and_gradient(world: World, seed: int, leave_out: bool) -> None:
    assert_modulations_agree(world, seed, leave_out=leave_out)


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("world", AWKWARD.values(), ids=AWKWARD.keys())
def test_awkward_lists_are_the_definition_too(world: World, leave_out: bool) -> None:
    assert_modulations_agree(world, 3, leave_out=leave_out)


def test_without_friends_the_interest_is_the_users_own_and_without_history_it_is_nothing() -> None:
    world = AWKWARD["no friends at all"]
    h, z = encoded(world, 0)
    interest, _ = all_pairs_fast(world, h, z, leave_out=False)
    expected = definition.largest_product(z, z[2], {0, 1})
    torch.testing.assert_close(interest[0, 2], expected)
    left_out, attraction = all_pairs_fast(world, h, z, leave_out=True)
    assert not left_out[1, 2].any(), "the only item of the history was the target"
    assert not attraction[1, 2].any(), "the only user of the audience was the target"


def test_padding_friends_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    z, own = torch.randn(1, 4, 3, generator=generator), torch.rand(2, 1, 6, generator=generator)
    ends, real = torch.rand(2, 3, 6, generator=generator), torch.tensor([[True, True, False], [False, False, False]])
    short = user_interest(z, own, Friends(ends * real[..., None], real))
    more = torch.nn.functional.pad(ends * real[..., None], (0, 0, 0, 4))
    wide = user_interest(z, own, Friends(more, torch.nn.functional.pad(real, (0, 4))))
    torch.testing.assert_close(short, wide)
    torch.testing.assert_close(short[1], modulate(z, own)[1])


@settings(max_examples=10, deadline=None)
@given(world=WORLDS, layers=st.integers(0, 3))
def test_encoder_is_the_definition_with_either_kind_of_edge_list(world: World, layers: int) -> None:
    torch.manual_seed(0)
    relation = Relation(dataclasses.replace(dicer_tiny(), layers=layers))
    x = torch.randn(len(world.friends), 4, requires_grad=True)
    weights = [(a.weight, a.bias, b.weight, b.bias) for a, b in zip(relation.of_sum, relation.of_product, strict=True)]
    slow = definition.encode_relation(x, [set(listed) for listed in world.similar_users], weights)
    graphs = world.graphs()
    towards = torch.randn(slow.shape)
    expected = torch.autograd.grad((slow * towards).sum(), x)[0]
    for edges in (edges_of(graphs).similar_users, torch.from_numpy(graphs.similar_users)):
        fast = relation(x, edges)
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.autograd.grad((fast * towards).sum(), x)[0], expected, atol=1e-4, rtol=1e-4)


def test_a_head_is_its_layers_one_after_the_other() -> None:
    torch.manual_seed(0)
    head = Head(dicer_tiny())
    left, right = torch.randn(3, 8), torch.randn(5, 8)
    with torch.no_grad():
        fast = head.logits(head.left(left)[:, None], head.right(right)[None])
        slow = torch.tensor([[definition.head_logit(head.state_dict(), a, b) for b in right] for a in left])
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(world=WORLDS, seed=st.integers(0, 100))
def test_scores_are_the_definition_end_to_end(world: World, seed: int) -> None:
    network, graphs = small_network(world, seed), world.graphs()
    with torch.no_grad():
        user_rows, item_rows = network.tables(network.user_base, network.item_base, edges_of(graphs))
        fast = network.score(user_rows, item_rows, all_friends(world, user_rows))
        h, z = network.encode(network.user_base, network.item_base, edges_of(graphs))
        interest, attraction = all_pairs_slow(world, h, z, leave_out=False)
        for u in range(graphs.users):
            for i in range(graphs.items):
                logits = [
                    definition.head_logit(network.own_head.state_dict(), h[u], z[i]),
                    definition.head_logit(network.interest_head.state_dict(), interest[u, i], z[i]),
                    definition.head_logit(network.attraction_head.state_dict(), h[u], attraction[u, i]),
                ]
                expected = sum(w * torch.sigmoid(x) for w, x in zip(network.config.head_weights, logits, strict=True))
                assert fast[u, i] == pytest.approx(float(expected), abs=1e-5)


def test_pair_logits_leave_the_pair_out_and_agree_with_the_night_elsewhere() -> None:
    world = random_world(4, users=6, items=5, density=0.5)
    network, graphs = small_network(world, 1), world.graphs()
    edges = edges_of(graphs)
    consumers, consumed = edges.interactions
    with torch.no_grad():
        user_rows, item_rows = network.tables(network.user_base, network.item_base, edges)
        night = network.score(user_rows, item_rows, all_friends(world, user_rows))
        h, z = network.encode(network.user_base, network.item_base, edges)
        histories = extremes_of(z, consumers, consumed, graphs.users)
        audiences = extremes_of(h, consumed, consumers, graphs.items)
        users, items = torch.arange(graphs.users), torch.arange(graphs.items).expand(graphs.users, -1)
        logits = network.pair_logits(h, z, histories, audiences, (users, items), all_friends(world, user_rows))
    scores = torch.sigmoid(logits).mean(dim=0)
    unseen = torch.ones(night.shape, dtype=torch.bool)
    unseen[consumers, consumed] = False
    torch.testing.assert_close(scores[unseen], night[unseen], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores[~unseen], night[~unseen], atol=1e-6)


def test_scores_do_not_depend_on_the_block_or_on_the_order_of_rows() -> None:
    world = random_world(5, users=7, items=6, density=0.4)
    network, graphs = small_network(world, 2), world.graphs()
    with torch.no_grad():
        user_rows, item_rows = network.tables(network.user_base, network.item_base, edges_of(graphs))
        whole = network.score(user_rows, item_rows, all_friends(world, user_rows))
        for user in range(graphs.users):
            index, real = (torch.from_numpy(a) for a in graphs.heard_friends().padded(np.array([user])))
            alone = network.score(user_rows[user, None], item_rows[2:4], friend_ends(user_rows, index, real))
            torch.testing.assert_close(alone[0], whole[user, 2:4], atol=1e-6, rtol=1e-6)
        views = world.views()
        shuffled = graphs_of({name: table.take(np.arange(table.num_rows)[::-1]) for name, table in views.items()})
        again, _ = network.tables(network.user_base, network.item_base, plain(shuffled))
    torch.testing.assert_close(again, user_rows)


def small_network(world: World, seed: int) -> Dicer:
    torch.manual_seed(seed)
    network = Dicer(dicer_tiny(), len(world.friends), world.items).eval()
    with torch.no_grad():  # Xavier bases are so small that every score would look alike
        network.user_base.normal_()
        network.item_base.normal_()
    return network


def all_friends(world: World, user_rows: Tensor) -> Friends:
    index, real = world.graphs().heard_friends().padded(np.arange(len(world.friends)))
    return friend_ends(user_rows, torch.from_numpy(index), torch.from_numpy(real))


def plain(graphs: object) -> Edges:
    names = ("friends", "similar_users", "similar_items", "interactions")
    return Edges(*(torch.from_numpy(getattr(graphs, name)) for name in names))

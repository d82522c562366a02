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
from models.dicer.blocks import blocks_of
from models.dicer.config import NAMED, dicer_tiny
from models.dicer.encoder import Edges, Relation, RelationLayer, edges_of
from models.dicer.graphs import Graphs, graphs_of
from models.dicer.losses import cross_entropy, focal
from models.dicer.modulation import Friends, ends_of, extremes_of, modulate, user_interest
from models.dicer.network import Dicer, Head
from models.dicer.pairs import Batch, logits_of, loss_of, modulated, step_loss
from models.dicer.scorers import scorers_of
from models.dicer.scoring import Rows, friend_ends, score, tables
from models.dicer.training import train_split
from models.dicer.voices import Voices
from tests.dicer_examples import AWKWARD, WORLDS
from tests.dicer_worlds import World, random_world


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
    everyone, everything = torch.meshgrid(torch.arange(graphs.users), torch.arange(graphs.items), indexing="ij")
    histories, audiences = extremes_of(z, users, items, graphs.users), extremes_of(h, items, users, graphs.items)
    own = histories.without(everyone.flatten(), everything.flatten()).view(*everyone.shape, -1)
    others = audiences.without(everything.flatten(), everyone.flatten()).view(*everyone.shape, -1)
    return user_interest(z[None], own, heard), modulate(h[:, None], others)


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
    assert all(isinstance(layer, RelationLayer) for layer in relation.layers)
    pairs = [(layer.of_sum, layer.of_product) for layer in relation.layers]
    weights = [(a.weight, a.bias, b.weight, b.bias) for a, b in pairs]
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
        user_rows, item_rows = tables(network, network.user_base, network.item_base, edges_of(graphs))
        fast = score(network, user_rows, item_rows, all_friends(world, user_rows))
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


def whole_batch(graphs: Graphs, positives: int) -> Batch:
    """Every user beside its first `positives` items of the history, and then every item."""
    histories = graphs.histories()
    users = torch.from_numpy(np.flatnonzero(histories.lengths >= positives))
    taken = [histories.of(int(user))[:positives].tolist() + list(range(graphs.items)) for user in users]
    return Batch(users, torch.tensor(taken, dtype=torch.long).view(len(users), positives + graphs.items), positives)


def test_training_leaves_positives_out_and_agrees_with_the_night_elsewhere() -> None:
    world = random_world(4, users=6, items=5, density=0.5)
    network, graphs = small_network(world, 1), world.graphs()
    edges, batch = edges_of(graphs), whole_batch(graphs, 1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        user_rows, item_rows = tables(network, network.user_base, network.item_base, edges)
        night = score(network, user_rows, item_rows, all_friends(world, user_rows))[batch.users]
        logits = logits_of(network, modulated(network, edges, batch, Voices(graphs), generator=generator))
        h, z = network.encode(network.user_base, network.item_base, edges)
        interest, attraction = all_pairs_slow(world, h, z, leave_out=True)
        held = [(int(user), int(item)) for user, item in zip(batch.users, batch.items[:, 0], strict=True)]
        expected = torch.stack(
            [
                network.head_logits(
                    h[u, None, None], z[i, None, None], interest[u, i, None, None], attraction[u, i, None, None]
                )
                for u, i in held
            ],
            dim=1,
        )
    torch.testing.assert_close(torch.sigmoid(logits[:, :, 1:]).mean(dim=0), night, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[:, :, 0], expected[..., 0, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_named_configuration_trains_and_scores(name: str) -> None:
    world = random_world(4, users=9, items=7, density=0.5)
    sizes = {"dimension": 4, "hidden": 4, "dropout": 0.0}
    config, graphs = dataclasses.replace(NAMED[name](), **sizes), world.graphs()
    torch.manual_seed(0)
    network, edges, batch = Dicer(config, graphs.users, graphs.items), edges_of(graphs), whole_batch(graphs, 2)
    voices = Voices(graphs, social=config.social, fanout=config.fanout)
    loss = step_loss(network, edges, batch, voices, generator=torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in network.parameters())
    assert network.item_base.grad is not None
    assert network.item_base.grad.abs().sum() > 0
    scorers = scorers_of(network.eval(), (network.user_base, network.item_base), edges, graphs)
    users = np.arange(graphs.users)
    every = scorers.every_item(users)
    pairs = scorers.pairs(users, np.tile(np.array([4, 1]), (graphs.users, 1)))
    assert every.shape == (graphs.users, graphs.items)
    assert pairs == pytest.approx(every[:, [4, 1]], abs=1e-6)


@pytest.mark.parametrize("loss", ["focal", "cross_entropy"])
@pytest.mark.parametrize("fusion", ["sum", "mean"])
def test_a_step_in_blocks_is_the_step_at_once(loss: str, fusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.dicer.pairs._PAIRS", 20)  # several blocks, the last of them short
    world = random_world(6, users=9, items=7, density=0.5)
    network, graphs = small_network(world, 3, loss=loss, friend_fusion=fusion), world.graphs()
    batch, voices = whole_batch(graphs, 2), Voices(graphs)
    results = []
    for blocks in (True, False):
        network.zero_grad()
        ready = modulated(network, edges_of(graphs), batch, voices, generator=torch.Generator().manual_seed(0))
        if blocks:
            value = loss_of(network, ready, batch)
        elif loss == "focal":
            value = focal(logits_of(network, ready), batch.labels, gamma=2.0, alpha=0.25)
        else:
            value = cross_entropy(logits_of(network, ready), batch.labels, network.head_weights)
        value.backward()
        results.append((value.detach(), [weight.grad for weight in network.parameters()]))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)


def test_bfloat16_heads_lose_what_their_eight_bits_do() -> None:
    world = random_world(6, users=9, items=7, density=0.5)
    graphs, losses = world.graphs(), []
    batch, voices = whole_batch(graphs, 2), Voices(graphs)
    for precision in ("float32", "bfloat16"):
        network = small_network(world, 3, precision=precision)
        generator = torch.Generator().manual_seed(0)
        loss = step_loss(network, edges_of(graphs), batch, voices, generator=generator)
        loss.backward()
        assert network.item_base.grad is not None
        assert network.item_base.grad.dtype == torch.float32
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_trains_too(precision: str) -> None:
    graphs = random_world(6, users=9, items=7, density=0.5).graphs()
    config = dataclasses.replace(dicer_tiny(), device="cuda", precision=precision, steps=2, validate_every=1)  # type: ignore[arg-type]
    network, ran = train_split(
        graphs, config, validate=lambda scorers: float(scorers.every_item(np.arange(9)).mean()), seed=0
    )
    assert ran.steps == 2
    assert network.user_base.device.type == "cpu"


def test_scores_do_not_depend_on_the_block_or_on_the_order_of_rows() -> None:
    world = random_world(5, users=7, items=6, density=0.4)
    network, graphs = small_network(world, 2), world.graphs()
    with torch.no_grad():
        user_rows, item_rows = tables(network, network.user_base, network.item_base, edges_of(graphs))
        whole = score(network, user_rows, item_rows, all_friends(world, user_rows))
        for user in range(graphs.users):
            index, real = (torch.from_numpy(a) for a in graphs.heard_friends().padded(np.array([user])))
            own = user_rows[torch.tensor([user])]
            alone = score(network, own, item_rows[torch.tensor([2, 3])], friend_ends(user_rows, index, real))
            torch.testing.assert_close(alone[0], whole[user, 2:4], atol=1e-6, rtol=1e-6)
        views = world.views()
        shuffled = graphs_of({name: table.take(np.arange(table.num_rows)[::-1]) for name, table in views.items()})
        again, _ = tables(network, network.user_base, network.item_base, plain(shuffled))
    torch.testing.assert_close(again.parts, user_rows.parts)


def small_network(world: World, seed: int, **settings: object) -> Dicer:
    torch.manual_seed(seed)
    config = dataclasses.replace(dicer_tiny(), **settings)  # type: ignore[arg-type]
    network = Dicer(config, len(world.friends), world.items).eval()
    with torch.no_grad():  # Xavier bases are so small that every score would look alike
        network.user_base.normal_()
        network.item_base.normal_()
    return network


def all_friends(world: World, user_rows: Rows) -> Friends | None:
    index, real = world.graphs().heard_friends().padded(np.arange(len(world.friends)))
    return friend_ends(user_rows, torch.from_numpy(index), torch.from_numpy(real))


def plain(graphs: object) -> Edges:
    names = ("friends", "similar_users", "similar_items", "interactions")
    return Edges(*(torch.from_numpy(getattr(graphs, name)) for name in names))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 60),
)
def test_blocks_cover_every_row_once_within_their_limits(lengths: list[int], rows: int, cells: int) -> None:
    blocks = blocks_of(np.array(lengths), rows=rows, cells=cells)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(len(lengths)))
    for block in blocks:
        size = block.stop - block.start
        assert 1 <= size <= rows
        assert size == 1 or size * max(lengths[block]) <= cells

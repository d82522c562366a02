"""The literal definition in padded batches is the one pair by pair, and what training computes; gradients included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dicer import definition
from models.dicer.config import dicer_tiny
from models.dicer.definition import PairLists, pair_lists
from models.dicer.encoder import edges_of
from models.dicer.network import Dicer
from models.dicer.pairs import Batch, logits_of, modulated
from models.dicer.voices import Voices
from tests.dicer_examples import AWKWARD, VARIANTS, WORLDS, network_of
from tests.dicer_worlds import World, random_world


def all_pairs(world: World) -> PairLists:
    graphs = world.graphs()
    users, items = np.divmod(np.arange(graphs.users * graphs.items), graphs.items)
    return pair_lists(graphs.histories(), graphs.heard_friends(), graphs.audiences(), users, items)


def pair_by_pair(network: Dicer, world: World, h: Tensor, z: Tensor, *, leave_out: bool) -> Tensor:
    """Logits [heads, pairs] from nothing but loops over the world's own sets."""
    config = network.config
    histories = [set(listed) for listed in world.histories]
    friends = [set(listed) if config.social else set() for listed in world.friends]
    rows = []
    for u in range(len(histories)):
        for i in range(world.items):
            logits = [definition.head_logit(network.own_head.state_dict(), h[u], z[i])]
            if network.interest_head is not None:
                interest = definition.user_interest(
                    z, u, i, histories, friends, leave_out=leave_out, fusion=config.friend_fusion
                )
                logits.append(definition.head_logit(network.interest_head.state_dict(), interest, z[i]))
            if network.attraction_head is not None:
                attraction = definition.item_attraction(h, u, i, world.audiences(), leave_out=leave_out)
                logits.append(definition.head_logit(network.attraction_head.state_dict(), h[u], attraction))
            rows.append(torch.stack(logits))
    return torch.stack(rows, dim=1)


def assert_batches_agree(network: Dicer, world: World, *, leave_out: bool) -> None:
    h, z = (
        x.detach().requires_grad_()
        for x in network.encode(network.user_base, network.item_base, edges_of(world.graphs()))
    )
    lists = all_pairs(world).leaving_out_the_pair() if leave_out else all_pairs(world)
    padded = definition.pair_logits(network, h, z, lists)
    looped = pair_by_pair(network, world, h, z, leave_out=leave_out)
    torch.testing.assert_close(padded, looped, atol=1e-5, rtol=1e-5)
    towards = torch.randn(padded.shape, generator=torch.Generator().manual_seed(0))
    gradients = (torch.autograd.grad((towards * logits).sum(), (h, z)) for logits in (padded, looped))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(world=WORLDS, variant=st.sampled_from(sorted(VARIANTS)), seed=st.integers(0, 1000), leave_out=st.booleans())
def test_padded_batches_are_the_definition_in_value_and_gradient(
    world: World, variant: str, seed: int, leave_out: bool
) -> None:
    assert_batches_agree(network_of(world, VARIANTS[variant], seed), world, leave_out=leave_out)


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("world", AWKWARD.values(), ids=AWKWARD.keys())
def test_awkward_lists_in_padded_batches(world: World, leave_out: bool) -> None:
    assert_batches_agree(network_of(world, dicer_tiny(), 3), world, leave_out=leave_out)


def test_more_padding_changes_nothing() -> None:
    world = random_world(3, users=6, items=5, density=0.5)
    network, lists = network_of(world, dicer_tiny(), 1), all_pairs(world)
    padded = PairLists(
        lists.users,
        lists.items,
        *(torch.nn.functional.pad(x, (0, 3), value=-1) for x in (lists.histories, lists.heard, lists.audiences)),
    )
    with torch.no_grad():
        h, z = network.encode(network.user_base, network.item_base, edges_of(world.graphs()))
        torch.testing.assert_close(*(definition.pair_scores(network, h, z, one) for one in (lists, padded)))


@settings(max_examples=15, deadline=None)
@given(world=WORLDS, variant=st.sampled_from(sorted(VARIANTS)), seed=st.integers(0, 1000))
def test_training_computes_the_definition_with_the_pair_left_out(world: World, variant: str, seed: int) -> None:
    network, graphs = network_of(world, VARIANTS[variant], seed), world.graphs()
    edges = edges_of(graphs)
    everything = torch.arange(graphs.items).expand(graphs.users, -1)
    items = torch.cat([everything, everything[:, :1]], dim=1)  # every item as a positive, and one more as a negative
    batch = Batch(torch.arange(graphs.users), items, graphs.items)
    voices = Voices(graphs, social=network.config.social)
    ready = modulated(network, edges, batch, voices, generator=torch.Generator())
    trained = logits_of(network, ready)[:, :, : graphs.items].flatten(1)
    h, z = network.encode(network.user_base, network.item_base, edges)
    literal = definition.pair_logits(network, h, z, all_pairs(world).leaving_out_the_pair())
    torch.testing.assert_close(trained, literal, atol=1e-5, rtol=1e-5)
    towards = torch.randn(literal.shape, generator=torch.Generator().manual_seed(seed))
    weights = list(network.parameters())
    gradients = [
        torch.autograd.grad((towards * logits).sum(), weights, allow_unused=True, materialize_grads=True)
        for logits in (trained, literal)
    ]
    for weight, ours, theirs in zip(weights, *gradients, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-5, rtol=0, msg=f"weight {tuple(weight.shape)}")

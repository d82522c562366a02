"""An explanation against the literal definition: score, owners of the maxima, and what each of them weighs."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from features.errors import ConfigurationError
from models.dicer import definition
from models.dicer.config import DicerConfig, FriendFusion, dicer_tiny
from models.dicer.encoder import edges_of
from models.dicer.explanation import Explanation, Maxima, explain
from models.dicer.graphs import Graphs
from models.dicer.network import Dicer
from tests.dicer_examples import WORLDS
from tests.dicer_worlds import World, item_ids, random_world, user_ids

TINY = dataclasses.replace(dicer_tiny(), head_weights=(0.5, 0.3, 0.2))


def encoded_world(world: World, seed: int = 0, config: DicerConfig = TINY) -> tuple[Dicer, Tensor, Tensor, Graphs]:
    """A network of random weights, with its encoding of the world."""
    graphs = world.graphs()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Dicer(config, graphs.users, graphs.items)
    with torch.no_grad():
        h, z = network.eval().encode(network.user_base, network.item_base, edges_of(graphs))
    return network, h, z, graphs


def explained(world: World, user: int, item: int, config: DicerConfig = TINY) -> Explanation:
    return explain(*encoded_world(world, config=config), user=user, item=item)


def owned_pieces(x: Tensor, target: Tensor, members: set[int]) -> dict[int, Tensor]:
    """Of each member the part of `largest_product` that is its own, dimension by dimension."""
    pieces: dict[int, Tensor] = {}
    for d, best in enumerate(definition.largest_product(x, target, members)):
        if best > 0:
            owner = min(j for j in members if x[j, d] * target[d] == best)
            pieces.setdefault(owner, torch.zeros_like(target))[d] = best
    return pieces


def assert_attributed(maxima: Maxima, ids: list[str], pieces: dict[int, Tensor], gradients: list[Tensor]) -> None:
    """Owners, their dimensions, and their share of the logit's gradient."""
    assert {owner.id: owner.dimensions for owner in maxima.owners} == {
        ids[j]: int((piece > 0).sum()) for j, piece in pieces.items()
    }
    by_id = {owner.id: owner.attribution for owner in maxima.owners}
    for j, gradient in zip(pieces, gradients, strict=True):
        assert by_id[ids[j]] == pytest.approx(float(gradient), abs=1e-5)
    assert maxima.attribution == pytest.approx(sum(map(float, gradients)), abs=1e-5)
    sizes = [abs(owner.attribution) for owner in maxima.owners]
    assert sizes == sorted(sizes, reverse=True)


def weighed(parts: list[tuple[float, dict[int, Tensor]]], logit_of: object) -> list[list[Tensor]]:
    """Gradients of the logit by a factor of each owner's piece, each list times its attention; the factors are 1."""
    factors = [[torch.ones((), requires_grad=True) for _ in pieces] for _, pieces in parts]
    total = sum(
        weight * factor * piece
        for (weight, pieces), row in zip(parts, factors, strict=True)
        for factor, piece in zip(row, pieces.values(), strict=True)
    )
    flat = [factor for row in factors for factor in row]
    found = iter(torch.autograd.grad(logit_of(total), flat) if flat else ())  # type: ignore[operator]
    return [[next(found) for _ in row] for row in factors]


@settings(max_examples=25, deadline=None)
@given(world=WORLDS, seed=st.integers(0, 1000), fusion=st.sampled_from(["sum", "mean"]), data=st.data())
def test_an_explanation_is_the_definition(world: World, seed: int, fusion: FriendFusion, data: st.DataObject) -> None:
    network, h, z, graphs = encoded_world(world, seed, dataclasses.replace(TINY, friend_fusion=fusion))
    user, item = data.draw(st.integers(0, graphs.users - 1)), data.draw(st.integers(0, graphs.items - 1))
    told = explain(network, h, z, graphs, user=user, item=item)
    histories, friends = [set(x) for x in world.histories], [set(x) for x in world.friends]
    audience = world.audiences()[item]
    interest = definition.user_interest(z, user, item, histories, friends, leave_out=False, fusion=fusion)
    attraction = definition.item_attraction(h, user, item, world.audiences(), leave_out=False)
    heads = (network.own_head, network.interest_head, network.attraction_head)
    states = [head.state_dict() for head in heads if head is not None]
    sides = [(h[user], z[item]), (interest, z[item]), (h[user], attraction)]
    logits = torch.stack([definition.head_logit(state, *pair) for state, pair in zip(states, sides, strict=True)])
    assert [part.logit for part in told.heads] == pytest.approx(logits.tolist(), abs=1e-5)
    assert told.score == pytest.approx(float(torch.sigmoid(logits) @ torch.tensor([0.5, 0.3, 0.2])), abs=1e-5)
    assert told.had_item == (item in histories[user])

    assert told.interest is not None
    assert told.attraction is not None
    heard = sorted(f for f in friends[user] if histories[f])
    own = definition.largest_product(z, z[item], histories[user])
    theirs = [definition.largest_product(z, z[item], histories[f]) for f in heard]
    attention = torch.softmax(torch.stack([own @ m for m in theirs]), dim=0).tolist() if heard else []
    by_id = {friend.id: friend for friend in told.interest.friends}
    assert {f: by_id[f].attention for f in by_id} == pytest.approx(
        dict(zip(user_ids(heard), attention, strict=True)), abs=1e-5
    )
    assert told.interest.silent_friends == len(friends[user]) - len(heard)
    scale = 0.5 if heard and fusion == "mean" else 1.0
    parts = [(scale, owned_pieces(z, z[item], histories[user]))]
    parts += [(scale * a, owned_pieces(z, z[item], histories[f])) for a, f in zip(attention, heard, strict=True)]
    gradients = weighed(parts, lambda x: definition.head_logit(states[1], x, z[item]))
    names = item_ids(range(graphs.items))
    maxima = [told.interest.own, *(by_id[f].history for f in user_ids(heard))]
    for found, (_, pieces), expected in zip(maxima, parts, gradients, strict=True):
        assert_attributed(found, names, pieces, expected)

    pieces = owned_pieces(h, h[user], audience)
    (gradient,) = weighed([(1.0, pieces)], lambda y: definition.head_logit(states[2], h[user], y))
    assert_attributed(told.attraction.audience, user_ids(range(graphs.users)), pieces, gradient)


def test_beside_a_likeness_the_heads_correct_its_logit() -> None:
    config = dataclasses.replace(TINY, collaborative_layers=1)
    network, h, z, graphs = encoded_world(random_world(2, users=9, items=8, density=0.5), 0, config)
    told = explain(network, h, z, graphs, user=1, item=2, likeness=0.7)
    expected = 0.7 + sum(part.weight * part.logit for part in told.heads)
    assert told.score == pytest.approx(1 / (1 + math.exp(-expected)), abs=1e-6)
    assert sum(part.contribution for part in told.heads) == pytest.approx(expected - 0.7, abs=1e-6)
    with pytest.raises(ValueError, match="likeness"):
        explain(network, h, z, graphs, user=1, item=2)


def test_contributions_add_up_to_the_score_and_attributions_to_their_sum() -> None:
    world = random_world(2, users=9, items=8, density=0.5)
    for user in range(9):
        told = explained(world, user, 3)
        assert sum(part.contribution for part in told.heads) == told.score
        assert all(part.contribution == part.weight * part.probability for part in told.heads)
        assert told.interest is not None
        assert sum(friend.attention for friend in told.interest.friends) == pytest.approx(
            float(bool(told.interest.friends))
        )
        shares = [told.interest.own, *(friend.history for friend in told.interest.friends)]
        assert sum(m.attribution for m in shares) == pytest.approx(told.interest.attributed, abs=1e-9)
        for maxima in shares:
            assert sum(owner.attribution for owner in maxima.owners) == pytest.approx(maxima.attribution, abs=1e-9)
            assert sum(owner.dimensions for owner in maxima.owners) + maxima.nobody == dicer_tiny().width
        weights = [friend.attention for friend in told.interest.friends]
        assert weights == sorted(weights, reverse=True)


def test_what_moved_is_measured_against_an_empty_modulation() -> None:
    full, empty = World([[]], [[]], [[], []], [[0, 1]]), World([[]], [[]], [[], []], [[]])
    with_history, without = explained(full, 0, 1), explained(empty, 0, 1)  # no edge depends on the history: equal rows
    assert with_history.interest is not None
    assert without.interest is not None
    logits = [told.heads[1].logit for told in (with_history, without)]
    assert with_history.interest.moved == pytest.approx(logits[0] - logits[1], abs=1e-6)
    assert (without.interest.moved, without.interest.attributed) == (0, 0)


def test_without_friends_history_or_audience_there_is_nobody() -> None:
    told = explained(World([[], []], [[], []], [[], []], [[], [0]]), 0, 1)
    nothing = Maxima(members=0, nobody=dicer_tiny().width, attribution=0.0, owners=())
    assert told.interest is not None
    assert told.attraction is not None
    assert told.interest.own == nothing
    assert told.interest.friends == ()
    assert told.attraction.audience == nothing
    assert (told.attraction.moved, told.attraction.attributed, told.had_item) == (0, 0, False)


def test_friends_without_a_history_are_counted_and_not_heard() -> None:
    told = explained(World([[1, 2], [0], [0]], [[], [], []], [[], []], [[0], [], [1]]), 0, 1)
    assert told.interest is not None
    assert [(friend.id, friend.attention) for friend in told.interest.friends] == [("u0002", 1.0)]
    assert told.interest.silent_friends == 1


def test_nothing_is_left_out_of_an_interaction() -> None:
    told = explained(World([[]], [[]], [[]], [[0]]), 0, 0)
    assert told.had_item
    assert told.interest is not None
    assert told.attraction is not None
    assert [owner.id for owner in told.interest.own.owners] == ["i0000"]
    assert [owner.id for owner in told.attraction.audience.owners] == ["u0000"]


def test_equal_rows_belong_to_the_first() -> None:
    network, h, z, graphs = encoded_world(World([[]], [[]], [[], [], []], [[0, 1]]))
    z = torch.cat([z[:1], z[:1], z[2:]])
    told = explain(network, h, z, graphs, user=0, item=0)
    assert told.interest is not None
    assert [owner.id for owner in told.interest.own.owners] == ["i0000"]


@pytest.mark.parametrize("off", ["user_interest", "item_attraction"])
def test_a_head_that_is_off_has_no_part_and_the_others_its_weight(off: str) -> None:
    world = random_world(3, users=5, items=5, density=0.6)
    told = explained(world, 1, 2, dataclasses.replace(TINY, **{off: False}))  # type: ignore[arg-type]
    gone = off.split("_")[1]
    assert getattr(told, gone) is None
    assert [part.name for part in told.heads] == [n for n in ("own", "interest", "attraction") if n != gone]
    assert sum(part.weight for part in told.heads) == pytest.approx(1)
    assert told.score == sum(part.contribution for part in told.heads)


def test_a_model_that_does_not_listen_to_friends_names_none() -> None:
    told = explained(World([[1], [0]], [[], []], [[], []], [[0], [1]]), 0, 1, dataclasses.replace(TINY, social=False))
    assert told.interest is not None
    assert (told.interest.friends, told.interest.silent_friends, told.interest.hears_friends) == ((), 0, False)


def test_attention_in_the_place_of_maxima_has_no_owners() -> None:
    config = dataclasses.replace(TINY, modulation="attention")
    with pytest.raises(ConfigurationError, match="'extremes' has owners"):
        explained(World([[]], [[]], [[]], [[0]]), 0, 0, config)


def test_it_is_json_and_the_same_every_time() -> None:
    world = random_world(6, users=6, items=6, density=0.5)
    one, two = (json.dumps(dataclasses.asdict(explained(world, 0, 0)), allow_nan=False) for _ in range(2))
    assert one == two


def test_wrong_rows_and_a_network_in_training_are_refused() -> None:
    network, h, z, graphs = encoded_world(random_world(1, users=3, items=2, density=0.5))
    with pytest.raises(ValueError, match=r"user row in 0\.\.2, got 3"):
        explain(network, h, z, graphs, user=3, item=0)
    with pytest.raises(ValueError, match=r"item row in 0\.\.1, got -1"):
        explain(network, h, z, graphs, user=0, item=-1)
    network.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        explain(network, h, z, graphs, user=0, item=0)

"""Scores from tables: the definition, whatever the world, the block and the parts of the network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from features.errors import ConfigurationError
from models.dicer import definition
from models.dicer.config import dicer_tiny
from models.dicer.definition import pair_lists
from models.dicer.encoder import Edges, edges_of
from models.dicer.graphs import Graphs, graphs_of
from models.dicer.network import Dicer
from models.dicer.scoring import Rows, friend_ends, listens, score, tables
from tests.dicer_examples import AWKWARD, VARIANTS, WORLDS, likeness_in, network_of
from tests.dicer_worlds import World, random_world


def rows_of(network: Dicer, graphs: Graphs) -> tuple[Rows, Rows]:
    return tables(network, network.user_base, network.item_base, edges_of(graphs))


def scores_of(network: Dicer, graphs: Graphs, user_rows: Rows, item_rows: Rows, users: np.ndarray) -> Tensor:
    index, real = (torch.from_numpy(array) for array in graphs.heard_friends().padded(users))
    return score(network, user_rows[torch.from_numpy(users)], item_rows, friend_ends(user_rows, index, real))


def literal(network: Dicer, graphs: Graphs) -> Tensor:
    users, items = np.divmod(np.arange(graphs.users * graphs.items), graphs.items)
    lists = pair_lists(graphs.histories(), graphs.heard_friends(), graphs.audiences(), users, items)
    h, z = network.encode(network.user_base, network.item_base, edges_of(graphs))
    bases = network.user_base, network.item_base
    return definition.pair_scores(network, h, z, lists, likeness_in(network, graphs, bases)).view(
        graphs.users, graphs.items
    )


@torch.no_grad()
def assert_tables_score_as_defined(network: Dicer, world: World) -> None:
    graphs = world.graphs()
    fast = scores_of(network, graphs, *rows_of(network, graphs), np.arange(graphs.users))
    torch.testing.assert_close(fast, literal(network, graphs), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(world=WORLDS, variant=st.sampled_from(sorted(VARIANTS)), seed=st.integers(0, 1000))
def test_scores_from_tables_are_the_definition(world: World, variant: str, seed: int) -> None:
    assert_tables_score_as_defined(network_of(world, VARIANTS[variant], seed), world)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("world", AWKWARD.values(), ids=AWKWARD.keys())
def test_awkward_lists_are_the_definition_too(world: World, variant: str) -> None:
    assert_tables_score_as_defined(network_of(world, VARIANTS[variant], 3), world)


@torch.no_grad()
def test_scores_do_not_depend_on_the_block_or_on_the_order_of_rows() -> None:
    world = random_world(5, users=7, items=6, density=0.4)
    network, graphs = network_of(world, dicer_tiny(), 2), world.graphs()
    user_rows, item_rows = rows_of(network, graphs)
    whole = scores_of(network, graphs, user_rows, item_rows, np.arange(graphs.users))
    for user in range(graphs.users):
        alone = scores_of(network, graphs, user_rows, item_rows[2:4], np.array([user]))
        torch.testing.assert_close(alone[0], whole[user, 2:4], atol=1e-6, rtol=1e-6)
    shuffled = graphs_of({name: table.take(np.arange(table.num_rows)[::-1]) for name, table in world.views().items()})
    names = ("friends", "similar_users", "similar_items", "interactions")
    plain = Edges(*(torch.from_numpy(getattr(shuffled, name)) for name in names))
    for ours, again in zip(
        (user_rows, item_rows), tables(network, network.user_base, network.item_base, plain), strict=True
    ):
        for name, part in ours.parts.items():
            torch.testing.assert_close(again.parts[name], part)


def test_padding_friends_changes_nothing() -> None:
    world = random_world(6, users=6, items=5, density=0.6)
    network, graphs = network_of(world, VARIANTS["mean"], 2), world.graphs()
    index, real = (torch.from_numpy(array) for array in graphs.heard_friends().padded(np.arange(graphs.users)))
    with torch.no_grad():
        user_rows, item_rows = rows_of(network, graphs)
        narrow, wide = (
            score(network, user_rows, item_rows, friend_ends(user_rows, *lists))
            for lists in ((index, real), [torch.nn.functional.pad(x, (0, 4)) for x in (index, real)])
        )
    torch.testing.assert_close(narrow, wide)


def test_a_network_without_a_head_has_no_tables_for_it() -> None:
    world = random_world(1, users=4, items=3, density=0.5)
    for variant, absent in (
        ("no user interest", {"user_ends", "item_interest", "item_above", "item_below"}),
        ("no item attraction", {"user_attraction", "user_vector", "item_audience_above", "item_audience_below"}),
    ):
        all_names, names = (
            {name for rows in rows_of(network_of(world, VARIANTS[one], 0), world.graphs()) for name in rows.parts}
            for one in ("sum", variant)
        )
        assert all_names - names == absent
    deaf = [name for name, config in VARIANTS.items() if not listens(network_of(world, config, 0))]
    assert deaf == ["no user interest", "nothing social"]


def test_attention_over_whole_histories_has_no_tables() -> None:
    world = random_world(1, users=4, items=3, density=0.5)
    network = network_of(world, dataclasses.replace(dicer_tiny(), modulation="attention"), 0)
    with pytest.raises(ConfigurationError, match="'extremes' only, got 'attention'"):
        rows_of(network, world.graphs())

"""Graphs from the views: sorted nodes, distinct edges, lists that pad."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.contracts import IDS
from features.errors import ContractViolation
from models.dicer.graphs import Lists, graphs_of, rows_of
from tests.dicer_worlds import random_world


def views(**changes: pa.Table) -> dict[str, pa.Table]:
    social = pa.table(
        {
            "user_id": ["c", "a", "b"],
            "friend_ids": pa.array([["a", "a", "gone"], ["c", "a"], []], IDS),
            "similar_user_ids": pa.array([["b"], [], ["c"]], IDS),
        }
    )
    audience = pa.table(
        {
            "item_id": ["y", "x"],
            "consumer_ids": pa.array([["c"], ["a", "c", "gone"]], IDS),
            "similar_item_ids": pa.array([["x"], []], IDS),
        }
    )
    return {"social_graph": social, "item_audience": audience} | changes


def test_nodes_are_sorted_and_edges_run_from_the_neighbour_to_who_hears() -> None:
    graphs = graphs_of(views())
    assert graphs.user_ids.to_pylist() == ["a", "b", "c"]
    assert graphs.item_ids.to_pylist() == ["x", "y"]
    assert graphs.friends.tolist() == [[2, 0], [0, 2]]
    assert graphs.similar_users.tolist() == [[2, 1], [1, 2]]
    assert graphs.similar_items.tolist() == [[0], [1]]
    assert graphs.interactions.tolist() == [[0, 2, 2], [0, 0, 1]]


def test_repeats_and_self_loops_go_and_entries_that_name_nobody_are_counted() -> None:
    assert graphs_of(views()).dangling == 2


def test_histories_audiences_and_friends_who_have_something_to_say() -> None:
    graphs = graphs_of(views())
    assert [graphs.histories().of(u).tolist() for u in range(3)] == [[0], [], [0, 1]]
    assert [graphs.audiences().of(i).tolist() for i in range(2)] == [[0, 2], [2]]
    world = random_world(1, users=8, items=4, density=0.3)
    heard = world.graphs().heard_friends()
    for user, friends in enumerate(world.friends):
        assert heard.of(user).tolist() == [f for f in friends if world.histories[f]]


def test_padding() -> None:
    lists = Lists(np.array([0, 2, 2, 3]), np.array([5, 6, 7]))
    table, real = lists.padded(np.array([1, 0, 2]))
    assert real.tolist() == [[False, False], [True, True], [True, False]]
    assert table[real].tolist() == [5, 6, 7]
    assert lists.padded(np.array([1]))[1].shape == (1, 1)


def test_an_empty_world_has_graphs() -> None:
    graphs = graphs_of({name: table.slice(0, 0) for name, table in views().items()})
    assert (graphs.users, graphs.items, graphs.interactions.shape) == (0, 0, (2, 0))


def test_an_id_twice_is_refused_by_name() -> None:
    twice = pa.concat_tables([views()["social_graph"]] * 2)
    with pytest.raises(ContractViolation, match=r"social_graph.*user_id.*each id once.*'a'"):
        graphs_of(views(social_graph=twice))


def test_rows_of_unknown_ids_are_minus_one() -> None:
    assert rows_of(pa.array(["b", "z", "a"]), pa.array(["a", "b"])).tolist() == [1, -1, 0]

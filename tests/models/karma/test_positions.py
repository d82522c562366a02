"""Every position of a window: what counts as a target, and what may be known at it."""

from __future__ import annotations

import pytest

from models.karma.config import karma_tiny
from models.karma.positions import every_position
from models.karma.text import Preparation, decode
from models.karma.training import World, prepare, read_world
from tests.karma_world import catalogue, histories, labels, training_set

TAKEN = [
    ("new", "i009", ""),
    ("new", "i010", "blue"),
    ("u", "gone", ""),
    ("u", "i002", "green"),
    ("u", "i005", "red"),
    ("u", "i035", ""),
    ("v", "i001", ""),
]


@pytest.fixture(scope="module")
def preparation() -> Preparation:
    return prepare(training_set().train, karma_tiny())


@pytest.fixture(scope="module")
def world(preparation: Preparation) -> World:
    return read_world({"item_catalog": catalogue(), "user_history": histories({"u": [0, 2], "v": [3]})}, preparation)


def test_each_new_item_is_a_target_after_all_that_came_before(world: World, preparation: Preparation) -> None:
    found = every_position(labels(TAKEN), world, preparation, trained_on=catalogue())
    targets = found.targets
    assert list(zip(targets.users, targets.items.tolist(), strict=True)) == [("new", 10), ("u", 5), ("u", 35), ("v", 1)]
    assert [history.items.tolist() for history in targets.histories] == [[9], [0, 2], [0, 2, 5], [3]]
    assert [decode(preparation.tokenizer, query) for query in targets.queries] == ["blue", "red", "", ""]
    told = [decode(preparation.tokenizer, query) for query in targets.histories[2].queries]
    assert told[1:] == ["green", "red"]
    assert (targets.unknown_items, targets.seen_items) == (1, 1)
    assert found.user.tolist() == [0, 1, 1, 2]
    assert found.first.tolist() == [True, True, False, True]


def test_cold_is_of_training_and_new_is_of_the_window(world: World, preparation: Preparation) -> None:
    fewer = catalogue().slice(0, 10)  # the catalogue when training ended did not have the tenth item yet
    found = every_position(labels(TAKEN), world, preparation, trained_on=fewer)
    assert found.cold.tolist() == [True, False, True, False]
    assert found.new.tolist() == [False, False, True, False]


def test_what_comes_later_changes_nothing_before(world: World, preparation: Preparation) -> None:
    whole = every_position(labels(TAKEN), world, preparation, trained_on=catalogue())
    part = every_position(labels(TAKEN[:5]), world, preparation, trained_on=catalogue())
    for row, history in enumerate(part.targets.histories):
        assert history.items.tolist() == whole.targets.histories[row].items.tolist()
    assert part.targets.items.tolist() == whole.targets.items[:2].tolist()

"""Small worlds for DICER's tests: any graph from sets, random ones from a seed, and one with something to learn."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from export.artifacts import Artifact
from features.contracts import IDS
from features.training_sets import Split, TrainingSet
from models.dicer.graphs import Graphs, graphs_of
from models.dicer.training import TrainedDicer


@dataclass(frozen=True)
class World:
    """Lists by node number; node 7 of the users is called `u0007`."""

    friends: Sequence[Sequence[int]]
    similar_users: Sequence[Sequence[int]]
    similar_items: Sequence[Sequence[int]]
    histories: Sequence[Sequence[int]]

    @property
    def items(self) -> int:
        return len(self.similar_items)

    def audiences(self) -> list[set[int]]:
        return [{user for user, taken in enumerate(self.histories) if item in taken} for item in range(self.items)]

    def views(self) -> dict[str, pa.Table]:
        return {
            "social_graph": pa.table(
                {
                    "user_id": user_ids(range(len(self.friends))),
                    "friend_ids": pa.array([user_ids(listed) for listed in self.friends], IDS),
                    "similar_user_ids": pa.array([user_ids(listed) for listed in self.similar_users], IDS),
                }
            ),
            "item_audience": pa.table(
                {
                    "item_id": item_ids(range(self.items)),
                    "consumer_ids": pa.array([user_ids(sorted(listed)) for listed in self.audiences()], IDS),
                    "similar_item_ids": pa.array([item_ids(listed) for listed in self.similar_items], IDS),
                }
            ),
        }

    def graphs(self) -> Graphs:
        return graphs_of(self.views())


@dataclass(frozen=True)
class ExportedDicer:
    """A network, its artifact, and a night's world that has nodes which the artifact does not know."""

    world: World
    trained: TrainedDicer
    artifact: Artifact


def user_ids(users: Sequence[int]) -> list[str]:
    return [f"u{user:04d}" for user in users]


def item_ids(items: Sequence[int]) -> list[str]:
    return [f"i{item:04d}" for item in items]


def random_world(seed: int, *, users: int, items: int, density: float) -> World:
    """Symmetric friends, any similarity; the last user has no friend and no history, the last item no audience."""
    generator = np.random.default_rng(seed)

    def draw(rows: int, columns: int) -> np.ndarray:
        return generator.random((rows, columns)) < density

    friends, taken = draw(users, users), draw(users, items)
    friends |= friends.T
    friends[-1], friends[:, -1], taken[-1], taken[:, -1] = False, False, False, False
    for square in (friends, similar_users := draw(users, users), similar_items := draw(items, items)):
        np.fill_diagonal(square, False)
    return World(*([np.flatnonzero(row).tolist() for row in m] for m in (friends, similar_users, similar_items, taken)))


def split_world(*, users: int = 24, items: int = 20, seed: int = 0) -> tuple[World, list[tuple[int, int]]]:
    """Two tastes that never meet, and the pairs held out of it: most of a taste's items are in each history."""
    generator = np.random.default_rng(seed)
    tastes = [[n for n in range(items) if n % 2 == taste] for taste in (0, 1)]
    histories, held_out = [], []
    for user in range(users):
        own = generator.permutation(tastes[user % 2]).tolist()
        histories.append(sorted(own[: len(own) // 2]))
        held_out.extend((user, item) for item in own[len(own) // 2 :])
    alike = [[v for v in range(users) if v % 2 == u % 2 and v != u] for u in range(users)]
    near = [[j for j in range(items) if j % 2 == i % 2 and j != i] for i in range(items)]
    return World(
        [listed[:3] for listed in alike], [listed[:4] for listed in alike], [n[:4] for n in near], histories
    ), held_out


def training_set(world: World, held_out: Sequence[tuple[int, int]]) -> TrainingSet:
    """Even pairs are validation, odd ones test; both instants know the same world."""
    halves = [list(held_out[0::2]), list(held_out[1::2])]
    labels = [
        pa.table(
            {
                "user_id": pa.array(user_ids([u for u, _ in half]), pa.string()),
                "item_id": pa.array(item_ids([i for _, i in half]), pa.string()),
            }
        )
        for half in halves
    ]
    split = Split(dt.date(2026, 1, 1), dt.date(2026, 1, 6), dt.date(2026, 1, 11))
    return TrainingSet(split, world.views(), world.views(), labels[0], labels[1], "fingerprint")


def night_world() -> World:
    """13 users and 10 items; user 0 has had everything."""
    world = random_world(8, users=13, items=10, density=0.35)
    return World(world.friends, world.similar_users, world.similar_items, [list(range(10)), *world.histories[1:]])

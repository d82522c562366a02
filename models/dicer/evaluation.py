"""Held-out ranking over the full catalogue without seen items, beside popularity; does the social graph align?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.dicer.graphs import Graphs, Indices, Lists, rows_of, user_blocks
from models.dicer.network import Dicer, Edges, friend_ends
from models.dicer.ranking import top_items
from models.metrics import ndcg_of_lists, recall_of_lists

Scorer = Callable[[Indices], NDArray[np.float32]]
"""Scores [users, items] of a block of user rows."""

_LONGEST = 50
_USERS, _ITEMS = 8, 512  # of a block: its arrays stay in the cache, measured 3 times faster than all items at once
_LEAST_LIFT = 1.2  # published social data has a lift of 1.3 to 3.6, misaligned copies about 0.9 to 1.3


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What users took in a window and had not had before it: `positives` of each of `users`, rows of the graphs."""

    users: Indices
    positives: tuple[frozenset[int], ...]
    unknown: int  # labels of users or items that the graphs do not know: nothing can rank them

    def sample(self, count: int, *, seed: int) -> HeldOut:
        """At most `count` of the users, drawn without replacement."""
        if len(self.users) <= count:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.users), count, replace=False))
        return HeldOut(self.users[chosen], tuple(self.positives[k] for k in chosen), self.unknown)


def held_out(labels: pa.Table, graphs: Graphs) -> HeldOut:
    """The labels (`user_id`, `item_id`) that are new to their users."""
    users, items = rows_of(labels["user_id"], graphs.user_ids), rows_of(labels["item_id"], graphs.item_ids)
    known = (users >= 0) & (items >= 0)
    pairs = np.unique(users[known] * graphs.items + items[known])
    seen = graphs.interactions[0] * graphs.items + graphs.interactions[1]
    new = pairs[~np.isin(pairs, seen)]
    owners, starts = np.unique(new // max(1, graphs.items), return_index=True)
    groups = np.split(new % max(1, graphs.items), starts[1:]) if len(owners) else []
    return HeldOut(owners, tuple(frozenset(group.tolist()) for group in groups), int((~known).sum()))


def network_scorer(network: Dicer, bases: tuple[torch.Tensor, torch.Tensor], edges: Edges, graphs: Graphs) -> Scorer:
    """The network's scores on `graphs` with base embeddings `bases` of its users and items; encodes once, now."""
    user_rows, item_rows = network.tables(*bases, edges)
    friends = graphs.heard_friends()

    def score(users: Indices) -> NDArray[np.float32]:
        index, real = (torch.from_numpy(array) for array in friends.padded(users))
        heard, rows = friend_ends(user_rows, index, real), user_rows[users]
        blocks = [
            network.score(rows, item_rows[start : start + _ITEMS], heard).numpy()
            for start in range(0, graphs.items, _ITEMS)
        ]
        return np.concatenate(blocks, axis=1)

    return score


def popularity_scorer(graphs: Graphs) -> Scorer:
    """The baseline: an item's number of consumers, for everyone."""
    counts = graphs.audiences().lengths.astype(np.float32)
    return lambda users: np.tile(counts, (len(users), 1))


def evaluate(scorer: Scorer, truth: HeldOut, graphs: Graphs, seen: Lists) -> dict[str, float]:
    """Recall@10, Recall@50, NDCG@10 and HR@10 (share of users with a hit), averaged over the held-out users."""
    lists: list[list[int]] = []
    for users in user_blocks(truth.users, _USERS):
        lists += [ranked.tolist() for ranked in top_items(scorer(users), seen, users, _LONGEST)]
    hits = [bool(wanted.intersection(ranked[:10])) for ranked, wanted in zip(lists, truth.positives, strict=True)]
    return {
        "Recall@10": recall_of_lists(lists, truth.positives, 10),
        "Recall@50": recall_of_lists(lists, truth.positives, 50),
        "NDCG@10": ndcg_of_lists(lists, truth.positives, 10),
        "HR@10": float(np.mean(hits)) if hits else 0.0,
    }


def social_alignment(graphs: Graphs, *, seed: int = 0) -> dict[str, Any]:
    """Lift: mean number of items that friends share, over the same for the pairs with one side shuffled.

    About 1 means that the social graph belongs to other people. `lift` is None where nothing can be compared;
    `warning` says so in words if the graph gives no reason to trust it.
    """
    ends, others = graphs.friends[:, graphs.friends[0] < graphs.friends[1]]
    histories = graphs.histories()
    actual = _mean_shared(histories, ends, others, graphs.items)
    shuffled = _mean_shared(histories, ends, np.random.default_rng(seed).permutation(others), graphs.items)
    lift = actual / shuffled if shuffled > 0 else None
    warning = None
    if lift is None:
        warning = "friends and items do not overlap enough to tell whether the social graph is aligned"
    elif lift < _LEAST_LIFT:
        warning = f"friends share {lift:.2f} times the items of random pairs, expected at least {_LEAST_LIFT}"
    return {"lift": lift, "pairs": len(ends), "warning": warning}


def _mean_shared(histories: Lists, users: Indices, others: Indices, items: int, *, chunk: int = 50_000) -> float:
    lengths = histories.lengths
    owned = np.repeat(np.arange(len(lengths)), lengths) * max(1, items) + histories.values
    shared = 0
    for start in range(0, len(users), chunk):
        ours, theirs = users[start : start + chunk], others[start : start + chunk]
        counts = lengths[ours]
        first = np.repeat(histories.offsets[ours] - np.concatenate([[0], counts.cumsum()[:-1]]), counts)
        taken = histories.values[first + np.arange(counts.sum())]
        shared += int(np.isin(np.repeat(theirs, counts) * max(1, items) + taken, owned).sum())
    return shared / len(users) if len(users) else 0.0

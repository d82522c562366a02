"""Every position of a window: what a user took next, given all that the user did before, in the window too.

This is what training optimises, event by event, and it has several times the targets of one a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.karma.evaluation import NEW_USER, Targets
from models.karma.text import History, Preparation, Tokens, encode
from models.karma.training import World

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Positions:
    """Targets in order of user and time, those of users without any event before left out."""

    targets: Targets
    user: NDArray[np.int64]  # number of the user, from 0
    first: Flags  # the user's first target of the window
    cold: Flags  # too few events when training ended for an id embedding
    new: Flags  # no event at all when the window started

    def __len__(self) -> int:
        return len(self.targets)


def every_position(labels: pa.Table, world: World, preparation: Preparation, *, trained_on: pa.Table) -> Positions:
    """The positions of `labels`, which are ordered by user and time; `trained_on` is training's `item_catalog`.

    An item that the user had before is no target, one that the catalogue does not know is not seen at all.
    """
    config = preparation.config
    columns = [labels.column(name).to_pylist() for name in ("user_id", "item_id", "query")]
    queries = encode(preparation.tokenizer, columns[2], limit=config.query_tokens)
    pasts: dict[str, History] = {}
    users, histories, rows, events = [], [], [], []
    unknown = seen = 0
    for event, (user, item, _) in enumerate(zip(*columns, strict=True)):
        if item not in world.row_of:
            unknown += 1
            continue
        past, row = pasts.get(user) or world.histories.get(user, NEW_USER), world.row_of[item]
        if row in past.items:
            seen += 1
        elif len(past.items):
            users.append(user)
            histories.append(past)
            rows.append(row)
            events.append(event)
        pasts[user] = _followed(past, row, queries[event])
    items = np.array(rows, np.int64)
    targets = Targets(users, histories, items, [queries[event] for event in events], unknown, seen)
    _, first, number = np.unique(np.array(users, np.str_), return_index=True, return_inverse=True)
    names, counts = trained_on.column("item_id").to_pylist(), trained_on.column("item_event_count").to_pylist()
    warm = {name for name, count in zip(names, counts, strict=True) if count >= config.id_min_events}
    is_cold = np.array([name not in warm for name in world.catalogue.ids], np.bool_)
    is_first = np.isin(np.arange(len(users)), first)
    return Positions(targets, number.astype(np.int64), is_first, is_cold[items], world.event_count[items] == 0)


def _followed(past: History, row: int, query: Tokens) -> History:
    """The history with one more event; a repeat on the spot is the same event, as in every history.

    Of its queries the first that is not empty stays: a query has few tokens, and the first fills them.
    """
    if len(past.items) and past.items[-1] == row:
        asked = past.queries[-1] if len(past.queries[-1]) else query
        return History(past.items, [*past.queries[:-1], asked])
    return History(np.append(past.items, row), [*past.queries, query])

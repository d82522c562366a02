"""DICER's night: encode the graphs of the date once, then every user against every item, exact top-K lists.

ONNX Runtime and NumPy only. What is held: the tables of all nodes, and a few users' scores for each core.

A run of the scorer sees one user beside so many items that everything between stays in a core's own cache, and each
core has its own runs: measured three times as fast as larger blocks on all cores, and no user is padded with the
friends of another.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from export.artifacts import Artifact
from export.parity import open_session
from features.configuration import Configuration
from features.contracts import DICER_USER_ATTRACTION
from features.cores import usable_cores
from features.errors import ContractViolation
from features.files import replacing_file
from features.partitions import read_partition
from models.dicer.graphs import Graphs, Indices, Lists, graphs_of, rows_of, user_blocks
from models.dicer.ranking import top_items

ENCODER, SCORER = "dicer_encoder.onnx", "dicer_scorer.onnx"
USER_BASES, ITEM_BASES = "user_bases.parquet", "item_bases.parquet"

OF_USERS, OF_ITEMS = "user_", "item_"  # how the names of their tables begin: models/dicer/scoring.py

_NUMBERS_PER_BLOCK = 2**16  # a block's pairs times D; a few such arrays fill a core's cache of 1 MB
_LEAST_ITEMS = 64
_USERS_PER_TURN = 8  # share a block of items while it is in the cache
_ROWS_PER_WRITE = 4096
_OPEN = (np.float32(2**-24), np.float32(1 - 2**-24))  # float32 rounds a very sure score to 0 or 1; a score is neither

Floats = NDArray[np.float32]
Tables = Mapping[str, Floats]
"""What is known of all users and all items, by name: the outputs of the encoder graph."""
Ranked = tuple[int, Indices, Floats]
"""User row, item rows best first, their scores."""


def score_dicer(
    artifact: Artifact, configuration: Configuration, date: dt.date, out: Path, *, top_k: int
) -> dict[str, Any]:
    """Write `dicer_user_attraction.parquet` into `out` from the feature partitions of `date`; returns its figures."""
    graphs = night_graphs(configuration, date)
    user_base, known_users = base_rows(artifact.path(USER_BASES), graphs.user_ids)
    item_base, known_items = base_rows(artifact.path(ITEM_BASES), graphs.item_ids)
    tables = encode(artifact.path(ENCODER), graphs, user_base, item_base)
    lists = ranked_lists(open_scorer(artifact.path(SCORER), graphs, tables), graphs, top_k=top_k)
    rows = write_lists(lists, graphs, out / f"{DICER_USER_ATTRACTION.name}.parquet")
    return {
        "dicer_user_attraction": rows,
        "dicer_pairs_scored": graphs.users * graphs.items,
        "dicer_cold_users": graphs.users - known_users,
        "dicer_cold_items": graphs.items - known_items,
        "dicer_dangling": graphs.dangling,
    }


def night_graphs(configuration: Configuration, date: dt.date) -> Graphs:
    """The graphs in the feature partitions of `date`. Raises MissingInput where they are not built."""
    columns = {
        "social_graph": ["user_id", "friend_ids", "similar_user_ids"],
        "item_audience": ["item_id", "consumer_ids", "similar_item_ids"],
    }
    return graphs_of({view: read_partition(configuration, view, date, names) for view, names in columns.items()})


def base_rows(file: Path, ids: pa.StringArray) -> tuple[Floats, int]:
    """Base embeddings of `ids` [ids, d], zeros for one that training did not know; and how many it knew."""
    table = pq.read_table(file)
    lists = table["base"].combine_chunks()
    trained = lists.values.to_numpy(zero_copy_only=False).reshape(len(lists), lists.type.list_size)
    rows = rows_of(ids, table["id"].combine_chunks())
    known = rows >= 0
    base = np.zeros((len(ids), trained.shape[1]), np.float32)
    base[known] = trained[rows[known]]
    return base, int(known.sum())


def encoder_inputs(graphs: Graphs, user_base: Floats, item_base: Floats) -> dict[str, NDArray[Any]]:
    """The encoder graph's inputs, in its order."""
    return {
        "user_base": user_base,
        "item_base": item_base,
        "friends": graphs.friends,
        "similar_users": graphs.similar_users,
        "similar_items": graphs.similar_items,
        "interactions": graphs.interactions,
    }


def encode(encoder: Path, graphs: Graphs, user_base: Floats, item_base: Floats) -> Tables:
    """Run the encoder graph once, with one core: `open_session` says why."""
    session = open_session(encoder)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, encoder_inputs(graphs, user_base, item_base)), strict=True))


def scorer_inputs(
    tables: Tables, friends: Lists | None, users: Indices, items: slice | Indices
) -> dict[str, NDArray[Any]]:
    """The scorer graph's inputs for a block of `users` and of `items`; without friends where it listens to none."""
    return _user_inputs(tables, friends, users) | _item_inputs(tables, items)


def _user_inputs(tables: Tables, friends: Lists | None, users: Indices) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {n: table[users] for n, table in tables.items() if n.startswith(OF_USERS)}
    if friends is not None:
        index, real = friends.padded(users)
        ends = tables["user_ends"][index]
        ends[~real] = 0
        inputs |= {"friend_ends": ends, "friend_real": real}
    return inputs


def _item_inputs(tables: Tables, items: slice | Indices) -> dict[str, NDArray[Any]]:
    return {name: table[items] for name, table in tables.items() if name.startswith(OF_ITEMS)}


@dataclass(frozen=True, eq=False)
class BlockScorer:
    """Scores of users against all items, block by block; may be called from several threads at once."""

    session: Any
    tables: Tables
    friends: Lists | None  # with a history, of all users; None where the graph listens to none
    items: int
    block: tuple[int, int]  # users and items of one run

    def scores(self, users: Indices) -> Floats:
        """Scores [users, items], each strictly between 0 and 1. Raises ContractViolation for one that is no number."""
        scores = np.empty((len(users), self.items), np.float32)
        starts = range(0, len(users), self.block[0])
        by_user = [_user_inputs(self.tables, self.friends, users[n : n + self.block[0]]) for n in starts]
        for first in range(0, self.items, self.block[1]):
            columns = slice(first, first + self.block[1])
            by_item = _item_inputs(self.tables, columns)
            for start, inputs in zip(starts, by_user, strict=True):
                scores[start : start + self.block[0], columns] = self.session.run(None, inputs | by_item)[0]
        if not np.isfinite(scores).all():
            user = int(users[np.argmin(np.isfinite(scores).all(axis=1))])
            raise ContractViolation(DICER_USER_ATTRACTION.name, "scores", "finite numbers", row=user, value="NaN")
        return np.clip(scores, *_OPEN, out=scores)


def open_scorer(scorer: Path, graphs: Graphs, tables: Tables, *, block: tuple[int, int] | None = None) -> BlockScorer:
    """The scorer graph over a night's tables; `block` is chosen for the cache unless it is given."""
    session = open_session(scorer)
    listens = any(one.name == "friend_ends" for one in session.get_inputs())
    friends = graphs.heard_friends() if listens else None
    of_cache = (1, max(_LEAST_ITEMS, _NUMBERS_PER_BLOCK // tables["item_own"].shape[1]))
    return BlockScorer(session, tables, friends, graphs.items, block or of_cache)


def ranked_lists(
    scorer: BlockScorer, graphs: Graphs, *, top_k: int, users: Indices | None = None, cores: int | None = None
) -> Iterator[Ranked]:
    """The best items that each user has not had, users in order; users with nothing left are passed over.

    All users of `graphs` unless `users` are named; on as many cores as this process may use unless `cores` says.
    Neither the number of cores nor the turn in which they finish shows in the lists.
    """
    seen = graphs.histories()

    def rank(turn: Indices) -> list[Ranked]:
        scores = scorer.scores(turn)
        best = top_items(scores, seen, turn, top_k)
        return [(int(user), items, row[items]) for user, items, row in zip(turn, best, scores, strict=True)]

    chosen = np.arange(graphs.users) if users is None else users
    pairs = len(chosen) * graphs.items
    with tqdm(total=pairs, desc="score dicer", unit="pair", unit_scale=True, disable=None, leave=False) as progress:
        for lists in _in_order(rank, user_blocks(chosen, _USERS_PER_TURN), cores or usable_cores()):
            yield from (ranked for ranked in lists if len(ranked[1]))
            progress.update(len(lists) * graphs.items)


def _in_order(rank: Callable[[Indices], list[Ranked]], turns: Iterable[Indices], cores: int) -> Iterator[list[Ranked]]:
    """What `rank` makes of each turn, in order, `cores` at work and no more than as many waiting to be taken."""
    pool, waiting = ThreadPoolExecutor(cores), deque[Future[list[Ranked]]]()
    try:
        for turn in turns:
            waiting.append(pool.submit(rank, turn))
            if len(waiting) == 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the reader stops early
        pool.shutdown(cancel_futures=True)


def write_lists(lists: Iterator[Ranked], graphs: Graphs, file: Path) -> int:
    """Stream the lists to Parquet in the published schema; returns the number of rows."""
    total = 0
    pending: list[Ranked] = []
    with replacing_file(file) as temporary, pq.ParquetWriter(temporary, DICER_USER_ATTRACTION.schema) as writer:
        for entry in lists:
            pending.append(entry)
            if len(pending) == _ROWS_PER_WRITE:
                writer.write_batch(_batch(pending, graphs))
                total, pending = total + len(pending), []
        writer.write_batch(_batch(pending, graphs))
    return total + len(pending)


def _batch(entries: list[Ranked], graphs: Graphs) -> pa.RecordBatch:
    users = np.array([user for user, _, _ in entries], np.int64)
    lengths = [len(items) for _, items, _ in entries]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    items = np.concatenate([np.empty(0, np.int64), *(items for _, items, _ in entries)])
    scores = np.concatenate([np.empty(0, np.float32), *(scores for _, _, scores in entries)])
    columns = [
        graphs.user_ids.take(pa.array(users)),
        pa.ListArray.from_arrays(offsets, graphs.item_ids.take(pa.array(items))),
        pa.ListArray.from_arrays(offsets, pa.array(scores)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DICER_USER_ATTRACTION.schema)

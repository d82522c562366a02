"""DICER's night: encode the graphs of the date once, then every user against every item, exact top-K lists.

ONNX Runtime and NumPy only. What is held: the rows of all nodes, and one block of users' scores.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
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
from features.files import replacing_file
from features.partitions import read_partition
from models.dicer.graphs import Graphs, Indices, Lists, graphs_of, rows_of, user_blocks
from models.dicer.ranking import top_items

ENCODER, SCORER = "dicer_encoder.onnx", "dicer_scorer.onnx"
USER_BASES, ITEM_BASES = "user_bases.parquet", "item_bases.parquet"

USERS_PER_BLOCK, ITEMS_PER_BLOCK = 8, 512  # a block's arrays stay in the cache: measured 3 times faster than all items
_ROWS_PER_WRITE = 4096
_OPEN = (np.float32(2**-24), np.float32(1 - 2**-24))  # float32 rounds a very sure score to 0 or 1; a score is neither

Floats = NDArray[np.float32]


def score_dicer(
    artifact: Artifact, configuration: Configuration, date: dt.date, out: Path, *, top_k: int
) -> dict[str, Any]:
    """Write `dicer_user_attraction.parquet` into `out` from the feature partitions of `date`; returns its figures."""
    columns = {
        "social_graph": ["user_id", "friend_ids", "similar_user_ids"],
        "item_audience": ["item_id", "consumer_ids", "similar_item_ids"],
    }
    graphs = graphs_of({view: read_partition(configuration, view, date, names) for view, names in columns.items()})
    user_base, known_users = base_rows(artifact.path(USER_BASES), graphs.user_ids)
    item_base, known_items = base_rows(artifact.path(ITEM_BASES), graphs.item_ids)
    encoder = open_session(artifact.path(ENCODER))
    node_rows = encoder.run(None, encoder_inputs(graphs, user_base, item_base))
    lists = ranked_lists(artifact.path(SCORER), graphs, (node_rows[0], node_rows[1]), top_k=top_k)
    rows = write_lists(lists, graphs, out / f"{DICER_USER_ATTRACTION.name}.parquet")
    return {
        "dicer_user_attraction": rows,
        "dicer_pairs_scored": graphs.users * graphs.items,
        "dicer_cold_users": graphs.users - known_users,
        "dicer_cold_items": graphs.items - known_items,
        "dicer_dangling": graphs.dangling,
    }


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


def scorer_inputs(user_rows: Floats, item_rows: Floats, friends: Lists, users: Indices) -> dict[str, NDArray[Any]]:
    """The scorer graph's inputs, in its order, for the `users` of `user_rows` and all of `item_rows`."""
    index, real = friends.padded(users)
    d = user_rows.shape[1] // 5
    ends = user_rows[:, d : 3 * d][index] * real[..., None].astype(np.float32)
    return {"user_rows": user_rows[users], "item_rows": item_rows, "friend_ends": ends, "friend_real": real}


def ranked_lists(
    scorer: Path,
    graphs: Graphs,
    rows: tuple[Floats, Floats],
    *,
    top_k: int,
    block: tuple[int, int] = (USERS_PER_BLOCK, ITEMS_PER_BLOCK),
) -> Iterator[tuple[int, Indices, Floats]]:
    """User row, best item rows and their scores, for each user in order; users with nothing left are passed over.

    `rows` are the encoder's of users and items; `block` is how many of each are scored at once.
    """
    session, (user_rows, item_rows) = open_session(scorer), rows
    friends, seen = graphs.heard_friends(), graphs.histories()
    progress = tqdm(total=graphs.users, desc="score dicer", unit="user", disable=None, leave=False)
    with progress:
        for users in user_blocks(np.arange(graphs.users), block[0]):
            inputs = scorer_inputs(user_rows, item_rows, friends, users)
            scores = np.empty((len(users), graphs.items), np.float32)
            for start in range(0, graphs.items, block[1]):
                part = slice(start, start + block[1])
                scores[:, part] = session.run(None, inputs | {"item_rows": item_rows[part]})[0]
            np.clip(scores, *_OPEN, out=scores)
            for row, user, items in zip(scores, users, top_items(scores, seen, users, top_k), strict=True):
                if len(items):
                    yield int(user), items, row[items]
            progress.update(len(users))


def write_lists(lists: Iterator[tuple[int, Indices, Floats]], graphs: Graphs, file: Path) -> int:
    """Stream the lists to Parquet in the published schema; returns the number of rows."""
    total = 0
    pending: list[tuple[int, Indices, Floats]] = []
    with replacing_file(file) as temporary, pq.ParquetWriter(temporary, DICER_USER_ATTRACTION.schema) as writer:
        for entry in lists:
            pending.append(entry)
            if len(pending) == _ROWS_PER_WRITE:
                writer.write_batch(_batch(pending, graphs))
                total, pending = total + len(pending), []
        writer.write_batch(_batch(pending, graphs))
    return total + len(pending)


def _batch(entries: list[tuple[int, Indices, Floats]], graphs: Graphs) -> pa.RecordBatch:
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

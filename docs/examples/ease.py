"""A third model whose lists every release carries: EASE, an item-to-item linear model in closed form.

    [further]
    views = ["docs.examples.ease:Ease"]

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019: B = I - P · diag(1 / diag(P)) with
P = (XᵀX + λI)⁻¹ (eq. 8), and a user's scores are x · B. It is trained and scored in one go on what the night knows:
for catalogues of some thousand items, as P is items × items.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.configuration import Configuration
from features.contracts import IDS, USER_ID, VECTOR, Column, Table
from features.partitions import read_partition

Matrix = NDArray[np.float64]


class Ease:
    """The `top` items that each user with a history has not had yet, best first."""

    table = Table(
        "ease_user_list",
        "one row per user with a history",
        ("user_id",),
        (
            USER_ID,
            Column("ease_item_ids", IDS, "items that the user has not had, best first"),
            Column("ease_scores", VECTOR, "score of each, falling"),
        ),
    )

    def __init__(self, *, regularisation: float = 100.0, top: int = 20) -> None:
        self.regularisation, self.top = regularisation, top

    def rows(self, configuration: Configuration, date: dt.date) -> Iterator[pa.RecordBatch]:
        audience = read_partition(configuration, "item_audience", date, ["item_id", "consumer_ids"])
        items = audience["item_id"].combine_chunks()
        consumers = audience["consumer_ids"].combine_chunks()
        users, user_of = np.unique(consumers.flatten().to_numpy(zero_copy_only=False), return_inverse=True)
        item_of = consumers.value_parent_indices().to_numpy()
        seen = csr_array((np.ones(len(user_of)), (user_of, item_of)), shape=(len(users), len(items))).toarray()
        scores = np.where(seen > 0, -np.inf, seen @ weights(seen, self.regularisation))
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.top]
        lists = [[place for place in row if np.isfinite(scores[user, place])] for user, row in enumerate(best)]
        columns = [
            pa.array(users, pa.string()),
            pa.array([items.take(pa.array(places, pa.int64())).to_pylist() for places in lists], IDS),
            pa.array([scores[user, places] for user, places in enumerate(lists)], VECTOR),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=self.table.schema)


def weights(seen: Matrix, regularisation: float) -> Matrix:
    """B [items, items] of eq. 8, its diagonal zero; `seen` is X [users, items] of zeros and ones."""
    inverse = np.linalg.inv(seen.T @ seen + regularisation * np.eye(seen.shape[1]))
    solved: Matrix = np.eye(len(inverse)) - inverse / np.diag(inverse)
    return solved

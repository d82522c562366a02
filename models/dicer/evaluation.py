"""Held-out ranking, of all unseen items or of sampled candidates: pure functions of scores and truth.

Equal scores go to the lower item row, so a model that tells nothing apart gets what item numbers are worth: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.dicer.graphs import Graphs, Indices, Lists, rows_of, user_blocks
from models.metrics import metrics_of_hits

Scorer = Callable[[Indices], NDArray[np.float32]]
"""Scores [users, items] of a block of user rows; a fresh array, which the caller may overwrite."""

PairScorer = Callable[[Indices, Indices], NDArray[np.float32]]
"""Scores [users, c] of user rows [users] and c item rows of each [users, c]; a fresh array."""


@dataclass(frozen=True)
class Scorers:
    """The two ways to ask one model."""

    every_item: Scorer
    pairs: PairScorer


def inner_products(user_rows: NDArray[np.float32], item_rows: NDArray[np.float32]) -> Scorers:
    """Asks for the inner products of rows [users, d] and [items, d]."""

    def pairs(users: Indices, items: Indices) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = np.einsum("nd,ncd->nc", user_rows[users], item_rows[items])
        return scores

    return Scorers(lambda users: user_rows[users] @ item_rows.T, pairs)


_STRIDE = 2**32  # above any item row: one number for a user and an item
_USERS = 8  # scored at once


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
    keys = np.unique(users[known] * graphs.items + items[known])
    seen = graphs.interactions[0] * graphs.items + graphs.interactions[1]
    new = keys[~np.isin(keys, seen)]
    width = max(1, graphs.items)
    return truth_of(np.stack([new // width, new % width]), unknown=int((~known).sum()))


def truth_of(pairs: Indices, *, unknown: int = 0) -> HeldOut:
    """The held-out `pairs` [2, n] (user row, item row) by user, in order of the users' rows."""
    order = np.argsort(pairs[0], kind="stable")
    owners, starts = np.unique(pairs[0][order], return_index=True)
    groups = np.split(pairs[1][order], starts[1:]) if len(owners) else []
    return HeldOut(owners, tuple(frozenset(group.tolist()) for group in groups), unknown)


def popularity_scorer(graphs: Graphs) -> Scorer:
    """An item's number of consumers, for everyone: the least that a model must beat."""
    counts = graphs.audiences().lengths.astype(np.float32)
    return lambda users: np.tile(counts, (len(users), 1))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics averaged over the `users` with positives; `left_out` users had none and count nowhere."""

    metrics: Mapping[str, float]  # names as in `models.metrics.metrics_of_hits`
    users: int
    left_out: int


def evaluate(scorer: Scorer, truth: HeldOut, graphs: Graphs, seen: Lists) -> dict[str, float]:
    """Recall@10, Recall@50, NDCG@10 and HR@10 (share of users with a hit), averaged over the held-out users."""
    assert len(seen.lengths) == graphs.users
    metrics = evaluate_full(scorer, truth, seen, cutoffs=(10, 50), block=_USERS).metrics
    return {name: metrics[name] for name in ("Recall@10", "Recall@50", "NDCG@10", "HR@10")}


def evaluate_full(
    scorer: Scorer, truth: HeldOut, excluded: Lists, *, cutoffs: Sequence[int], block: int = 256
) -> Evaluation:
    """Rank every item but those `excluded` for the user row; `block` users are scored at once.

    A list is shorter than K where fewer items are left. Raises ValueError if a score is not finite.
    """
    judged, _ = _with_positives(truth)
    positives = _lists_of(judged)

    def hits(places: Indices) -> NDArray[np.bool_]:
        users = judged.users[places]
        scores = _finite(scorer(users), users)
        row, item = excluded.entries(users)
        scores[row, item] = -np.inf
        wanted = np.zeros(scores.shape, np.bool_)
        row, item = positives.entries(places)
        wanted[row, item] = True
        return _hits(scores, wanted, max(cutoffs))

    return _evaluation(judged, hits, len(truth.users), cutoffs=cutoffs, block=block)


def evaluate_sampled(
    scorer: PairScorer, truth: HeldOut, candidates: Lists, *, cutoffs: Sequence[int], block: int = 64
) -> Evaluation:
    """Rank the `candidates` of each user of `truth`: distinct item rows, ascending, positives among them.

    Ascending, so that a positive's place says nothing. Raises ValueError if a list is not, if it lacks one of
    its positives, or if a score is not finite.
    """
    _check_candidates(candidates, truth)
    judged, kept = _with_positives(truth)
    positives = _lists_of(judged)

    def hits(places: Indices) -> NDArray[np.bool_]:
        users, (items, real) = judged.users[places], candidates.padded(kept[places])
        scores = np.where(real, _finite(scorer(users, items), users), -np.inf)
        row, item = positives.entries(places)
        wanted = np.isin(np.arange(len(places))[:, None] * _STRIDE + items, row * _STRIDE + item)
        return _hits(scores, wanted & real, max(cutoffs))

    return _evaluation(judged, hits, len(truth.users), cutoffs=cutoffs, block=block)


def _evaluation(
    judged: HeldOut, hits: Callable[[Indices], NDArray[np.bool_]], asked: int, *, cutoffs: Sequence[int], block: int
) -> Evaluation:
    found = [hits(places) for places in user_blocks(np.arange(len(judged.users)), block)]
    counts = np.array([len(wanted) for wanted in judged.positives], np.int64)
    rows = np.concatenate(found) if found else np.zeros((0, max(cutoffs)), np.bool_)
    metrics = metrics_of_hits(rows, counts, cutoffs)
    return Evaluation(
        {name: float(values.mean()) if len(values) else 0.0 for name, values in metrics.items()},
        len(judged.users),
        asked - len(judged.users),
    )


def _hits(scores: NDArray[np.floating], wanted: NDArray[np.bool_], longest: int) -> NDArray[np.bool_]:
    """Which of the `longest` best columns of each row are `wanted`, best first, ties to the lower column."""
    k = min(longest, scores.shape[1])
    hits = np.zeros((len(scores), longest), np.bool_)
    if k == 0 or len(scores) == 0:
        return hits
    least = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k, None]
    above, level = scores > least, scores == least
    # of those level with the last place, as many of the first columns as fit
    kept = above | (level & (level.cumsum(axis=1, dtype=np.int32) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(kept)[1].reshape(-1, k)
    chosen = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-chosen, axis=1, kind="stable")
    columns, chosen = np.take_along_axis(columns, order, axis=1), np.take_along_axis(chosen, order, axis=1)
    hits[:, :k] = np.take_along_axis(wanted, columns, axis=1) & (chosen > -np.inf)
    return hits


def _with_positives(truth: HeldOut) -> tuple[HeldOut, Indices]:
    """The users of `truth` that have positives, and which they are."""
    kept = np.flatnonzero([bool(wanted) for wanted in truth.positives])
    return HeldOut(truth.users[kept], tuple(truth.positives[k] for k in kept), truth.unknown), kept


def _lists_of(truth: HeldOut) -> Lists:
    lengths = np.array([len(wanted) for wanted in truth.positives], np.int64)
    values = np.array([item for wanted in truth.positives for item in sorted(wanted)], np.int64)
    return Lists(np.concatenate([[0], lengths.cumsum()]).astype(np.int64), values)


def _check_candidates(candidates: Lists, truth: HeldOut) -> None:
    everyone = np.arange(len(truth.users))
    (row, item), (owner, wanted) = candidates.entries(everyone), _lists_of(truth).entries(everyone)
    keys = row * _STRIDE + item
    if np.any(np.diff(keys) <= 0):
        user = truth.users[row[1:][np.diff(keys) <= 0][0]]
        raise ValueError(f"expected distinct ascending candidates, got others for user row {user}")
    lost = np.flatnonzero(~np.isin(owner * _STRIDE + wanted, keys))
    if len(lost):
        user, missing = truth.users[owner[lost[0]]], wanted[lost[0]]
        raise ValueError(f"expected the positives of user row {user} among its candidates, item row {missing} is not")


def _finite(scores: NDArray[np.float32], users: Indices) -> NDArray[np.float32]:
    wrong = ~np.isfinite(scores)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(f"expected finite scores, got {scores[row, column]} for user row {users[row]}")
    return scores

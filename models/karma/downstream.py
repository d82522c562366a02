"""What the stages after KARMA gain: a ranker's AUC, pre-ranking, and recall.

The ranker is gradient-boosted trees on counts and overlaps that a search team has anyway, with and without the
interest embedding. It learns from the validation window and is judged on the test window. There are no exposures in
the data, so an impression is what the user took among sampled items: half drawn by (events + 1)^0.75, half of the
target's category where the catalogue has categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier

from models.karma.baselines import Neighbours, neighbours_score
from models.karma.positions import Positions
from models.karma.text import Catalogue

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEGATIVES = 10
PRE_RANKED, PRE_KEPT = 500, 50
BASE_FEATURES = (
    "item_events",
    "history_length",
    "neighbours_all",
    "neighbours_last",
    "category_share",
    "words_of_history",
    "words_of_query",
)


@dataclass(frozen=True, eq=False)
class Known:
    """One window's positions, and what is known of users and items when it starts."""

    positions: Positions
    catalogue: Catalogue
    categories: Ints  # [items] codes; one code for all where there are none
    event_count: Ints  # [items]
    likeness: csr_array  # item-to-item, of the histories of training


@dataclass(frozen=True, eq=False)
class Stage(Known):
    """The same, and a model's vectors."""

    interests: NDArray[np.float32]  # [positions, d], without the current query
    embeddings: NDArray[np.float32]  # [items, d]


def impressions(known: Known, rows: Ints, *, count: int, seed: int) -> Ints:
    """Items [rows, 1 + count] shown: the target first, then items that the user has not had, all distinct."""
    rng = np.random.default_rng(seed)
    popular: Floats = np.power(known.event_count + 1.0, 0.75, dtype=np.float64)
    shown = np.empty((len(rows), 1 + count), np.int64)
    for line, row in enumerate(rows.tolist()):
        target = int(known.positions.targets.items[row])
        weight = popular.copy()
        weight[known.positions.targets.histories[row].items] = 0.0
        weight[target] = 0.0
        alike = weight * (known.categories == known.categories[target])
        near = _draw(alike, min(count // 2, int(np.count_nonzero(alike))), rng)
        weight[near] = 0.0
        far = _draw(weight, count - len(near), rng)
        shown[line] = np.concatenate([[target], near, far])
    return shown


def _draw(weight: Floats, count: int, rng: np.random.Generator) -> Ints:
    """Distinct items with chances by `weight` (Efraimidis and Spirakis, 2006)."""
    if count > np.count_nonzero(weight):
        raise ValueError(f"expected at least {count} items to show, got {np.count_nonzero(weight)}")
    if not count:
        return np.empty(0, np.int64)
    with np.errstate(divide="ignore"):
        keys = np.log(weight) + rng.gumbel(size=len(weight))
    drawn: Ints = np.argpartition(-keys, count - 1)[:count]
    return drawn


def features(known: Known, rows: Ints, shown: Ints) -> Floats:
    """BASE_FEATURES [rows * shown, 7], line by line; some lines at a time, because each scores the whole catalogue."""
    overlap = _word_overlap(known.catalogue)
    parts = [slice(start, start + 256) for start in range(0, len(rows), 256)]
    return np.concatenate([_block_features(known, rows[part], shown[part], overlap) for part in parts])


def _block_features(known: Known, rows: Ints, shown: Ints, overlap: csr_array) -> Floats:
    targets = known.positions.targets.take(rows.tolist())
    every = slice(0, len(rows))
    lines = np.arange(len(rows))[:, None]
    near = neighbours_score(known.likeness, Neighbours(0))(targets, every)[lines, shown]
    last = neighbours_score(known.likeness, Neighbours(1))(targets, every)[lines, shown]
    lengths = np.array([len(history.items) for history in targets.histories], np.float64)
    share, in_history, in_query = (np.zeros(shown.shape) for _ in range(3))
    for line, (history, query) in enumerate(zip(targets.histories, targets.queries, strict=True)):
        owned = known.categories[history.items]
        share[line] = (owned[:, None] == known.categories[shown[line]]).mean(axis=0)
        past = np.asarray(overlap[history.items].sum(axis=0)).ravel()
        in_history[line] = overlap[shown[line]] @ (past / max(1, len(history.items)))
        if len(query):
            asked = np.zeros(overlap.shape[1])
            asked[query] = 1.0 / len(query)
            in_query[line] = overlap[shown[line]] @ asked
    length = np.broadcast_to(np.log1p(lengths)[:, None], shown.shape)
    ordered = [np.log1p(known.event_count[shown]), length, near, last, share, in_history, in_query]
    return np.stack([column.reshape(-1) for column in ordered], axis=1)


def _word_overlap(catalogue: Catalogue) -> csr_array:
    """Which tokens each item's text has [items, V]."""
    tokens = catalogue.tokens
    rows = np.repeat(np.arange(len(tokens)), tokens.lengths)
    width = int(tokens.values.max(initial=0)) + 1
    has = csr_array((np.ones(len(rows)), (rows, tokens.values)), shape=(len(tokens), width))
    has.data[:] = 1.0
    return has


def affinity(stage: Stage, rows: Ints, shown: Ints) -> Floats:
    """z . e of each shown item [rows * shown, 1]."""
    scores: Floats = np.einsum("nd,ncd->nc", stage.interests[rows], stage.embeddings[shown]).reshape(-1, 1)
    return scores.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Shown:
    """Impressions, and all that a ranker without the embedding hears of them."""

    rows: Ints  # [rows], of the window's positions
    items: Ints  # [rows, 1 + negatives], the target first
    base: Floats  # [rows * (1 + negatives), 7]

    def with_score(self, stage: Stage) -> Floats:
        """The base features and z . e [rows * (1 + negatives), 8]."""
        return np.hstack([self.base, affinity(stage, self.rows, self.items)])

    def with_z(self, stage: Stage) -> Floats:
        """The base features, z . e and z [rows * (1 + negatives), 8 + d]."""
        return np.hstack([self.with_score(stage), np.repeat(stage.interests[self.rows], self.items.shape[1], axis=0)])

    @property
    def clicked(self) -> Ints:
        """1 for each target, 0 for what was shown beside it [rows * (1 + negatives)]."""
        clicked = np.zeros(self.items.shape, np.int64)
        clicked[:, 0] = 1
        return clicked.ravel()

    def scored(self, ranker: HistGradientBoostingClassifier, values: Floats) -> Floats:
        """What a ranker makes of these impressions by their features `values` [rows, 1 + negatives]."""
        scores: Floats = ranker.decision_function(values).reshape(self.items.shape)
        return scores


def grouped_auc(scores: Floats) -> Floats:
    """AUC of each line of `scores` [lines, 1 + negatives]: share of the negatives below the target, ties half."""
    below = (scores[:, 1:] < scores[:, :1]).mean(axis=1)
    equal = (scores[:, 1:] == scores[:, :1]).mean(axis=1)
    line: Floats = below + equal / 2
    return line


def auc(scores: Floats, weights: Floats) -> float:
    """AUC over all lines [lines, 1 + negatives]; a line counts `weights` [lines] times, as a bootstrap draws it."""
    order = rankdata(scores, method="dense").reshape(scores.shape) - 1
    width = int(order.max()) + 1
    positive = np.bincount(order[:, 0], weights=weights, minlength=width)
    spread = np.repeat(weights, scores.shape[1] - 1)
    negative = np.bincount(order[:, 1:].ravel(), weights=spread, minlength=width)
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


@dataclass(frozen=True, eq=False)
class Contest:
    """What rankers learn from and are judged on, and the one without an embedding: all models are held against it."""

    learned: Shown
    judged: Shown
    pre_ranked: Shown
    base_scores: Floats  # of `judged`
    base_kept: NDArray[np.bool_]  # of `pre_ranked`: target within the kept
    seed: int  # of every ranker


def contest_of(learned: Known, judged: Known, *, seed: int, positions: int, pre_ranked: int) -> Contest:
    """At most so many positions of each window, drawn without replacement, and what each of them was shown."""
    rng = np.random.default_rng(seed)
    some, others = (_some(len(known.positions), positions, rng) for known in (learned, judged))
    room = min(PRE_RANKED, len(judged.catalogue) // 2) - 1
    given = _shown(learned, some, count=NEGATIVES, seed=seed)
    tested = _shown(judged, others, count=NEGATIVES, seed=seed)
    candidates = _shown(judged, others[:pre_ranked], count=room, seed=seed + 1)
    base = _ranker(seed).fit(given.base, given.clicked)
    scores, kept = tested.scored(base, tested.base), _kept(candidates.scored(base, candidates.base))
    return Contest(given, tested, candidates, scores, kept, seed)


def _shown(known: Known, rows: Ints, *, count: int, seed: int) -> Shown:
    """Impressions with `count` items beside the target, or as many as are new to the user who has had most."""
    had = [known.positions.targets.histories[row].items for row in rows.tolist()]
    new = len(known.catalogue) - 1 - max((len(np.unique(items)) for items in had), default=0)
    items = impressions(known, rows, count=min(count, max(new, 1)), seed=seed)
    return Shown(rows, items, features(known, rows, items))


def _some(count: int, most: int, rng: np.random.Generator) -> Ints:
    chosen: Ints = rng.permutation(count)[:most]
    return chosen


@dataclass(frozen=True, eq=False)
class Judged:
    """The test window as the rankers see it."""

    auc_scores: dict[str, Floats]  # [rows, 1 + NEGATIVES] by ranker
    pre_ranked: dict[str, NDArray[np.bool_]]  # [pre-ranked rows] by ranker: target within the kept
    pre_rows: Ints
    user: Ints  # [rows]


def judge_rankers(contest: Contest, learned: Stage, judged: Stage) -> Judged:
    """Fit the rankers on one window as a model sees it, score the other."""
    given, tested, candidates = contest.learned, contest.judged, contest.pre_ranked
    by_score = _ranker(contest.seed).fit(given.with_score(learned), given.clicked)
    by_z = _ranker(contest.seed).fit(given.with_z(learned), given.clicked)
    scores = {
        "base": contest.base_scores,
        "with_score": tested.scored(by_score, tested.with_score(judged)),
        "with_z": tested.scored(by_z, tested.with_z(judged)),
    }
    kept = _kept(candidates.scored(by_score, candidates.with_score(judged)))
    pre_ranked = {"base": contest.base_kept, "with_score": kept}
    return Judged(scores, pre_ranked, candidates.rows, judged.positions.user[tested.rows])


def _kept(scores: Floats) -> NDArray[np.bool_]:
    """Whether each line's target is among its PRE_KEPT first, ties before it."""
    kept: NDArray[np.bool_] = (scores[:, 1:] >= scores[:, :1]).sum(axis=1) < PRE_KEPT
    return kept


def _ranker(seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.1, max_leaf_nodes=31, l2_regularization=1.0, random_state=seed
    )

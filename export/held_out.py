"""How good an artifact is for each held-out user, by its own ONNX graphs: what a challenger and a champion are told by.

Both are measured here on the same labels, so that their difference is one of models and not of windows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.training_sets import TrainingSet
from models.metrics import Interval, metrics_of_hits, paired_bootstrap

HELD_OUT = "held_out.parquet"
"""The file of an artifact that holds `held_out_gains` on its own test window."""

CUTOFF = 10
METRIC = f"NDCG@{CUTOFF}"


def held_out_gains(directory: Path, model: str, training_set: TrainingSet) -> pa.Table:
    """`user_id` and `gain`, its NDCG@10 on the test window, for each user who can be judged, by the artifact there.

    KARMA: the first new item of each user with a history. DICER: all new items of each user. Sorted by user.
    """
    measure = {"karma": _karma, "dicer": _dicer}[model]
    users, gains = measure(directory, training_set)
    return pa.table({"user_id": users, "gain": pa.array(gains, pa.float64())}).sort_by("user_id")


def quality_change(ours: pa.Table, theirs: pa.Table, *, draws: int, seed: int) -> tuple[Interval, int]:
    """Mean of `ours` minus `theirs` over the users in both with its 95 % bootstrap interval, and how many users.

    Raises ValueError if no user is in both or a gain is not a number.
    """
    both = ours.join(theirs, "user_id", right_suffix="_before", join_type="inner").sort_by("user_id")
    differences = pc.subtract(both["gain"], both["gain_before"]).to_numpy()
    if not np.isfinite(differences).all():
        raise ValueError("expected finite gains of every held-out user")
    return paired_bootstrap(differences, np.arange(len(differences)), draws=draws, seed=seed), len(differences)


def _karma(directory: Path, training_set: TrainingSet) -> tuple[pa.Array, NDArray[np.float64]]:
    from export.karma_encoding import open_encoder
    from models.karma.evaluation import held_out_targets, model_ranks
    from models.karma.text import read_catalogue, read_histories

    encoder = open_encoder(directory)
    catalogue = read_catalogue(training_set.recent["item_catalog"], encoder.preparation)
    row_of = {item: row for row, item in enumerate(catalogue.ids)}
    histories = read_histories(training_set.recent["user_history"], encoder.preparation, row_of)
    targets = held_out_targets(training_set.test, histories, row_of, encoder.preparation)
    targets = targets.take([row for row, history in enumerate(targets.histories) if len(history.items)])
    items = encoder.items(catalogue, np.arange(len(catalogue)))
    interests = encoder.users(targets.histories, catalogue.history_tokens, items.soft)
    ranks = model_ranks(interests, items.embeddings, targets)
    return pa.array(targets.users, pa.string()), np.where(ranks <= CUTOFF, 1 / np.log2(1.0 + ranks), 0.0)


def _dicer(directory: Path, training_set: TrainingSet) -> tuple[pa.Array, NDArray[np.float64]]:
    from export import dicer_scoring as scoring
    from models.dicer.evaluation import held_out
    from models.dicer.graphs import graphs_of

    graphs = graphs_of(training_set.recent)
    truth = held_out(training_set.test, graphs)
    user_base, _ = scoring.base_rows(directory / scoring.USER_BASES, graphs.user_ids)
    item_base, _ = scoring.base_rows(directory / scoring.ITEM_BASES, graphs.item_ids)
    tables = scoring.encode(directory / scoring.ENCODER, graphs, user_base, item_base)
    scorer = scoring.open_scorer(directory / scoring.SCORER, graphs, tables)
    place = {int(user): row for row, user in enumerate(truth.users)}
    hits = np.zeros((len(truth.users), CUTOFF), np.bool_)
    for user, items, _ in scoring.ranked_lists(scorer, graphs, top_k=CUTOFF, users=truth.users):
        hits[place[user], : len(items)] = np.isin(items, list(truth.positives[place[user]]))
    counts = np.array([len(wanted) for wanted in truth.positives], np.int64)
    gains = metrics_of_hits(hits, counts, [CUTOFF])[METRIC] if len(counts) else np.empty(0)
    return graphs.user_ids.take(pa.array(truth.users)), gains

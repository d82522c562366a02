"""All that the benchmark measures of one model, on one data set: ranks, collapse, fidelity, downstream stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.training_sets import TrainingSet
from models.karma.baselines import cosine_neighbours
from models.karma.config import KarmaConfig
from models.karma.downstream import Contest, Judged, Known, Stage, auc, contest_of, grouped_auc, judge_rankers
from models.karma.evaluation import (
    Score,
    encode_catalogue,
    encode_users,
    figures,
    model_ranks,
    readable,
    score_ranks,
    user_sequences,
)
from models.karma.fidelity import decoded_fidelity, probe, said
from models.karma.network import Karma
from models.karma.positions import Positions, every_position
from models.karma.sinks import LATER, attention_of, collapse_of, effective_rank
from models.karma.text import Preparation, Tokens
from models.karma.training import World, prepare, read_world
from models.metrics import Ranks, bootstrap_weights

VERSION = 3
"""Raise it when what is trained or measured changes its meaning: finished runs are then run again."""

CHANGES = {
    3: "the first and the last events of a long history are learned from no less often than those between, and log q "
    "is of each event's own chance; Last.fm's histories are whole, where they were the last 50 tags, some 12 artists: "
    "what a user had before those was ranked, could be a target, and was unknown to item-to-item; words and attributes "
    "are compared with their marks"
}
"""What each version changed, told beside runs of an older one."""

HISTORIES, DECODED, PROBED = 256, 512, 4000
VALIDATION_USERS = 2000
RANKED_POSITIONS, PRE_RANKED_POSITIONS, DRAWS = 6000, 1000, 400
MAP_TOKENS = 64
_SEED = 0  # of every sample that judges: all models see the same

Arrays = dict[str, NDArray[Any]]
Labels = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True, eq=False)
class Window:
    """One window to judge on."""

    world: World
    positions: Positions
    likeness: csr_array  # item-to-item, of the histories known when it starts
    labels: Labels  # what can be said of each item of the catalogue, by name


@dataclass(frozen=True, eq=False)
class Exam:
    """A data set as judged: validation chooses, test reports."""

    training_set: TrainingSet
    preparation: Preparation
    validation: Window
    test: Window

    @cached_property
    def contest(self) -> Contest:
        """What every arm's rankers learn from and are judged on."""
        windows = known_of(self.validation), known_of(self.test)
        return contest_of(*windows, seed=_SEED, positions=RANKED_POSITIONS, pre_ranked=PRE_RANKED_POSITIONS)

    def facts(self) -> dict[str, Any]:
        """What the page says of the data."""
        known, positions = self.validation.world, self.test.positions
        return {
            "users": len(known.histories),
            "items": len(self.test.world.catalogue),
            "events": sum(len(history.items) for history in known.histories.values()),
            "judged_users": len(np.unique(positions.user)),
            "positions": len(positions),
            "cold": int(positions.cold.sum()),
            "new": int(positions.new.sum()),
            "with_query": int(sum(len(query) > 0 for query in positions.targets.queries)),
            **{name: getattr(self.training_set.split, name).isoformat() for name in ("train_end", "valid_end")},
        }


def exam_of(training_set: TrainingSet, config: KarmaConfig, *, facets: Mapping[str, Sequence[str]]) -> Exam:
    """Prepare both windows; `facets` are the words of each kind of attribute, where they are known.

    Raises ValueError for compressed histories: what attention falls on is measured on words.
    """
    if config.history != "tokens":
        raise ValueError(f"expected history = tokens, whose attention can be measured, got {config.history!r}")
    preparation = prepare(training_set.train, config)
    drawn = _users_of(training_set.validation, VALIDATION_USERS)
    windows = [
        _window(features, labels, training_set.train["item_catalog"], preparation, facets)
        for features, labels in ((training_set.train, drawn), (training_set.recent, training_set.test))
    ]
    return Exam(training_set, preparation, *windows)


def _users_of(labels: pa.Table, most: int) -> pa.Table:
    """The labels of at most so many users, drawn without replacement."""
    users = pc.unique(labels["user_id"]).sort()
    return labels.filter(pc.is_in(labels["user_id"], users.take(_sample(len(users), most))))


def _window(
    features: Mapping[str, pa.Table],
    labels: pa.Table,
    trained_on: pa.Table,
    preparation: Preparation,
    facets: Mapping[str, Sequence[str]],
) -> Window:
    world = read_world(features, preparation)
    likeness = cosine_neighbours([history.items for history in world.histories.values()], len(world.catalogue))
    positions = every_position(labels, world, preparation, trained_on=trained_on)
    return Window(world, positions, likeness, item_labels(features["item_catalog"], facets))


def item_labels(table: pa.Table, facets: Mapping[str, Sequence[str]]) -> Labels:
    """Category, and the word of each facet that the text says, or without facets the first tag; None for nothing."""
    labels: dict[str, Sequence[str | None]] = {
        "category": [category or None for category in table.column("category").to_pylist()]
    }
    if facets:
        texts = table.column("text").to_pylist()
        labels |= {name: said(texts, words) for name, words in facets.items()}
    else:
        labels["tag"] = [tags[0] if tags else None for tags in table.column("tags").to_pylist()]
    return {name: values for name, values in labels.items() if any(values)}


def validation_figures(stage: Stage) -> dict[str, dict[str, float]]:
    """The metrics of an encoded window."""
    return rank_figures(stage.positions, model_ranks(stage.interests, stage.embeddings, stage.positions.targets))


def rank_figures(positions: Positions, found: Ranks) -> dict[str, dict[str, float]]:
    """The metrics of the first target of each user, of all, and of the parts of all that have any."""
    parts = {
        "first": positions.first,
        "all": np.ones(len(positions), np.bool_),
        "warm": ~positions.cold,
        "cold": positions.cold,
        "new": positions.new,
    }
    return {name: figures(found[chosen]) for name, chosen in parts.items() if chosen.any()}


def judge_scores(window: Window, score: Score) -> tuple[dict[str, Any], Arrays]:
    """Figures and ranks of a model that hears item histories only."""
    found = score_ranks(window.positions.targets, score)
    return {"action": rank_figures(window.positions, found)}, {"rank": found.astype(np.int32)}


@torch.no_grad()
def judge_network(exam: Exam, network: Karma, learned: Stage) -> tuple[dict[str, Any], Arrays]:
    """Figures and arrays of a trained network on the test window; `learned` is its validation window."""
    judged = stage_of(exam.test, network)
    positions = exam.test.positions
    asked = encode_users(
        network,
        user_sequences(positions.targets, judged.catalogue, limit=network.history_limit, with_query=True),
    )
    found = model_ranks(judged.interests, judged.embeddings, positions.targets)
    by_query = model_ranks(asked, judged.embeddings, positions.targets)
    unnamed = replace(judged.catalogue, id_index=np.zeros_like(judged.catalogue.id_index))
    without_ids = model_ranks(judged.interests, encode_catalogue(network, unnamed), positions.targets)
    collapse, maps = _collapse(network, judged)
    downstream, replicates = _downstream(exam.contest, learned, judged)
    told = {
        "action": rank_figures(positions, found),
        "action_with_query": rank_figures(positions, by_query),
        "action_without_ids": rank_figures(positions, without_ids),  # as if the whole catalogue were new
        **collapse,
        "fidelity": _fidelity(exam, network, learned, judged),
        "downstream": downstream,
    }
    ranks = {"rank": found, "rank_with_query": by_query, "rank_without_ids": without_ids}
    return told, {name: values.astype(np.int32) for name, values in ranks.items()} | maps | replicates


@torch.no_grad()
def judge_start(exam: Exam, network: Karma) -> tuple[dict[str, Any], Arrays]:
    """The collapse of a network that only read texts: before any action."""
    return _collapse(network, stage_of(exam.test, network))


def known_of(window: Window) -> Known:
    """What a window holds before a model reads it."""
    world = window.world
    _, codes = np.unique(np.array(world.categories, dtype=object).astype(str), return_inverse=True)
    return Known(window.positions, world.catalogue, codes.astype(np.int64), world.event_count, window.likeness)


@torch.no_grad()
def stage_of(window: Window, network: Karma) -> Stage:
    """A window as a network encodes it, without the current query.

    The windows were prepared for histories of words; a network of compressed ones reads the same catalogue by its own
    soft tokens.
    """
    known = known_of(window)
    catalogue = replace(known.catalogue, soft_tokens=network.soft_width)
    sequences = user_sequences(known.positions.targets, catalogue, limit=network.history_limit)
    return Stage(
        known.positions,
        catalogue,
        known.categories,
        known.event_count,
        known.likeness,
        encode_users(network, sequences),
        encode_catalogue(network, catalogue),
    )


def _collapse(network: Karma, judged: Stage) -> tuple[dict[str, Any], Arrays]:
    firsts = np.flatnonzero(judged.positions.first)
    rows = firsts[:HISTORIES].tolist()
    targets = judged.positions.targets.take(rows)
    histories = readable(network, user_sequences(targets, judged.catalogue, limit=network.history_limit))
    if network.compressor is not None and not any(len(tokens) >= LATER for tokens in histories.sequences):
        return {"collapse": None}, {}  # what is long enough in words need not be in soft tokens
    measured = collapse_of(network, histories)
    told = {
        "sink_share": measured.sink_share.tolist(),
        "first_key": measured.first_key.tolist(),
        "strongest": measured.strongest.tolist(),
        "entropy": measured.entropy.tolist(),
        "on": {kind: share.tolist() for kind, share in measured.on.items()},
        "tokens": measured.tokens,
        "rank_of_interests": effective_rank(judged.interests[firsts]),
        "rank_of_items": effective_rank(judged.embeddings),
    }
    example = attention_of(network, _example(histories.sequences), histories.soft)
    return {"collapse": told}, {"map": np.round(255 * np.sqrt(example)).astype(np.uint8)}


def _example(sequences: Sequence[Tokens]) -> Tokens:
    """The longest history of at most MAP_TOKENS tokens; the first one's start if all are longer."""
    short = [tokens for tokens in sequences if LATER <= len(tokens) <= MAP_TOKENS]
    return max(short, key=len) if short else sequences[0][:MAP_TOKENS]


def _fidelity(exam: Exam, network: Karma, learned: Stage, judged: Stage) -> dict[str, Any]:
    rows = np.flatnonzero(judged.positions.first)[:DECODED]
    items, z = judged.positions.targets.items, judged.interests[rows]
    labels = {name: [values[item] for item in items[rows]] for name, values in exam.test.labels.items()}
    decoded = {
        name: decoded_fidelity(network, exam.preparation, judged.catalogue, vectors, items[rows], labels)
        for name, vectors in (("own", z), ("shuffled", np.roll(z, 1, axis=0)))
    }
    probes = {}
    some, others = (_sample(len(stage.positions), PROBED) for stage in (learned, judged))
    for name, values in exam.test.labels.items():
        known, asked = exam.validation.labels[name], judged.positions.targets.items[others]
        result = probe(
            learned.interests[some],
            [known[item] for item in learned.positions.targets.items[some]],
            judged.interests[others],
            [values[item] for item in asked],
        )
        if result is not None:
            probes[name] = result
    return {"decoded": decoded, "probes": probes}


def _sample(count: int, most: int) -> NDArray[np.int64]:
    return np.random.default_rng(_SEED).permutation(count)[:most]


def _downstream(contest: Contest, learned: Stage, judged: Stage) -> tuple[dict[str, Any], Arrays]:
    """Figures of every ranker, and bootstrap replicates of what the embedding adds, users resampled.

    Replicate b draws the same users whatever the model and its seed, so that runs can be averaged one by one.
    """
    result = judge_rankers(contest, learned, judged)
    lines = len(result.user)
    told: dict[str, Any] = {
        "auc": {name: auc(scores, np.ones(lines)) for name, scores in result.auc_scores.items()},
        "grouped_auc": {name: float(grouped_auc(scores).mean()) for name, scores in result.auc_scores.items()},
        "pre_ranking": {name: float(hits.mean()) for name, hits in result.pre_ranked.items()},
        "impressions": lines,
        "pre_ranked": len(result.pre_rows),
    }
    weights = bootstrap_weights(int(judged.positions.user.max()) + 1, draws=DRAWS, seed=_SEED)
    pre_user = judged.positions.user[result.pre_rows]
    return told, _replicates(result, weights, pre_user)


def _replicates(result: Judged, weights: NDArray[np.int64], pre_user: NDArray[np.int64]) -> Arrays:
    by_line = {name: grouped_auc(scores) for name, scores in result.auc_scores.items()}
    gains: dict[str, list[float]] = {}

    def put(name: str, value: float) -> None:
        gains.setdefault(f"replicates_{name}", []).append(value)

    for drawn in weights:
        counts, pre = drawn[result.user].astype(np.float64), drawn[pre_user].astype(np.float64)
        base = auc(result.auc_scores["base"], counts)
        for name in ("with_score", "with_z"):
            put(f"auc_{name}", auc(result.auc_scores[name], counts) - base)
            put(f"grouped_auc_{name}", float(np.average(by_line[name] - by_line["base"], weights=counts)))
        difference = result.pre_ranked["with_score"].astype(float) - result.pre_ranked["base"]
        put("pre_ranking", float(np.average(difference, weights=pre)))
    return {name: np.array(values, np.float32) for name, values in gains.items()}

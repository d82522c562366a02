"""Held-out evaluation of KARMA over the full catalogue, against popularity on the same targets and exclusions.

A user's target is the first item of the window that is in the catalogue and not in the user's history as of the
window's start. Items of that history are excluded from the ranking, for the model and for popularity alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.karma.compressed import Histories, UsedRows, latest_histories, query_inputs, used_rows
from models.karma.network import Karma
from models.karma.text import (
    EMPTY,
    EOS,
    PAD,
    REC,
    Catalogue,
    History,
    Preparation,
    Rows,
    Tokens,
    encode,
    length_batches,
    padded,
)
from models.metrics import Ranks, hit_rate, mean_reciprocal_rank, ndcg, rank_of_target

NEW_USER = History(EMPTY, [])
BATCH_TOKENS = 8192
Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Targets:
    """What users of a window took next, and what the model may know of them; rows of one user stand together."""

    users: list[str]
    histories: list[History]
    items: NDArray[np.int64]  # catalogue rows
    queries: list[Tokens]  # of the target event
    unknown_items: int  # labels whose item the catalogue did not know at the window's start
    seen_items: int  # labels of items already in the user's history: repeats, not recommendations

    def __len__(self) -> int:
        return len(self.items)

    def by_user(self) -> tuple[Targets, Rows, Rows]:
        """The first target of each user, its row here, and for every row the place of its user among them."""
        _, first, of_user = np.unique(np.array(self.users, np.str_), return_index=True, return_inverse=True)
        return self.take(first.tolist()), first, of_user

    def take(self, rows: Sequence[int]) -> Targets:
        """The targets of some rows."""
        return Targets(
            [self.users[row] for row in rows],
            [self.histories[row] for row in rows],
            self.items[list(rows)],
            [self.queries[row] for row in rows],
            self.unknown_items,
            self.seen_items,
        )


Score = Callable[[Targets, slice], NDArray[np.floating]]
"""Scores [rows, items] of a slice of targets, by their histories alone."""


def held_out_targets(
    labels: pa.Table,
    histories: Mapping[str, History],
    row_of: Mapping[str, int],
    preparation: Preparation,
    *,
    per_user: int = 1,
) -> Targets:
    """The first `per_user` new items of each user of `labels`, which are ordered by user and time.

    A user without a history has an empty one.
    """
    chosen: dict[str, dict[int, str]] = {}
    seen = {user: frozenset(history.items.tolist()) for user, history in histories.items()}
    unknown_items = seen_items = 0
    columns = (labels.column(name).to_pylist() for name in ("user_id", "item_id", "query"))
    for user, item, query in zip(*columns, strict=True):
        if item not in row_of:
            unknown_items += 1
        elif row_of[item] in seen.get(user, ()):
            seen_items += 1
        elif len(chosen.setdefault(user, {})) < per_user:
            chosen[user].setdefault(row_of[item], query)
    rows = [(user, item, query) for user, items in chosen.items() for item, query in items.items()]
    queries = encode(preparation.tokenizer, [q for _, _, q in rows], limit=preparation.config.query_tokens)
    return Targets(
        [user for user, _, _ in rows],
        [histories.get(user, NEW_USER) for user, _, _ in rows],
        np.array([item for _, item, _ in rows], np.int64),
        [queries[row] for row in range(len(queries))],
        unknown_items,
        seen_items,
    )


def encode_catalogue(network: Karma, catalogue: Catalogue) -> NDArray[np.float32]:
    """Item embeddings [items, d]."""
    vectors = np.empty((len(catalogue), network.identity.embedding_dim), np.float32)
    for rows in length_batches(catalogue.tokens.lengths + 2, tokens=BATCH_TOKENS):
        inputs = {name: torch.from_numpy(value).to(network.device) for name, value in catalogue.inputs(rows).items()}
        vectors[rows] = network.encode_items(**inputs).cpu().numpy()
    return vectors


@dataclass(frozen=True, eq=False)
class Readable:
    """Histories as the network reads them: of words, or over a table of soft tokens."""

    sequences: list[Tokens]
    soft: torch.Tensor | None  # [R, H], the items' rows first; None where they are of words
    soft_items: int | None  # rows of the table that are items'


def readable(network: Karma, histories: Histories) -> Readable:
    """`histories` with the soft tokens that they name, where they name any."""
    if histories.rows is None:
        return Readable(histories.sequences, None, None)
    used = used_rows(histories.sequences, histories.rows)
    return Readable(
        used.sequences, _soft_table(network, used, histories.catalogue), len(used.items) * network.soft_width
    )


def encode_users(network: Karma, histories: Histories) -> NDArray[np.float32]:
    """Interests [sequences, d]."""
    read = readable(network, histories)
    sequences, soft = read.sequences, read.soft
    vectors = np.empty((len(sequences), network.identity.embedding_dim), np.float32)
    for rows in length_batches(np.array([len(tokens) for tokens in sequences], np.int64), tokens=BATCH_TOKENS):
        ids, lengths = (torch.from_numpy(part).to(network.device) for part in padded([sequences[row] for row in rows]))
        vectors[rows] = network.encode_history(ids, lengths, soft).cpu().numpy()
    return vectors


def _soft_table(network: Karma, used: UsedRows, catalogue: Catalogue) -> torch.Tensor:
    """Soft tokens [R, H] of the items, then the queries, that histories name, and a last row of zeros."""
    width, pictures = catalogue.soft_tokens, catalogue.pictures.shape[1]

    def items(part: Rows) -> Inputs:
        return catalogue.inputs(used.items[part])

    def queries(part: Rows) -> Inputs:
        return query_inputs([used.queries[row] for row in part], soft_tokens=width, picture_width=pictures)

    lengths = np.array([len(query) for query in used.queries], np.int64)
    sides = ((catalogue.tokens.lengths[used.items], items), (lengths, queries))
    tables = [_soft(network, lengths + width + 1, inputs) for lengths, inputs in sides]
    return torch.cat([*tables, tables[0].new_zeros(1, tables[0].shape[1])])


def _soft(network: Karma, lengths: Rows, inputs: Callable[[Rows], Inputs]) -> torch.Tensor:
    soft = torch.zeros(len(lengths), network.read_outs, network.width, device=network.device)
    for part in length_batches(lengths, tokens=BATCH_TOKENS):
        given = {name: torch.from_numpy(value) for name, value in inputs(part).items() if name != "id_index"}
        given = {name: value.to(network.device) for name, value in given.items()}
        soft[torch.from_numpy(part)] = network.to_soft(network.read_items(**given))
    return soft.flatten(0, 1)


def user_sequences(targets: Targets, catalogue: Catalogue, *, limit: int, with_query: bool = False) -> Histories:
    """What the history encoder reads for each target's user, with the target's own query or without one."""
    queries = targets.queries if with_query else [EMPTY] * len(targets)
    return latest_histories(targets.histories, queries, catalogue, limit=limit)


def ranks(targets: Targets, score: Callable[[slice], NDArray[np.floating]], *, rows: int = 256) -> Ranks:
    """Rank of every target; `score(slice of targets) -> [rows, items]`, a fresh array that this may overwrite."""
    found = [np.empty(0, np.int64)]
    for start in range(0, len(targets), rows):
        part = slice(start, min(start + rows, len(targets)))
        scores = score(part)
        for row, history in enumerate(targets.histories[part]):
            scores[row, history.items] = -np.inf
        found.append(rank_of_target(scores, targets.items[part]))
    return np.concatenate(found)


def score_ranks(targets: Targets, score: Score) -> Ranks:
    """Rank of every target."""
    return ranks(targets, lambda part: score(targets, part))


def popularity_score(event_count: NDArray[np.int64]) -> Score:
    """The most taken items first, for everyone."""
    counts = event_count.astype(np.float64)
    return lambda _, part: np.tile(counts, (part.stop - part.start, 1))


def popularity_ranks(targets: Targets, event_count: NDArray[np.int64]) -> Ranks:
    """Ranks when everybody is shown the most popular items first."""
    return score_ranks(targets, popularity_score(event_count))


def model_ranks(users: NDArray[np.float32], items: NDArray[np.float32], targets: Targets) -> Ranks:
    """Ranks by the inner product of interests [targets, d] and item embeddings."""
    return ranks(targets, lambda part: users[part] @ items.T)


def smooth_gain(found: Ranks) -> float:
    """Mean of 1 / log2(1 + rank) without a cut: every rank counts, so that few users still show a difference."""
    return float((1.0 / np.log2(1.0 + found)).mean()) if len(found) else 0.0


def figures(found: Ranks) -> dict[str, float]:
    """The reported metrics."""
    return {
        "HR@10": hit_rate(found, 10),
        "HR@50": hit_rate(found, 50),
        "HR@200": hit_rate(found, 200),
        "NDCG@10": ndcg(found, 10),
        "MRR": mean_reciprocal_rank(found),
    }


def report(
    network: Karma, preparation: Preparation, catalogue: Catalogue, targets: Targets, event_count: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """Metrics of one window, from `targets` with several a user.

    `model` and `popularity` are over the first target of each user with a history: those whom the night serves. The
    same over all targets says it with less noise; a user then counts as often as it has targets.
    """
    items, limit = encode_catalogue(network, catalogue), preparation.config.history_limit
    once, first, of_user = targets.by_user()
    users = encode_users(network, user_sequences(once, catalogue, limit=limit))
    asked = encode_users(network, user_sequences(once, catalogue, limit=limit, with_query=True))
    by_model, by_count = model_ranks(users[of_user], items, targets), popularity_ranks(targets, event_count)
    by_query = model_ranks(asked, items, once)
    known = np.array([len(history.items) > 0 for history in targets.histories], np.bool_)
    served = known[first]
    cold = event_count[once.items] == 0
    return {
        "model": figures(by_model[first][served]),
        "popularity": figures(by_count[first][served]),
        "model_all_targets": figures(by_model[known]),
        "popularity_all_targets": figures(by_count[known]),
        "model_with_query": figures(by_query[served]),
        "model_cold_items": figures(by_model[first][served & cold]),
        "model_new_users": figures(by_model[first][~served]),
        "popularity_new_users": figures(by_count[first][~served]),
        "decoding": fidelity(network, catalogue, once, limit=limit),
        "targets": {
            "users": int(served.sum()),
            "all_targets": int(known.sum()),
            "new_users": int((~served).sum()),
            "cold_items": int((served & cold).sum()),
            "labels_of_unknown_items": targets.unknown_items,
            "labels_of_seen_items": targets.seen_items,
        },
    }


def fidelity(
    network: Karma, catalogue: Catalogue, targets: Targets, *, limit: int, users: int = 512
) -> dict[str, float]:
    """Token accuracy of each target's text decoded from z, teacher-forced, and from another user's z.

    The difference is what z says about the next item; the second figure is what the language model says by itself.
    """
    chosen = targets.take(range(min(users, len(targets))))
    if not len(chosen):
        return {"token_accuracy": 0.0, "token_accuracy_shuffled": 0.0}
    vectors = encode_users(network, user_sequences(chosen, catalogue, limit=limit))
    own, another = (token_accuracy(network, catalogue, z, chosen.items) for z in (vectors, np.roll(vectors, 1, axis=0)))
    return {"token_accuracy": own, "token_accuracy_shuffled": another}


@torch.no_grad()
def token_accuracy(network: Karma, catalogue: Catalogue, interests: NDArray[np.float32], items: Rows) -> float:
    """Share of the tokens of each item's text that are the likeliest given z and the true tokens before."""
    texts = [catalogue.tokens[int(row)] for row in items]
    given = torch.from_numpy(padded([np.array([REC, *text]) for text in texts])[0]).to(network.device)
    wanted = torch.from_numpy(padded([np.array([*text, EOS]) for text in texts])[0]).to(network.device)
    written = network.reconstruct(torch.from_numpy(interests).to(network.device), given)
    guessed = (written @ network.decoding_vocabulary().T).argmax(dim=-1)
    return float((guessed == wanted)[wanted != PAD].float().mean())

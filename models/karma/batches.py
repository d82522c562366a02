"""Batches of histories and candidate items, drawn from a generator alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import NothingToLearn
from models.karma.compressed import SoftRows, compressed_sequence, query_inputs, used_rows
from models.karma.config import KarmaConfig
from models.karma.text import (
    EMPTY,
    EOS,
    GEN,
    REC,
    Catalogue,
    History,
    HistorySequence,
    Rows,
    Tokens,
    history_sequence,
    padded,
)


@dataclass(frozen=True)
class Batch:
    """One step's inputs. B histories, N `[INT]` positions among them, C candidate items, G decoded positions each."""

    input_ids: Tensor  # [B, S]
    rows: Tensor  # [N] history of each position
    positions: Tensor  # [N] place of each `[INT]` in it
    targets: Tensor  # [N] column of `candidates`
    learned: Tensor  # [N] whether the target is one that enough users have
    candidates: Tensor  # [C] catalogue rows, sorted
    candidate_inputs: dict[str, Tensor]
    queries: dict[str, Tensor] | None  # that compressed histories name, after the candidates; None where there is none
    owned: Tensor  # [B, M] catalogue rows of the whole history of each user, padded with -1
    shares: Tensor  # [sources, C] chance of each candidate in one draw of each source
    draws: Tensor  # [sources]
    decoded: Tensor  # [B, G] numbers, among the N, of the positions whose next item is decoded
    generation_segments: Tensor  # [B, G, T] `[GEN]` and the item's text
    reconstruction_segments: Tensor  # [B, G, T] `[REC]` and the item's text
    decoded_texts: Tensor  # [B, G, T] the text and `[EOS]`
    decoded_pictures: Tensor  # [B * G, picture width]
    decoded_has_picture: Tensor  # [B * G]


@dataclass(frozen=True)
class Sampler:
    """What batches are drawn from: the histories, and three sources of candidate items."""

    config: KarmaConfig
    catalogue: Catalogue
    histories: Sequence[History]
    earliest_end: Rows  # per history: the fewest events that fill the token budget
    category: Rows  # code of each item
    members: Sequence[Rows]  # items of each category
    soft: SoftRows | None  # None where histories are words
    learnable: NDArray[np.bool_]  # items that at least `target_min_users` users have
    shares: NDArray[np.float64]  # [3, items]: as a target, by popularity, by the category of a target

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        categories: Sequence[str],
        event_count: NDArray[np.int64],
        histories: Mapping[str, History],
        config: KarmaConfig,
    ) -> Sampler:
        """Count what the sources draw from. Raises NothingToLearn without a single event to learn from."""
        usable = [history for history in histories.values() if len(history.items)]
        if not usable:
            raise NothingToLearn("expected histories with events on catalogue items to train on, got none")
        stretches = [_stretches(history, catalogue, config) for history in usable]
        items = np.concatenate([history.items for history in usable])
        taken = np.concatenate([chances for _, chances in stretches])
        target = np.bincount(items, weights=taken, minlength=len(catalogue))
        users = np.bincount(np.concatenate([np.unique(h.items) for h in usable]), minlength=len(catalogue))
        popularity = (event_count + 1.0) ** 0.75
        names, category = np.unique(np.array(categories, dtype=object).astype(str), return_inverse=True)
        sizes, of_targets = np.bincount(category), np.bincount(category, weights=target, minlength=len(names))
        shares = np.stack([target, popularity, (of_targets / sizes)[category]])
        return cls(
            config,
            catalogue,
            usable,
            np.array([earliest for earliest, _ in stretches], np.int64),
            category.astype(np.int64),
            [np.flatnonzero(category == code) for code in range(len(names))],
            SoftRows.of(
                (query for history in usable for query in history.queries),
                items=len(catalogue),
                width=config.soft_width,
            )
            if config.soft_width
            else None,
            users >= config.target_min_users,
            shares / shares.sum(axis=1, keepdims=True),
        )

    def draw(self, generator: torch.Generator) -> Batch:
        """The batch of one step."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        chosen = rng.integers(len(self.histories), size=self.config.batch)
        cut = [self._sequence(int(row), rng) for row in chosen]
        sequences, items = [sequence for sequence, _ in cut], [targets for _, targets in cut]
        wanted = np.concatenate(items)
        candidates = np.unique(np.concatenate([wanted, *self._negatives(wanted, rng)]))
        sources = np.array([len(wanted), self.config.popularity_negatives, self.config.category_negatives])
        counts = np.array([len(targets) for targets in items])
        rows = np.repeat(np.arange(len(cut)), counts)
        ahead, shape = np.cumsum(counts) - counts, (len(cut), self.config.decoded_positions)
        picked = ahead[:, None] + rng.integers(counts[:, None], size=shape)
        decoded = wanted[picked]
        read, queries = self._read([sequence.tokens for sequence in sequences], candidates)
        return Batch(
            input_ids=torch.from_numpy(padded(read)[0]),
            rows=torch.from_numpy(rows),
            positions=torch.from_numpy(np.concatenate([sequence.interests for sequence in sequences])),
            targets=torch.from_numpy(np.searchsorted(candidates, wanted)),
            learned=torch.from_numpy(self.learnable[wanted]),
            candidates=torch.from_numpy(candidates),
            candidate_inputs=self._candidate_inputs(candidates, rng),
            queries=queries,
            owned=torch.from_numpy(_block([self.histories[row].items for row in chosen])),
            shares=torch.from_numpy(self.shares[:, candidates]).float(),
            draws=torch.from_numpy(sources).float(),
            decoded=torch.from_numpy(picked),
            generation_segments=self._segments(decoded, opening=[GEN], closing=[]),
            reconstruction_segments=self._segments(decoded, opening=[REC], closing=[]),
            decoded_texts=self._segments(decoded, opening=[], closing=[EOS]),
            decoded_pictures=torch.from_numpy(self.catalogue.pictures[decoded.ravel()]),
            decoded_has_picture=torch.from_numpy(self.catalogue.has_picture[decoded.ravel()]),
        )

    def _sequence(self, row: int, rng: np.random.Generator) -> tuple[HistorySequence, Rows]:
        """A stretch of one history, with the target of each of its `[INT]`s; the last event is target only.

        The end is drawn as `_stretches` says, so that old and new events are learned from; each query is dropped with
        `query_dropout`.
        """
        history = self.histories[row]
        earliest, events = int(self.earliest_end[row]), len(history.items)
        end = int(np.clip(rng.integers(1, events + earliest), earliest, events))
        dropped = rng.random(end) < self.config.query_dropout
        queries = [EMPTY if gone else query for gone, query in zip(dropped, history.queries[:end], strict=True)]
        past, limit = history.items[: end - 1], self.config.history_limit
        if self.soft is not None:
            sequence = compressed_sequence(past, queries, self.soft, limit=limit)
        else:
            words = [self.catalogue.history_tokens[int(item)] for item in past]
            sequence = history_sequence(words, queries, limit=limit)
        return sequence, history.items[sequence.first : end]

    def _read(self, sequences: list[Tokens], candidates: Rows) -> tuple[list[Tokens], dict[str, Tensor] | None]:
        """Sequences as the network reads them, and inputs of the queries that compressed ones name.

        The items of a history are candidates, each being the target of its own `[INT]`, so they are encoded anyway.
        """
        if self.soft is None:
            return sequences, None
        used = used_rows(sequences, self.soft, among=candidates)
        if not used.queries:
            return used.sequences, None
        width = self.catalogue.pictures.shape[1]
        inputs = query_inputs(used.queries, soft_tokens=self.config.soft_width, picture_width=width)
        return used.sequences, {name: torch.from_numpy(value) for name, value in inputs.items()}

    def _candidate_inputs(self, candidates: Rows, rng: np.random.Generator) -> dict[str, Tensor]:
        """Inputs of the item encoder; some items are shown as if they were new."""
        inputs = self.catalogue.inputs(candidates)
        unnamed = rng.random(len(candidates)) < self.config.id_dropout
        inputs["id_index"] = np.where(unnamed, 0, inputs["id_index"])
        return {name: torch.from_numpy(value) for name, value in inputs.items()}

    def _negatives(self, wanted: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
        popular = rng.choice(len(self.catalogue), size=self.config.popularity_negatives, p=self.shares[1])
        like = self.category[rng.choice(wanted, size=self.config.category_negatives)]
        akin = [self.members[code][rng.integers(len(self.members[code]))] for code in like]
        return popular, np.array(akin, np.int64)

    def _segments(self, items: Rows, *, opening: list[int], closing: list[int]) -> Tensor:
        texts = [np.array([*opening, *self.catalogue.tokens[int(item)], *closing], np.int64) for item in items.ravel()]
        return torch.from_numpy(padded(texts)[0].reshape(*items.shape, -1))


def _stretches(history: History, catalogue: Catalogue, config: KarmaConfig) -> tuple[int, NDArray[np.float64]]:
    """The earliest end of a stretch that fills the token budget, and the chance of each event to be in the one drawn.

    With n events and the earliest end w, an end is uniform over 1 .. n + w - 1, those out of w .. n moved to the
    nearest: uniform over w .. n would leave the first and the last event to one end each. Of a history that fits the
    one stretch is all of it. Queries are counted as if none were dropped.
    """
    soft, events = config.soft_width, len(history.items)
    heads = np.array([1 + ((soft or len(query) + 1) if len(query) else 0) for query in history.queries], np.int64)
    sizes = np.array([soft or len(catalogue.history_tokens[int(item)]) for item in history.items], np.int64)
    before = np.concatenate([[0], np.cumsum(heads + sizes)])
    ends = np.arange(1, events + 1)
    first = np.searchsorted(before, 1 + before[:-1] + heads - config.history_limit)  # of the stretch with each end
    earliest = int(np.count_nonzero(first == 0))
    chance = np.where(ends < earliest, 0.0, 1.0)
    chance[[earliest - 1, -1]] = earliest
    chance /= chance.sum()
    change = np.zeros(events + 1)
    np.add.at(change, first, chance)
    np.subtract.at(change, ends, chance)
    return earliest, change.cumsum()[:-1]


def _block(rows: Sequence[Tokens]) -> Rows:
    """Rows side by side, padded with -1."""
    block = np.full((len(rows), max(len(row) for row in rows)), -1, np.int64)
    for number, row in enumerate(rows):
        block[number, : len(row)] = row
    return block

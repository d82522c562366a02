"""KARMA's encoders on ONNX Runtime alone: rows of similar length together, a batch on each core.

A batch is small enough that everything between two operators stays in a core's own cache, and each core has its own
batches: no thread waits for another, and no time goes into waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.parity import open_session
from features.cores import usable_cores
from models.karma.compressed import FIRST_SOFT, SoftRows, query_inputs, written_histories
from models.karma.text import (
    EMPTY,
    Catalogue,
    History,
    Preparation,
    Ragged,
    Rows,
    Tokens,
    length_batches,
    load_preparation,
    padded,
)

HISTORY_GRAPH, ITEM_GRAPH = "history_encoder.onnx", "item_encoder.onnx"
BATCH_TOKENS = 1024
"""Padded tokens of a batch: of 512 to 16,384, the fastest for the default network, by a quarter."""

Vectors = NDArray[np.float32]
Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """What the item encoder makes of items or queries: embeddings [N, d], soft tokens [N, K * H], K = 0 of words."""

    embeddings: Vectors
    soft: Vectors

    def take(self, rows: Rows) -> ItemVectors:
        """Some rows of both."""
        return ItemVectors(self.embeddings[rows], self.soft[rows])


@dataclass(frozen=True, eq=False)
class Encoder:
    """An artifact's two graphs and what prepares their inputs."""

    preparation: Preparation
    item_graph: ort.InferenceSession
    history_graph: ort.InferenceSession
    batch_tokens: int = BATCH_TOKENS

    def items(self, catalogue: Catalogue, rows: Rows) -> ItemVectors:
        """Vectors of catalogue rows."""
        return self._items(catalogue.tokens.lengths[rows], lambda part: catalogue.inputs(rows[part]))

    def queries(self, queries: Sequence[Tokens]) -> ItemVectors:
        """Vectors of queries; of use only where histories are soft tokens."""
        width, pictures = self.preparation.config.soft_width, self.preparation.picture_width
        lengths = np.array([len(query) for query in queries], np.int64)
        return self._items(
            lengths,
            lambda part: query_inputs([queries[row] for row in part], soft_tokens=width, picture_width=pictures),
        )

    def users(
        self,
        histories: Sequence[History],
        words: Ragged,
        item_soft: Vectors,
        current_queries: Sequence[Tokens] | None = None,
    ) -> Vectors:
        """Interests [users, d], after a current query each or, without them, after none.

        The catalogue's `words` are read or its `item_soft` tokens.
        """
        width, limit = self.preparation.config.soft_width, self.preparation.config.history_limit
        current = [EMPTY] * len(histories) if current_queries is None else current_queries
        rows, query_soft = None, item_soft[:0]
        if width:
            queries = chain.from_iterable((*past.queries, now) for past, now in zip(histories, current, strict=True))
            rows = SoftRows.of(queries, items=len(item_soft), width=width)
            query_soft = self.queries(rows.queries).soft
        sequences = written_histories(histories, current, words, rows, limit=limit)

        def encode(part: Rows) -> list[Vectors]:
            input_ids, lengths = padded([sequences[row] for row in part])
            inputs: Inputs = {"input_ids": input_ids, "lengths": lengths}
            if width:
                inputs["input_ids"], inputs["soft"] = named_rows(input_ids, item_soft, query_soft, width=width)
            made: list[Vectors] = self.history_graph.run(None, inputs)
            return made

        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        return self._by_length(lengths, encode, widths=[self.preparation.config.embedding])[0]

    def _items(self, lengths: Rows, inputs: Callable[[Rows], Inputs]) -> ItemVectors:
        def encode(part: Rows) -> list[Vectors]:
            made: list[Vectors] = self.item_graph.run(None, inputs(part))
            return [block.reshape(len(part), -1) for block in made]

        config = self.preparation.config
        widths = [config.embedding, self.soft_numbers] if config.soft_width else [config.embedding]
        # One token more than the text for each `[ITEM]`, and one for the picture.
        embeddings, *made = self._by_length(lengths + max(1, config.soft_width) + 1, encode, widths=widths)
        return ItemVectors(embeddings, made[0] if made else embeddings[:, :0])

    @property
    def soft_numbers(self) -> int:
        """Numbers in an item's soft tokens, K * H; 0 where histories are words."""
        outputs = self.item_graph.get_outputs()
        return int(np.prod(outputs[1].shape[1:])) if self.preparation.config.soft_width else 0

    def _by_length(
        self, lengths: Rows, encode: Callable[[Rows], list[Vectors]], *, widths: Iterable[int]
    ) -> list[Vectors]:
        blocks = [np.empty((len(lengths), width), np.float32) for width in widths]

        def place(part: Rows) -> None:
            for block, made in zip(blocks, encode(part), strict=True):
                block[part] = made

        with ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(place, length_batches(lengths, tokens=self.batch_tokens)):
                pass
        return blocks


def quantised(graph: str) -> str:
    """The name of a graph's int8 variant; an artifact that has one is run by it."""
    return graph.replace(".onnx", ".int8.onnx")


def open_encoder(
    directory: Path, *, precision: Literal["fp32", "int8"] | None = None, batch_tokens: int = BATCH_TOKENS
) -> Encoder:
    """The encoder of an artifact's directory; without `precision`, the one that the artifact was exported for."""
    names = [ITEM_GRAPH, HISTORY_GRAPH]
    if precision == "int8" or (precision is None and (directory / quantised(ITEM_GRAPH)).is_file()):
        names = [quantised(name) for name in names]
    items, histories = (open_session(directory / name) for name in names)
    return Encoder(load_preparation(directory), items, histories, batch_tokens)


def named_rows(block: Tokens, item_soft: Vectors, query_soft: Vectors, *, width: int) -> tuple[Tokens, Vectors]:
    """`block` [B, S] over the few soft tokens that it names, and those [R, H], with a last row of zeros.

    `item_soft` and `query_soft` have `width` soft tokens a row; a batch's own table is small whatever theirs are.
    """
    marks = block < FIRST_SOFT
    named = np.unique(block[~marks])
    rows, within = np.divmod(named - FIRST_SOFT, width)
    hidden = item_soft.shape[1] // width
    soft = np.zeros((len(named) + 1, hidden), np.float32)
    of_items = rows < len(item_soft)
    for of_side, side, place in ((of_items, item_soft, rows), (~of_items, query_soft, rows - len(item_soft))):
        soft[:-1][of_side] = side.reshape(len(side), width, hidden)[place[of_side], within[of_side]]
    return np.where(marks, block, FIRST_SOFT + np.searchsorted(named, block)), soft

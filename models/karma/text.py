"""KARMA's text side, numpy only: tokenizer, catalogue, and the one sequence of training, evaluation and night.

A history is `[BOS]`, then an event after the other, oldest first: `[QUERY]` and the query's tokens where there was a
query, `[INT]`, the item's tokens; it ends with a last `[INT]`, where the next interest is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from features.contracts import ITEM_CATALOG
from features.errors import ContractViolation
from features.files import read_json, replacing_file, write_json
from models.karma.config import KarmaConfig

SPECIALS = ("[PAD]", "[BOS]", "[EOS]", "[INT]", "[ITEM]", "[GEN]", "[REC]", "[QUERY]")
PAD, BOS, EOS, INT, ITEM, GEN, REC, QUERY = range(len(SPECIALS))

CHARACTERS_A_TOKEN = 64
"""More than a token of a word has: a text is cut here before it is tokenised, so that its length costs nothing."""
PADDING = 64
"""A text is looked through for so many times that, since most of it may be blank."""

_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, halves of surrogate pairs

Tokens = NDArray[np.int64]
Rows = NDArray[np.int64]
EMPTY: Tokens = np.empty(0, np.int64)


@dataclass(frozen=True)
class Ragged:
    """Rows of tokens of different lengths, in one array."""

    values: Tokens
    offsets: Rows

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Tokens:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Rows:
        """Tokens of each row."""
        return np.diff(self.offsets)


def ragged(rows: Sequence[Tokens]) -> Ragged:
    """Rows, in order, as one `Ragged`."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Ragged(np.concatenate([EMPTY, *rows]), offsets)


@dataclass(frozen=True)
class Preparation:
    """What turns rows of features into inputs of the graphs; stored beside them."""

    config: KarmaConfig
    tokenizer: Tokenizer
    item_index: Mapping[str, int]  # item id -> row of the id embedding, from 1; 0 is `no id`
    picture_width: int  # 1 where the catalogue of training has no pictures,
    has_pictures: bool = True  # and then all pictures are absent: the network never learned to look at one

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json`, `item_index.parquet` and `config.json`."""
        with replacing_file(directory / "tokenizer.json") as temporary:
            self.tokenizer.save(str(temporary))
        with replacing_file(directory / "item_index.parquet") as temporary:
            pq.write_table(pa.table({"item_id": pa.array(list(self.item_index), pa.string())}), temporary)
        pictures = {"picture_width": self.picture_width, "has_pictures": self.has_pictures}
        write_json(directory / "config.json", {"karma": asdict(self.config), **pictures})


def load_preparation(directory: Path) -> Preparation:
    """What `Preparation.save` wrote."""
    stored = read_json(directory / "config.json")
    items = pq.read_table(directory / "item_index.parquet").column("item_id").to_pylist()
    return Preparation(
        KarmaConfig(**stored["karma"]),
        Tokenizer.from_file(str(directory / "tokenizer.json")),
        {item: index for index, item in enumerate(items, start=1)},
        stored["picture_width"],
        stored.get("has_pictures", True),  # artifacts from before it was stored
    )


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """A byte-level BPE over `texts`, of at most `vocabulary` tokens with the special ones.

    The special tokens are not in it: their ids come before its own (see `encode`), so that no text can produce one.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocabulary - len(SPECIALS), 256),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows of the token embedding: special tokens first, then the tokenizer's, whose ids may have gaps."""
    return len(SPECIALS) + max(tokenizer.get_vocab().values(), default=-1) + 1


def encode(tokenizer: Tokenizer, texts: Sequence[str], *, limit: int) -> Ragged:
    """The first `limit` tokens of each text, none of them special whatever the text says.

    Control characters count as blanks, a run of blanks is one space, and at the ends it is nothing: what pads a text
    takes no tokens from it. Of a long text only what can hold `limit` tokens is read.
    """
    readable = [_readable(text, CHARACTERS_A_TOKEN * limit) for text in texts]
    encodings = tokenizer.encode_batch_fast(readable, add_special_tokens=False)
    return ragged([np.array(encoding.ids[:limit], np.int64) + len(SPECIALS) for encoding in encodings])


def _readable(text: str, length: int) -> str:
    return " ".join(_UNREADABLE.sub(" ", text[: PADDING * length]).split())[:length]


def decode(tokenizer: Tokenizer, tokens: Tokens) -> str:
    """The text of `tokens`, without the special ones."""
    return str(tokenizer.decode([int(token) - len(SPECIALS) for token in tokens if token >= len(SPECIALS)])).strip()


@dataclass(frozen=True)
class Catalogue:
    """Rows of `item_catalog`, tokenised once."""

    ids: list[str]
    tokens: Ragged  # semantic text: on the item side, and to decode
    history_tokens: Ragged  # the item inside a history
    pictures: NDArray[np.float32]  # [items, picture_width], zeros where there is none
    has_picture: NDArray[np.bool_]
    id_index: Rows
    soft_tokens: int = 0  # of an item in a compressed history; 0 where histories are words

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Inputs of the item encoder for `rows`, in its order; `[ITEM]` closes each text, once for each soft token."""
        closing = [ITEM] * max(1, self.soft_tokens)
        token_ids, lengths = padded([np.append(self.tokens[row], closing) for row in rows])
        return {
            "token_ids": token_ids,
            "lengths": lengths,
            "picture": self.pictures[rows],
            "has_picture": self.has_picture[rows],
            "id_index": self.id_index[rows],
        }


def read_catalogue(table: pa.Table | pa.RecordBatch, preparation: Preparation) -> Catalogue:
    """Tokenise rows of `item_catalog`; pictures are absent to a model that was trained without any.

    Raises ContractViolation if a picture's width is not the trained one, or it is not finite.
    """
    config, ids = preparation.config, table.column("item_id").to_pylist()
    column = table.column("picture") if preparation.has_pictures else pa.nulls(len(ids))
    pictures, has_picture = _pictures(column, preparation.picture_width)
    texts, history_texts = (table.column(name).to_pylist() for name in ("text", config.history_text))
    return Catalogue(
        ids,
        encode(preparation.tokenizer, texts, limit=config.item_tokens),
        encode(preparation.tokenizer, history_texts, limit=config.history_item_tokens),
        pictures,
        has_picture,
        np.array([preparation.item_index.get(item, 0) for item in ids], np.int64),
        config.soft_width,
    )


def picture_width(table: pa.Table) -> int | None:
    """Width of the catalogue's picture vectors, None if it has none."""
    return max((len(picture) for picture in table.column("picture").to_pylist() if picture is not None), default=None)


def _pictures(column: Any, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    pictures, present = np.zeros((len(column), width), np.float32), np.zeros(len(column), np.bool_)
    for row, picture in enumerate(column.to_pylist()):
        if picture is not None:
            if len(picture) != width:
                rule = f"a picture vector of the trained width {width}"
                raise ContractViolation(ITEM_CATALOG.name, "picture", rule, row=row, value=f"width {len(picture)}")
            pictures[row], present[row] = picture, True
    if (odd := np.flatnonzero(~np.isfinite(pictures).all(axis=1))).size:
        row = int(odd[0])
        raise ContractViolation(ITEM_CATALOG.name, "picture", "finite numbers", row=row, value=column[row].as_py())
    return pictures, present


@dataclass(frozen=True)
class History:
    """One user's past, repeats merged: an item's catalogue row and its query's tokens for each event, oldest first."""

    items: Rows
    queries: list[Tokens]


def merge_repeats(items: Sequence[str], queries: Sequence[str]) -> tuple[list[str], list[str]]:
    """Consecutive events on one item as one event, with its distinct queries joined by commas."""
    merged_items: list[str] = []
    merged_queries: list[list[str]] = []
    for item, query in zip(items, queries, strict=True):
        if not merged_items or merged_items[-1] != item:
            merged_items.append(item)
            merged_queries.append([])
        if query.strip() and query not in merged_queries[-1]:
            merged_queries[-1].append(query)
    return merged_items, [", ".join(parts) for parts in merged_queries]


def read_histories(
    table: pa.Table | pa.RecordBatch, preparation: Preparation, row_of: Mapping[str, int]
) -> dict[str, History]:
    """Histories by user, from rows of `user_history`; events on items that the catalogue does not know are left out.

    They are as if they had never been, query and all: repeats on either side of them are consecutive.
    """
    known: list[tuple[str, list[int], list[str]]] = []
    columns = (table.column(name).to_pylist() for name in ("user_id", "item_ids", "queries"))
    for user, items, queries in zip(*columns, strict=True):
        kept = [(item, query) for item, query in zip(items, queries, strict=True) if item in row_of]
        merged, joined = merge_repeats([item for item, _ in kept], [query for _, query in kept])
        known.append((user, [row_of[item] for item in merged], joined))
    # Queries repeat between users, so each distinct one is tokenised once.
    distinct = {query: row for row, query in enumerate(sorted({query for _, _, texts in known for query in texts}))}
    tokens = encode(preparation.tokenizer, list(distinct), limit=preparation.config.query_tokens)
    return {
        user: History(np.array(items, np.int64), [tokens[distinct[query]] for query in queries])
        for user, items, queries in known
    }


@dataclass(frozen=True)
class HistorySequence:
    """Tokens of a history; `interests` are the positions of its `[INT]`s, that of the first kept event first."""

    tokens: Tokens
    interests: Rows
    first: int  # events before this one were dropped to stay within the budget


def history_sequence(
    items: Sequence[Tokens], queries: Sequence[Tokens], *, limit: int, opening: Sequence[int] = (QUERY,)
) -> HistorySequence:
    """The sequence of `items` and their `queries`, which end with one more: the current query, or no tokens.

    `opening` announces a query. Whole events are dropped, oldest first, until `limit` tokens hold the rest.
    """
    assert len(queries) == len(items) + 1
    heads = [np.array([*opening, *query, INT] if len(query) else [INT], np.int64) for query in queries]
    lengths = [len(head) + len(item) for head, item in zip(heads, items, strict=False)]
    room, first = limit - 1 - len(heads[-1]), len(items)
    while first and lengths[first - 1] <= room:
        first -= 1
        room -= lengths[first]
    pieces, interests, position = [np.array([BOS], np.int64)], [], 1
    for event in range(first, len(items)):
        interests.append(position + len(heads[event]) - 1)
        pieces += [heads[event], items[event]]
        position += lengths[event]
    interests.append(position + len(heads[-1]) - 1)
    return HistorySequence(np.concatenate([*pieces, heads[-1]]), np.array(interests, np.int64), first)


def latest_sequence(
    history: History, item_tokens: Ragged, *, limit: int, current_query: Tokens = EMPTY
) -> HistorySequence:
    """The sequence whose last `[INT]` is what the user wants next."""
    items = [item_tokens[int(row)] for row in history.items]
    return history_sequence(items, [*history.queries, current_query], limit=limit)


def padded(rows: Sequence[Tokens]) -> tuple[Tokens, Rows]:
    """Rows as `[rows, longest]`, padded on the right, and their lengths."""
    lengths = np.array([len(row) for row in rows], np.int64)
    block = np.full((len(rows), int(lengths.max())), PAD, np.int64)
    block[np.arange(block.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return block, lengths


def length_batches(lengths: Rows, *, tokens: int) -> Iterator[Rows]:
    """Row numbers in batches of similar length and at most `tokens` padded tokens, shortest rows first."""
    order, start = np.argsort(lengths, kind="stable"), 0
    while start < len(order):
        end = start + 1
        while end < len(order) and int(lengths[order[end]]) * (end + 1 - start) <= tokens:
            end += 1
        yield order[start:end]
        start = end

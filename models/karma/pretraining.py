"""Pre-training KARMA's language model on texts, before any action: to write them, and to find each by words of its own.

Actions alone learn what one of two sides already says: as long as neither the item's read-out nor the history's carries
a word, no gradient asks the other for it (models/LOG.md has what that costs). Matching breaks this before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.karma.compressed import SoftRows, compressed_sequence, query_inputs, used_rows
from models.karma.config import KarmaConfig
from models.karma.losses import action_loss, text_loss
from models.karma.network import Karma
from models.karma.text import (
    BOS,
    EMPTY,
    EOS,
    GEN,
    ITEM,
    PAD,
    QUERY,
    REC,
    Catalogue,
    Preparation,
    Ragged,
    Rows,
    Tokens,
    encode,
    history_sequence,
    padded,
)
from models.training import Fit, LoopConfig, fit, step_generator

BACKBONE = "backbone."
"""What the names of the language model's parameters begin with."""


def pretrain(
    network: Karma, texts: Ragged, catalogue: Catalogue, config: KarmaConfig, *, seed: int, checkpoint: Path | None
) -> Fit | None:
    """Teach the network to write `texts` and to match those of `catalogue`, stopping on held-out ones.

    None without any text.

    A text starts with `[BOS]`, `[GEN]` or `[REC]` at random: decoding later starts with one of the last two. Where
    histories are compressed, it also learns to write a text from that text's soft tokens: a history of soft tokens that
    say nothing yet teaches it to listen to none (measured: models/LOG.md).
    """
    learned, held_out = _split(len(texts), seed)
    if not len(learned):
        return None
    described = np.flatnonzero(catalogue.tokens.lengths)
    matched, asked = (described[part] for part in _split(len(described), seed))
    compressing = network.compressor is not None
    loop = LoopConfig(
        steps=config.pretraining_steps + (config.compression_steps if compressing else 0),
        learning_rate=config.pretraining_learning_rate,
        weight_decay=config.weight_decay,
        validate_every=config.validate_every,
        # soft tokens say nothing for some hundred steps: models/LOG.md
        patience=config.patience * (4 if compressing else 1),
        accumulate=config.accumulation,
        gentle=BACKBONE,
        gentle_share=config.backbone_learning_share,
    )

    def loss(rows: Rows, items: Rows, opening: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        written = _writing_loss(network, [texts[row] for row in rows], opening, generator=generator)
        items = np.unique(items)
        if not config.lambda_matching or len(items) < 2:  # one alone has nothing to be told from
            return written
        return written + config.lambda_matching * matching_loss(network, catalogue, items, config, generator=generator)

    def objective(step: int, generator: torch.Generator) -> Tensor:
        rows = _drawn(learned, config.pretraining_batch, generator)
        opening = _drawn(np.array([BOS, GEN, REC]), len(rows), generator)
        return loss(rows, _drawn(matched, config.pretraining_batch, generator), opening, generator)

    def validate() -> float:
        opening = np.full(len(held_out), BOS)
        return -float(loss(held_out, asked, opening, step_generator(seed, -1)))

    return fit(network, objective, validate, config=loop, seed=seed, checkpoint=checkpoint, label="karma pre-training")


def _split(count: int, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from, and at most 512 held out."""
    order = np.random.default_rng(seed).permutation(count)
    held_out, learned = np.split(order, [max(1, min(count // 20, 512))])
    return learned, held_out


def _drawn(rows: Rows, count: int, generator: torch.Generator) -> Rows:
    return rows[torch.randint(len(rows), (count,), generator=generator).numpy()] if len(rows) else rows


def matching_loss(
    network: Karma, catalogue: Catalogue, rows: Rows, config: KarmaConfig, *, generator: torch.Generator
) -> Tensor:
    """InfoNCE of the interest after a query of some words of an item's text, without a history, against the items.

    `rows` are distinct. Both read-outs learn to carry every word. Items of equal text are no negatives of each other;
    no ids are shown.
    """
    queries = [_words(catalogue.tokens[row], config.query_tokens, generator) for row in rows]
    inputs = {name: torch.from_numpy(value).to(network.device) for name, value in catalogue.inputs(rows).items()}
    id_index = torch.zeros_like(inputs.pop("id_index"))
    items = network.to_items(network.read_items(**inputs), id_index)
    texts = [catalogue.tokens[row].tobytes() for row in rows]
    _, code = np.unique(np.array(texts, dtype=object), return_inverse=True)
    same = torch.from_numpy((code[:, None] == code) & ~np.eye(len(rows), dtype=np.bool_)).to(network.device)
    own = torch.arange(len(rows), device=network.device)
    level = torch.zeros(len(rows), device=network.device)
    interests = _asked(network, queries, limit=config.history_limit)
    return action_loss(interests, items, own, scale=network.scale, log_q=level, masked=same).mean()


def _words(text: Tokens, most: int, generator: torch.Generator) -> Tokens:
    """One to `most` tokens of a text, in its order."""
    count = int(torch.randint(1, min(most, len(text)) + 1, (1,), generator=generator))
    chosen: Tokens = text[np.sort(torch.randperm(len(text), generator=generator)[:count].numpy())]
    return chosen


def _asked(network: Karma, queries: Sequence[Tokens], *, limit: int) -> Tensor:
    """Interests [N, d] of users without any event after a query each."""
    soft = None
    if network.compressor is None:
        sequences = [history_sequence([], [query], limit=limit).tokens for query in queries]
    else:
        rows = SoftRows.of(queries, items=0, width=network.read_outs)
        written = [compressed_sequence(EMPTY, [query], rows, limit=limit).tokens for query in queries]
        used = used_rows(written, rows, among=EMPTY)
        inputs = query_inputs(used.queries, soft_tokens=network.read_outs, picture_width=network.picture.in_features)
        none = torch.zeros(0, network.read_outs, network.width, device=network.device)
        on_device = {name: torch.from_numpy(value).to(network.device) for name, value in inputs.items()}
        soft = network.soft_table(none, on_device)
        sequences = used.sequences
    tokens, lengths = (torch.from_numpy(value).to(network.device) for value in padded(sequences))
    return network.encode_history(tokens, lengths, soft)


def _writing_loss(
    network: Karma, texts: Sequence[Tokens], opening: NDArray[np.int64], *, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of `texts` after `opening` [texts], and, in a compressed history, after their soft tokens."""
    given = torch.from_numpy(padded([np.array([start, *text]) for start, text in zip(opening, texts, strict=True)])[0])
    wanted = torch.from_numpy(padded([np.array([*text, EOS]) for text in texts])[0]).to(network.device)
    given = given.to(network.device)
    written = text_loss(network.read_history(given), network.vocabulary, wanted, padding=PAD)
    if network.compressor is None:
        return written
    closing = np.array([ITEM, QUERY])[torch.randint(2, (len(texts),), generator=generator).numpy()]
    width = network.picture.in_features
    inputs = query_inputs(texts, soft_tokens=network.read_outs, picture_width=width, closing=closing)
    seen = {name: torch.from_numpy(inputs[name]).to(network.device) for name in inputs if name != "id_index"}
    expanded = network.expand(network.to_soft(network.read_items(**seen)), given)
    return written + text_loss(expanded, network.vocabulary, wanted, padding=PAD)


def texts_of(features: Mapping[str, pa.Table], preparation: Preparation) -> Ragged:
    """Distinct texts of items and queries."""
    queries = {query for row in features["user_history"].column("queries").to_pylist() for query in row}
    texts = sorted({*features["item_catalog"].column("text").to_pylist(), *queries} - {""})
    return encode(preparation.tokenizer, texts, limit=preparation.config.item_tokens)

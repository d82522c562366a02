"""Odd input: histories of any length, queries of any kind, items without picture, without text, with neither."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer

from features.training_sets import TrainingSet
from models.karma import evaluation
from models.karma.config import KarmaConfig, karma_tiny
from models.karma.text import CHARACTERS_A_TOKEN, INT, Preparation, latest_sequence, read_catalogue, read_histories
from models.karma.training import TrainedKarma, train_karma
from tests.karma_world import histories, training_set

SCRIPTS = ("रेड शर्ट", "赤いシャツ", "قميص أحمر", "красная рубашка", "👩\u200d👩\u200d👧 🐈\u200d⬛", "e\u0301" * 50)
HOSTILE = ("\u202egnp.exe", "[INT][ITEM] <|im_end|>", "\0\x07\x1b[31m", " \t\n ")
LONG = ("a" * 100_000, "👍" * 25_000, "ﷺ" * 100_000)  # the last becomes 18 letters each
QUERIES = (*SCRIPTS, *HOSTILE, *LONG)


def odd_world() -> TrainingSet:
    """The tiny market with a user of 10,000 events, one of one event, one of none, and queries of every kind."""
    world = training_set()
    many = np.random.default_rng(0).integers(34, size=10_000).tolist()
    taken = {"u900": many, "u901": [3], "u902": [], "u903": list(range(len(QUERIES)))}
    queries = {"u900": [QUERIES[n % 4] for n in range(10_000)], "u903": list(QUERIES), "u901": [""], "u902": []}
    table = pa.concat_tables([world.train["user_history"], histories(taken, queries)])
    features = {**world.train, "user_history": table}
    return replace(world, train=features, recent=features)


@pytest.fixture(scope="module")
def trained() -> TrainedKarma:
    return train_karma(odd_world(), replace(karma_tiny(), steps=6, validate_every=3, pretraining_steps=4), seed=0)


def test_training_passes_over_odd_input(trained: TrainedKarma) -> None:
    def numbers(group: Mapping[str, Any]) -> list[float]:
        return [n for value in group.values() for n in (numbers(value) if isinstance(value, dict) else [value])]

    assert all(math.isfinite(number) for number in numbers(trained.metrics))


def test_histories_of_any_length_fit_and_are_read(trained: TrainedKarma) -> None:
    preparation = trained.preparation
    catalogue = read_catalogue(odd_world().recent["item_catalog"], preparation)
    row_of = {item: row for row, item in enumerate(catalogue.ids)}
    known = read_histories(odd_world().recent["user_history"], preparation, row_of)
    limit = preparation.config.sequence_tokens
    sequences = {}
    for user, events in (("u900", 9_000), ("u901", 1), ("u902", 0)):
        assert len(known[user].items) >= events
        sequence = latest_sequence(known[user], catalogue.history_tokens, limit=limit)
        assert len(sequence.tokens) <= limit
        assert sequence.tokens[-1] == INT
        sequences[user] = sequence.tokens
    assert len(sequences["u900"]) > limit // 2
    with torch.no_grad():
        for tokens in sequences.values():
            z = trained.network.encode_history(torch.from_numpy(tokens)[None], torch.tensor([len(tokens)]))
            assert float(z.norm()) == pytest.approx(1.0, abs=1e-5)
    # the newest events alone decide
    newest = replace(known["u900"], items=known["u900"].items[-limit:], queries=known["u900"].queries[-limit:])
    again = latest_sequence(newest, catalogue.history_tokens, limit=limit)
    assert np.array_equal(again.tokens, sequences["u900"])


class Counting:
    """A tokenizer that remembers the longest text that it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.longest = tokenizer, 0

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.longest = max(self.longest, *map(len, texts))
        return self.tokenizer.encode_batch_fast(texts, **options)


@pytest.mark.parametrize(
    ("long", "short"),
    [("red shirt " * 10_000, "red shirt " * 26), ("\t" * 100_000 + "red", ""), ("a\0" * 50_000, "a " * 130)],
)
def test_of_a_query_as_long_as_a_book_only_the_start_is_tokenised(trained: TrainedKarma, long: str, short: str) -> None:
    def read(query: str, preparation: Preparation) -> list[int]:
        table = histories({"u000": [1]}, {"u000": [query]})
        return read_histories(table, preparation, {"i001": 0})["u000"].queries[0].tolist()

    counting = Counting(trained.preparation.tokenizer)
    found = read(long, replace(trained.preparation, tokenizer=counting))  # type: ignore[arg-type]
    assert found == read(short, trained.preparation)
    assert counting.longest <= CHARACTERS_A_TOKEN * trained.preparation.config.query_tokens


def test_an_item_without_picture_text_or_both_has_an_embedding_of_its_own_kind(trained: TrainedKarma) -> None:
    catalogue = read_catalogue(odd_world().recent["item_catalog"], trained.preparation)
    cold = replace(catalogue, id_index=np.zeros_like(catalogue.id_index))
    with torch.no_grad():
        vectors = evaluation.encode_catalogue(trained.network, cold)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    bare = np.array([len(catalogue.tokens[row]) == 0 for row in range(len(catalogue))])
    neither = vectors[bare & ~catalogue.has_picture]
    picture_alone = vectors[bare & catalogue.has_picture]
    text_alone = vectors[~bare & ~catalogue.has_picture]
    assert min(len(neither), len(picture_alone), len(text_alone)) > 0
    assert np.ptp(neither, axis=0).max() < 1e-6, "nothing tells them apart but an id"
    assert np.abs(picture_alone - neither[0]).max(axis=1).min() > 1e-3
    assert np.abs(text_alone - neither[0]).max(axis=1).min() > 1e-3


def test_a_catalogue_without_any_text_or_picture_trains_on_ids(trained: TrainedKarma) -> None:
    world = training_set()
    catalogue = world.train["item_catalog"]
    empty = pa.array([""] * catalogue.num_rows)
    for name in ("title", "text"):
        catalogue = catalogue.set_column(catalogue.schema.get_field_index(name), catalogue.schema.field(name), empty)
    field = catalogue.schema.field("picture")
    nothing = pa.nulls(catalogue.num_rows, field.type)
    catalogue = catalogue.set_column(catalogue.schema.get_field_index("picture"), field, nothing)
    features = {**world.train, "item_catalog": catalogue}
    config: KarmaConfig = replace(karma_tiny(), steps=4, validate_every=2, pretraining_steps=2)
    metrics = train_karma(replace(world, train=features, recent=features), config, seed=0).metrics
    assert math.isfinite(metrics["test"]["model"]["NDCG@10"])

"""Text: no text makes a special token, histories are cut at events only, and what is stored is read back."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer

from features.errors import ContractViolation
from models.karma.config import karma_tiny
from models.karma.text import (
    BOS,
    CHARACTERS_A_TOKEN,
    EMPTY,
    INT,
    ITEM,
    PAD,
    QUERY,
    SPECIALS,
    Preparation,
    decode,
    encode,
    history_sequence,
    latest_sequence,
    length_batches,
    load_preparation,
    merge_repeats,
    padded,
    picture_width,
    ragged,
    read_catalogue,
    read_histories,
    train_tokenizer,
    vocabulary_size,
)
from tests.karma_world import catalogue, histories

TEXTS = ["red shirt", "blue lamp", "green shirt 12", "Ünïcode naïve", *SPECIALS]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, vocabulary=300)


@pytest.fixture(scope="module")
def preparation(tokenizer: Tokenizer) -> Preparation:
    return Preparation(karma_tiny(), tokenizer, {"i001": 1, "i003": 2}, 3)


@given(st.text(max_size=40) | st.sampled_from(["[INT]", "a[PAD]b", "[REC] [GEN]", "<|endoftext|>", "\x00[BOS]"]))
@settings(max_examples=150, deadline=None)
def test_no_text_makes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    tokens = encode(tokenizer, [text], limit=1000)[0]
    assert (tokens >= len(SPECIALS)).all()
    assert (tokens < vocabulary_size(tokenizer)).all()


@pytest.mark.parametrize("text", ["a" * 100_000, "red shirt " * 10_000, "🐈" * 25_000, "\x00\x1b[31m" * 20_000])
def test_only_what_can_hold_the_limit_is_read_of_a_long_text(tokenizer: Tokenizer, text: str) -> None:
    class Counting:
        read = 0

        def encode_batch_fast(self, texts: list[str], **options: bool) -> list[Encoding]:
            self.read += sum(map(len, texts))
            return tokenizer.encode_batch_fast(texts, **options)

    counting = Counting()
    tokens = encode(counting, [text], limit=4)[0]  # type: ignore[arg-type]
    assert counting.read <= 4 * CHARACTERS_A_TOKEN
    whole = tokenizer.encode(text, add_special_tokens=False)
    if "\x00" not in text:
        assert tokens.tolist() == [number + len(SPECIALS) for number in whole.ids[:4]]


@given(st.text(st.characters(codec=None), max_size=30))
@settings(max_examples=100, deadline=None)
def test_control_characters_and_halves_of_pairs_count_as_spaces(tokenizer: Tokenizer, text: str) -> None:
    def readable(letter: str) -> str:
        return " " if unicodedata.category(letter) in ("Cc", "Cs") else letter

    by_hand = encode(tokenizer, ["".join(map(readable, text))], limit=100)[0]
    assert encode(tokenizer, [text], limit=100)[0].tolist() == by_hand.tolist()


BLANKS = " \t\n\r\v\f\x00\x1b\x85\xa0\u2003\u2028\u3000\ud800"
blanks = st.text(BLANKS, min_size=1, max_size=12)


@given(st.lists(st.text("abz é猫🐈-,12", min_size=1).filter(str.strip), min_size=1, max_size=5), st.data())
@settings(max_examples=150, deadline=None)
def test_blanks_between_words_are_one_space_and_around_them_nothing(
    tokenizer: Tokenizer, words: list[str], data: st.DataObject
) -> None:
    plain = " ".join(" ".join(words).split())
    separated = [piece for word in plain.split() for piece in (data.draw(blanks), word)]
    text = "".join([*(separated if data.draw(st.booleans()) else separated[1:]), data.draw(blanks)])
    for limit in (4, 100):
        tokens = encode(tokenizer, [text], limit=limit)[0].tolist()
        assert tokens == encode(tokenizer, [plain], limit=limit)[0].tolist()
        unread = tokenizer.encode(plain, add_special_tokens=False).ids[:limit]
        assert tokens == [number + len(SPECIALS) for number in unread], "a text in order is encoded as it is"


@pytest.mark.parametrize("text", ["\t" * 5 + "red shirt", " " * 5000 + "red shirt", "red" + " " * 5000 + "shirt\0\0"])
def test_padding_takes_no_tokens_from_a_query(tokenizer: Tokenizer, text: str) -> None:
    assert encode(tokenizer, [text], limit=4)[0].tolist() == encode(tokenizer, ["red shirt"], limit=4)[0].tolist()


@pytest.mark.parametrize("text", [" " * 1000, "\0\t\n" * 50_000, "\u3000", ""])
def test_nothing_but_blanks_is_no_text(tokenizer: Tokenizer, text: str) -> None:
    assert encode(tokenizer, [text], limit=4).lengths.tolist() == [0]


def test_decoding_gives_the_text_back_in_lower_case(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, ["Red SHIRT, naïve"], limit=1000)[0]
    assert decode(tokenizer, np.concatenate([[BOS, INT], tokens, [PAD]])) == "red shirt, naïve"


def test_encoding_stops_at_the_limit_and_keeps_empty_texts(tokenizer: Tokenizer) -> None:
    rows = encode(tokenizer, ["red shirt red shirt red shirt", "", "lamp"], limit=2)
    assert [len(rows[row]) for row in range(3)] == list(rows.lengths)
    assert rows.lengths[0] == 2
    assert rows.lengths[1] == 0


def test_the_tokenizer_is_the_same_in_every_process(tokenizer: Tokenizer) -> None:
    program = (
        f"from models.karma.text import train_tokenizer; print(train_tokenizer({TEXTS!r}, vocabulary=300).to_str())"
    )
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", program]
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert Tokenizer.from_str(again).to_str() == tokenizer.to_str()


@pytest.mark.parametrize(
    ("items", "queries", "expected"),
    [
        ([], [], ([], [])),
        (["a", "b"], ["x", ""], (["a", "b"], ["x", ""])),
        (["a", "a", "b", "a"], ["x", "y", "", "x"], (["a", "b", "a"], ["x, y", "", "x"])),
        (["a", "a", "a"], ["x", "x", ""], (["a"], ["x"])),
        (["a", "a"], ["   ", "x"], (["a"], ["x"])),
    ],
)
def test_consecutive_repeats_become_one_event(
    items: list[str], queries: list[str], expected: tuple[list[str], list[str]]
) -> None:
    assert merge_repeats(items, queries) == expected


tokens = st.lists(st.integers(10, 99), max_size=5).map(lambda values: np.array(values, np.int64))


@given(st.lists(st.tuples(tokens, tokens), max_size=8), tokens, st.integers(16, 40))
@settings(max_examples=150, deadline=None)
def test_a_history_is_cut_at_an_event_and_holds_as_many_as_fit(
    events: list[tuple[np.ndarray, np.ndarray]], current: np.ndarray, limit: int
) -> None:
    def written(query: np.ndarray) -> list[int]:
        return [QUERY, *query, INT] if len(query) else [INT]

    def whole(first: int) -> list[int]:
        past = [token for query, item in events[first:] for token in (*written(query), *item)]
        return [BOS, *past, *written(current)]

    items, queries = [item for _, item in events], [*(query for query, _ in events), current]
    sequence = history_sequence(items, queries, limit=limit)
    fitting = [first for first in range(len(events) + 1) if len(whole(first)) <= limit]
    assert sequence.first == min(fitting)
    assert sequence.tokens.tolist() == whole(sequence.first)
    assert sequence.interests.tolist() == [n for n, token in enumerate(sequence.tokens) if token == INT]


def test_an_empty_history_is_two_tokens() -> None:
    assert history_sequence([], [EMPTY], limit=16).tokens.tolist() == [BOS, INT]


def test_histories_know_catalogue_rows_and_leave_unknown_items_out(preparation: Preparation) -> None:
    table = histories({"u": [1, 1, 99, 2], "v": []}, {"u": ["red", "red", "", "blue"], "v": []})
    known = read_histories(table, preparation, {"i001": 0, "i002": 1})
    assert known["u"].items.tolist() == [0, 1]
    assert [decode(preparation.tokenizer, query) for query in known["u"].queries] == ["red", "blue"]
    assert len(known["v"].items) == 0


events = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "red", "blue", "red lamp"])), max_size=8)


@given(events)
@settings(max_examples=80, deadline=None)
def test_events_on_items_that_are_gone_leave_no_trace(preparation: Preparation, events: list[tuple[int, str]]) -> None:
    def read(events: list[tuple[int, str]]) -> tuple[list[int], list[list[int]]]:
        table = histories({"u": [item for item, _ in events]}, {"u": [query for _, query in events]})
        history = read_histories(table, preparation, {"i001": 7, "i002": 5, "i003": 3})["u"]
        return history.items.tolist(), [query.tolist() for query in history.queries]

    assert read(events) == read([event for event in events if event[0] != 0])


def test_the_latest_sequence_ends_with_the_current_query(preparation: Preparation) -> None:
    prepared = read_catalogue(catalogue(), preparation)
    history = read_histories(histories({"u": [1, 2]}), preparation, {"i001": 1, "i002": 2})["u"]
    query = encode(preparation.tokenizer, ["red"], limit=2)[0]
    plain = latest_sequence(history, prepared.history_tokens, limit=48)
    asked = latest_sequence(history, prepared.history_tokens, limit=48, current_query=query)
    assert asked.tokens.tolist() == [*plain.tokens[:-1], QUERY, *query, INT]


def test_catalogue_inputs(preparation: Preparation) -> None:
    prepared = read_catalogue(catalogue(), preparation)
    inputs = prepared.inputs(np.array([1, 5, 6]))
    assert inputs["id_index"].tolist() == [1, 0, 0]
    assert inputs["has_picture"].tolist() == [True, False, True]
    assert inputs["picture"].dtype == np.float32
    assert inputs["lengths"][2] == 1, "an item without text is [ITEM] alone"
    assert (inputs["token_ids"][np.arange(3), inputs["lengths"] - 1] == ITEM).all()


def test_a_picture_of_another_width_is_refused(preparation: Preparation) -> None:
    with pytest.raises(ContractViolation, match="width 3"):
        read_catalogue(catalogue(), replace(preparation, picture_width=4))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_picture_that_is_not_finite_is_refused_with_its_row(preparation: Preparation, odd: float) -> None:
    table = catalogue(4)
    pictures = table["picture"].to_pylist()
    pictures[2] = [0.0, odd, 1.0]
    field = table.schema.field("picture")
    broken = table.set_column(table.schema.get_field_index("picture"), field, pa.array(pictures, field.type))
    with pytest.raises(ContractViolation, match=r"row 2: expected finite numbers"):
        read_catalogue(broken, preparation)


def test_to_a_model_trained_without_pictures_the_first_ones_are_absent(preparation: Preparation) -> None:
    assert picture_width(catalogue().slice(0, 1)) is None
    blind = replace(preparation, picture_width=1, has_pictures=False)
    known = read_catalogue(catalogue(), blind)
    assert not known.has_picture.any()
    assert known.pictures.shape == (len(known), 1)


def test_what_is_stored_is_read_back(preparation: Preparation, tmp_path: Path) -> None:
    preparation.save(tmp_path)
    again = load_preparation(tmp_path)
    assert again.config == preparation.config
    assert (again.item_index, again.picture_width) == (preparation.item_index, preparation.picture_width)
    assert again.has_pictures
    replace(preparation, has_pictures=False).save(tmp_path)
    assert not load_preparation(tmp_path).has_pictures
    assert again.tokenizer.to_str() == preparation.tokenizer.to_str()


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 64))
@settings(max_examples=80, deadline=None)
def test_length_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(length_batches(np.array(lengths, np.int64), tokens=budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


def test_padding_and_ragged_rows() -> None:
    rows = [np.array(row, np.int64) for row in ([5, 6, 7], [8], [])]
    block, lengths = padded(rows)
    assert block.tolist() == [[5, 6, 7], [8, PAD, PAD], [PAD, PAD, PAD]]
    assert lengths.tolist() == [3, 1, 0]
    assert [ragged(rows)[row].tolist() for row in range(3)] == [[5, 6, 7], [8], []]

"""Decoding from z alone, and what the decoded text is compared by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.karma.config import karma_tiny
from models.karma.evaluation import token_accuracy
from models.karma.fidelity import contains, decode_greedily, decoded_fidelity, probe, rouge_l, said, words
from models.karma.text import EOS, REC, decode
from models.karma.training import TrainedKarma, World, read_world, train_karma
from tests.karma_world import training_set


@pytest.fixture(scope="module")
def trained() -> TrainedKarma:
    return train_karma(training_set(), replace(karma_tiny(), steps=10), seed=0)


@pytest.fixture(scope="module")
def world(trained: TrainedKarma) -> World:
    return read_world(training_set().train, trained.preparation)


def some_interests(count: int, width: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_greedy_decoding_takes_the_likeliest_token_one_by_one(trained: TrainedKarma) -> None:
    network, z = trained.network, some_interests(5, trained.preparation.config.embedding)
    for text, vector in zip(decode_greedily(network, z, limit=6), z, strict=True):
        written = [REC]
        with torch.no_grad():
            while len(written) < 7:
                states = network.reconstruct(torch.from_numpy(vector[None]), torch.tensor([written]))
                following = int((states[0, -1] @ network.decoding_vocabulary().T).argmax())
                if following == EOS:
                    break
                written.append(following)
        assert text.tolist() == written[1:]


def test_token_accuracy_counts_text_and_its_end_alone(trained: TrainedKarma, world: World) -> None:
    network, items = trained.network, np.array([0, 3, 5])
    z = some_interests(3, trained.preparation.config.embedding)
    right = total = 0
    for vector, item in zip(z, items, strict=True):
        text = world.catalogue.tokens[int(item)].tolist()
        with torch.no_grad():
            states = network.reconstruct(torch.from_numpy(vector[None]), torch.tensor([[REC, *text]]))
        guessed = (states[0] @ network.decoding_vocabulary().T).argmax(dim=-1).tolist()
        right += sum(a == b for a, b in zip(guessed, [*text, EOS], strict=True))
        total += len(text) + 1
    assert token_accuracy(network, world.catalogue, z, items) == pytest.approx(right / total)


def longest_common(one: list[str], other: list[str]) -> int:
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + longest_common(one[1:], other[1:])
    return max(longest_common(one[1:], other), longest_common(one, other[1:]))


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.lists(st.sampled_from("abc"), min_size=1, max_size=6)
)
def test_rouge_l_is_the_harmonic_mean_of_its_two_shares(one: list[str], other: list[str]) -> None:
    common = longest_common(one, other)
    precision, recall = common / len(one), common / len(other)
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    assert rouge_l(" ".join(one), ", ".join(other).upper()) == pytest.approx(expected)


def test_rouge_l_of_nothing() -> None:
    assert rouge_l("", "") == 1.0
    assert rouge_l("", "red shirt") == rouge_l("red shirt", "; ,") == 0.0
    assert (rouge_l("🙂", "🙂 "), rouge_l("🙂", "😡")) == (1.0, 0.0)


def test_words_of_any_script_are_whole() -> None:
    assert words("Rock, indie; caf\u0065\u0301 x_1") == ["rock", "indie", "café", "x_1"]
    assert words("हिन्दी किताब") == ["हिन्दी", "किताब"]
    assert words("น้ำ") == ["น้ำ"]
    assert words("می\u200cخواهم; 🙂") == ["می\u200cخواهم"]


def test_phrases_are_found_as_whole_words() -> None:
    assert contains("shirt; red, indie rock; Red shirt", "indie rock")
    assert contains("A Caps lock", "caps")
    assert not contains("capsule; rock, indie", "caps")
    assert not contains("rock, indie", "indie rock")
    assert not contains("", "!!")
    assert said(["blue lamp", "a lamp", "Green, RED"], ["red", "blue"]) == ["blue", None, "red"]


def test_decoded_attributes_are_those_of_the_items_own_text(
    trained: TrainedKarma, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded is given: each item's own text, then another item's."""
    items, width = np.arange(4), trained.preparation.config.embedding
    own = [world.catalogue.tokens[int(row)] for row in items]
    kinds: list[str | None] = [words(decode(trained.preparation.tokenizer, text))[-1] for text in own]
    assert len(set(kinds)) > 1
    kinds[3] = None

    def told(texts: list[np.ndarray]) -> dict[str, float]:
        monkeypatch.setattr("models.karma.fidelity.decode_greedily", lambda *_, limit: texts)
        interests = some_interests(4, width)
        return decoded_fidelity(
            trained.network, trained.preparation, world.catalogue, interests, items, {"kind": kinds}
        )

    right = told(own)
    assert (right["says_kind"], right["rouge_l"]) == (1.0, 1.0)
    rolled = [*own[1:], own[0]]
    said_of = [words(decode(trained.preparation.tokenizer, text)) for text in rolled]
    found = [kind in said for kind, said in zip(kinds, said_of, strict=True) if kind]
    wrong = told(rolled)
    assert wrong["says_kind"] == pytest.approx(np.mean(found))
    assert wrong["says_kind"] < 1.0
    assert wrong["rouge_l"] < 1.0


def test_decoded_attributes_count_where_the_item_has_one(trained: TrainedKarma, world: World) -> None:
    items, width = np.arange(4), trained.preparation.config.embedding
    kinds = ["shirt", None, "no such thing", None]
    told = decoded_fidelity(
        trained.network, trained.preparation, world.catalogue, some_interests(4, width), items, {"kind": kinds}
    )
    assert told["says_kind"] in (0.0, 0.5)
    assert 0.0 <= told["rouge_l"] <= 1.0
    nobody = {"kind": [None] * 4}
    told = decoded_fidelity(
        trained.network, trained.preparation, world.catalogue, some_interests(4, width), items, nobody
    )
    assert "says_kind" not in told


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    classes = [["red", "blue", "green", None][code] for code in rng.integers(4, size=400)]
    directions = {"red": [1, 0, 0], "blue": [0, 1, 0], "green": [0, 0, 1], None: [0, 0, 0]}
    z = np.array([directions[name] for name in classes]) + rng.normal(scale=0.1, size=(400, 3))
    told = probe(z[:200], classes[:200], z[200:], classes[200:])
    assert told is not None
    assert told["accuracy"] > 0.98
    assert told["shuffled"] < 0.5
    noise = probe(rng.normal(size=(200, 3)), classes[:200], z[200:], classes[200:])
    assert noise is not None
    assert noise["accuracy"] < 0.6
    assert probe(z, ["red"] * 400, z, classes) is None

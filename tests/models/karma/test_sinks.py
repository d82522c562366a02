"""Measures of collapse against the few lines that define them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.karma.compressed import FIRST_SOFT
from models.karma.config import karma_tiny
from models.karma.evaluation import Readable
from models.karma.network import Karma, causal
from models.karma.sinks import (
    EPSILON,
    KINDS,
    LATER,
    attention_of,
    collapse_of,
    effective_rank,
    kinds_of,
    received,
    row_entropy,
)
from models.karma.text import BOS, INT, QUERY, Tokens
from tests.backbone_checkpoints import write_checkpoint


def network(*, seed: int = 0) -> Karma:
    torch.manual_seed(seed)
    return Karma(karma_tiny(), vocabulary=300, items=4, picture_width=1).eval()


def history(length: int, seed: int = 0) -> Tokens:
    """`length` tokens of events with one-word queries and two-word items."""
    words = np.random.default_rng(seed).integers(8, 300, length)
    pattern = [QUERY, 0, INT, 0, 0]
    marks = np.array([BOS, *(pattern * length)][:length])
    return np.where(marks == 0, words, marks)


def some_attention(rng: np.random.Generator, length: int) -> np.ndarray:
    weights = np.tril(rng.gamma(0.3, size=(2, 3, length, length)) + 1e-9)
    return weights / weights.sum(axis=-1, keepdims=True)


@given(seed=st.integers(0, 50), length=st.integers(2, 9))
def test_received_is_the_mean_over_the_queries_from_the_key_on(seed: int, length: int) -> None:
    weights = some_attention(np.random.default_rng(seed), length)
    for key in range(length):
        expected = weights[:, :, key:, key].mean(axis=-1)
        np.testing.assert_allclose(received(weights)[..., key], expected)


@given(seed=st.integers(0, 50), length=st.integers(2, 9))
def test_entropy_is_a_share_of_the_most_there_can_be(seed: int, length: int) -> None:
    weights = some_attention(np.random.default_rng(seed), length)
    for query in range(1, length):
        row = weights[1, 2, query, : query + 1]
        expected = -sum(p * math.log(p) for p in row) / math.log(query + 1)
        assert math.isclose(row_entropy(weights)[1, 2, query - 1], expected, abs_tol=1e-9)


def test_entropy_is_one_without_choice_and_zero_with_one_key() -> None:
    even = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]
    np.testing.assert_allclose(row_entropy(even), 1.0)
    first = np.zeros((5, 5))
    first[:, 0] = 1.0
    np.testing.assert_allclose(row_entropy(first), 0.0)


def test_attention_is_what_the_network_computes() -> None:
    """Weights by hand from the first layer's own projections; and the states are those of the fused kernels."""
    model, tokens = network(), history(20)
    weights = attention_of(model, tokens)
    assert weights.shape == (2, 2, 20, 20)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    assert np.all(weights[..., np.triu_indices(20, 1)[0], np.triu_indices(20, 1)[1]] == 0)
    layer, ids = model.backbone.layers[0], torch.from_numpy(tokens)[None]
    mask, positions = causal(20, ids)
    with torch.no_grad():
        normed = layer.input_layernorm(model.embed(ids))
        attention = layer.self_attn
        q = attention.q_norm(attention.q_proj(normed).view(1, 20, 2, -1)).transpose(1, 2)
        k = attention.k_norm(attention.k_proj(normed).view(1, 20, 2, -1)).transpose(1, 2)
        cosine, sine = model.backbone.rotary_emb(normed, positions)
        half = q.shape[-1] // 2

        def turned(x: torch.Tensor) -> torch.Tensor:
            return x * cosine[:, None] + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sine[:, None]

        scores = turned(q) @ turned(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
        expected = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)[0]
    np.testing.assert_allclose(weights[0], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_pre_trained_backbone_is_measured_like_the_built_in(tmp_path: Path, family: str) -> None:
    config = replace(karma_tiny(), backbone=str(write_checkpoint(tmp_path / family, family)))
    torch.manual_seed(0)
    model = Karma(config, vocabulary=280, items=4, picture_width=1).eval()
    tokens = np.minimum(history(30), 279)
    ids = torch.from_numpy(tokens)[None]
    with torch.no_grad():
        before = model.read_history(ids)
        weights = attention_of(model, tokens)
        assert torch.equal(model.read_history(ids), before)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(np.triu(weights, k=1), 0.0)
    strongest = received(weights)[..., : len(tokens) - LATER + 1].max(axis=-1)
    np.testing.assert_allclose(collapse_of(model, Readable([tokens], None, None)).strongest, strongest)


def test_measuring_leaves_the_network_as_it_was() -> None:
    model, ids = network(), torch.from_numpy(history(20))[None]
    with torch.no_grad():
        before = model.read_history(ids)
        attention_of(model, history(20))
        assert torch.equal(model.read_history(ids), before)


def test_kinds_follow_the_marks() -> None:
    tokens = np.array([BOS, QUERY, 50, 51, INT, 60, INT, 61, 62, QUERY, 52, INT])
    told = [KINDS[kind] for kind in kinds_of(tokens)]
    mark, query, item = KINDS
    assert told == [mark, mark, query, query, mark, item, mark, item, item, mark, query, mark]


def test_collapse_against_its_definition() -> None:
    model, tokens = network(seed=3), history(30)
    measured, weights = collapse_of(model, Readable([tokens, tokens[:5]], None, None)), attention_of(model, tokens)
    shares = np.array([[weights[a, b, k:, k].mean() for k in range(15)] for a in range(2) for b in range(2)])
    np.testing.assert_allclose(measured.strongest.ravel(), shares.max(axis=1))
    np.testing.assert_array_equal(measured.sink_share.ravel(), shares.max(axis=1) > EPSILON)
    np.testing.assert_array_equal(measured.first_key.ravel(), shares[:, 0] > EPSILON)
    reads = np.flatnonzero(tokens == INT)
    items = np.flatnonzero(kinds_of(tokens) == KINDS.index("item"))
    np.testing.assert_allclose(measured.on["item"], weights[:, :, reads][..., items].sum(axis=-1).mean(axis=-1))
    assert math.isclose(sum(measured.tokens.values()), 1.0)
    expected = np.mean([np.isin(np.arange(read + 1), items).mean() for read in reads])
    assert math.isclose(measured.tokens["item"], expected)


def test_collapse_of_compressed_histories_is_that_of_their_soft_tokens() -> None:
    torch.manual_seed(2)
    model = Karma(replace(karma_tiny(), history="compressed"), vocabulary=300, items=4, picture_width=1).eval()
    soft = torch.randn(7, model.width)  # of five items, then of two queries
    item, query = (FIRST_SOFT + np.arange(count) for count in (5, 2))
    tokens = np.array([BOS, *np.tile([query[0] + 5, INT, item[3], INT, item[0], query[1] + 5, INT, item[4]], 3), INT])
    kinds = kinds_of(tokens, soft_items=5)
    assert [KINDS[kind] for kind in kinds[:9]] == [
        "mark",
        "query",
        "mark",
        "item",
        "mark",
        "item",
        "query",
        "mark",
        "item",
    ]
    measured, weights = collapse_of(model, Readable([tokens], soft, 5)), attention_of(model, tokens, soft)
    reads = np.flatnonzero(tokens == INT)
    for number, kind in enumerate(KINDS):
        on = weights[:, :, reads][..., kinds == number].sum(axis=-1).mean(axis=-1)
        np.testing.assert_allclose(measured.on[kind], on)
    moved = attention_of(model, tokens, soft.flip(0))
    assert not np.allclose(moved, weights), "it is the soft tokens that are attended to"


def test_a_sink_is_seen() -> None:
    """Keys that all queries look at: the measure is what tells them, whatever the weights of a real network."""
    weights = np.zeros((1, 1, 40, 40))
    weights[..., 0] = 0.6
    weights[..., np.arange(40), np.arange(40)] += 0.4
    shares = received(weights)[0, 0]
    assert shares[0] > 0.6
    assert (shares[: 40 - LATER + 1] > EPSILON).sum() == 1


def test_histories_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 tokens"):
        collapse_of(network(), Readable([history(5)], None, None))


def test_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    assert effective_rank(np.eye(7)) == pytest.approx(7.0)
    assert effective_rank(np.outer(rng.normal(size=9), rng.normal(size=5))) == pytest.approx(1.0, abs=1e-3)
    vectors = rng.normal(size=(50, 4)) * [1, 1, 0.1, 0.01]
    values = np.linalg.svd(vectors)[1]
    shares = [value / sum(values) for value in values]
    assert effective_rank(vectors) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))

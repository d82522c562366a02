"""Compressed histories: read through a cache as if encoded in place, cut at events, learned through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.karma import evaluation
from models.karma.batches import Sampler
from models.karma.compressed import (
    FIRST_SOFT,
    SoftRows,
    compressed_sequence,
    latest_histories,
    query_inputs,
    used_rows,
)
from models.karma.config import KarmaConfig, karma_tiny
from models.karma.losses import text_loss
from models.karma.network import Karma, causal
from models.karma.pretraining import pretrain
from models.karma.text import BOS, EMPTY, EOS, INT, ITEM, PAD, QUERY, REC, History, Tokens, padded, vocabulary_size
from models.karma.training import World, karma_loss, prepare, read_world, train_karma
from models.training import step_generator
from tests.karma_world import histories, training_set

CONFIG = replace(karma_tiny(), history="compressed", compressed_tokens=2, compressed_sequence_tokens=20)


def world_of(config: KarmaConfig) -> tuple[World, Karma]:
    """A world of long and short histories, and a network."""
    taken = {"long": list(range(30)), "short": [6, 5], "bare": [6]}  # i006 has no text, i005 no picture
    features = {"item_catalog": training_set().train["item_catalog"], "user_history": histories(taken)}
    preparation = prepare(features, config)
    world = read_world(features, preparation)
    torch.manual_seed(0)
    size = vocabulary_size(preparation.tokenizer)
    network = Karma(config, vocabulary=size, items=len(preparation.item_index), picture_width=3)
    return world, network.eval()


@pytest.fixture(scope="module")
def made() -> tuple[World, Karma]:
    return world_of(CONFIG)


def in_place(network: Karma, text: Tokens, closing: int, picture: np.ndarray | None) -> Tensor:
    """The soft tokens [K, H] of one text, alone and without padding."""
    width = network.read_outs
    ids = torch.tensor([[*text.tolist(), *[closing] * width]])
    first = network.no_picture if picture is None else network.picture(torch.from_numpy(picture))
    embeddings = torch.cat([first[None, None], network.embed(ids)], dim=1)
    states = network.read(embeddings, *causal(embeddings.shape[1], embeddings))[0, -width:]
    assert network.compressor is not None
    soft: Tensor = network.compressor(states)
    return soft


def literal(world: World, network: Karma, past: History, current: Tokens, *, limit: int) -> Tensor:
    """z [d] of one history, each event encoded where it stands; events from the last one back, while they fit."""
    catalogue, mark = world.catalogue, lambda token: network.embed(torch.tensor([token]))

    def asked(query: Tokens) -> list[Tensor]:
        return [*([in_place(network, query, QUERY, None)] if len(query) else []), mark(INT)]

    pieces = asked(current)
    for item, query in zip(past.items[::-1].tolist(), past.queries[::-1], strict=True):
        picture = catalogue.pictures[item] if catalogue.has_picture[item] else None
        event = [*asked(query), in_place(network, catalogue.tokens[item], ITEM, picture)]
        if 1 + sum(len(piece) for piece in [*event, *pieces]) > limit:
            break
        pieces = [*event, *pieces]
    embeddings = torch.cat([mark(BOS), *pieces])[None]
    return network.to_interest(network.read(embeddings, *causal(embeddings.shape[1], embeddings))[:, -1])[0]


def test_a_history_read_through_the_table_is_one_encoded_in_place(made: tuple[World, Karma]) -> None:
    world, network = made
    pasts = [*world.histories.values(), History(EMPTY, [])]
    unknown = np.array([20, 30, 9], np.int64)  # a query that no history has
    with torch.no_grad():
        for current in (EMPTY, unknown):
            read = latest_histories(pasts, [current] * len(pasts), world.catalogue, limit=CONFIG.history_limit)
            vectors = torch.from_numpy(evaluation.encode_users(network, read))
            for past, vector in zip(pasts, vectors, strict=True):
                expected = literal(world, network, past, current, limit=CONFIG.history_limit)
                assert torch.allclose(vector, expected, atol=1e-5)
    assert max(len(sequence) for sequence in read.sequences) <= CONFIG.history_limit
    assert read.sequences[-1].tolist() == [BOS, *read.sequences[-1][1:-1], INT]


def test_an_empty_history_is_its_marks() -> None:
    rows = SoftRows.of([], items=3, width=1)
    sequence = compressed_sequence(np.empty(0, np.int64), [EMPTY], rows, limit=20)
    assert (sequence.tokens.tolist(), sequence.interests.tolist(), sequence.first) == ([BOS, INT], [1], 0)
    assert used_rows([sequence.tokens], rows).sequences[0].tolist() == [BOS, INT]
    assert used_rows([], rows).sequences == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12), st.integers(1, 3), st.integers(12, 60))
@settings(max_examples=100, deadline=None)
def test_histories_are_cut_at_events_and_used_rows_name_the_same(
    events: list[tuple[int, int]], width: int, limit: int
) -> None:
    texts = [EMPTY, *(np.array([20 + query], np.int64) for query in range(3))]
    items, queries = np.array([item for item, _ in events], np.int64), [texts[query] for _, query in events]
    rows = SoftRows.of(queries, items=5, width=width)
    sequence = compressed_sequence(items, [*queries, EMPTY], rows, limit=limit)
    tokens = sequence.tokens
    assert len(tokens) <= max(limit, 2)
    assert (tokens[sequence.interests] == INT).all()
    kept = [rows.item(int(item)).tolist() for item in items[sequence.first :]]
    asked = [rows.query(query).tolist() for query in queries[sequence.first :]]
    expected = [BOS, *(t for query, item in zip(asked, kept, strict=True) for t in (*query, INT, *item)), INT]
    assert tokens.tolist() == expected
    if sequence.first:
        dropped = sequence.first - 1
        longer = len(tokens) + 1 + width + len(rows.query(queries[dropped]))
        assert longer > limit
    used = used_rows([tokens], rows)
    table = [("item", int(row)) for row in used.items] + [("query", int(query[0])) for query in used.queries]
    full = [("item", row) for row in range(5)] + [("query", int(query[0])) for query in rows.queries]

    def named(token: int, entries: list[tuple[str, int]]) -> object:
        return token if token < FIRST_SOFT else (entries[(token - FIRST_SOFT) // width], (token - FIRST_SOFT) % width)

    assert [named(t, table) for t in used.sequences[0].tolist()] == [named(t, full) for t in tokens.tolist()]


def test_a_batch_names_its_candidates_and_its_queries(made: tuple[World, Karma]) -> None:
    world, _ = made
    config = replace(CONFIG, query_dropout=0.0)
    sampler = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, config)
    batch = sampler.draw(step_generator(0, 0))
    assert (batch.input_ids[batch.rows, batch.positions] == INT).all()
    assert batch.queries is not None
    named = len(batch.candidates) + len(batch.queries["token_ids"])
    assert int(batch.input_ids.max()) < FIRST_SOFT + named * CONFIG.compressed_tokens
    for row in range(len(batch.input_ids)):  # the item after an [INT] is what that [INT] was to predict
        positions, targets = batch.positions[batch.rows == row], batch.targets[batch.rows == row]
        for position, target in zip(positions.tolist()[:-1], targets.tolist(), strict=False):
            first = int(batch.input_ids[row, position + 1])
            assert (first - FIRST_SOFT) // CONFIG.compressed_tokens == target
    none = Sampler.of(
        world.catalogue, world.categories, world.event_count, world.histories, replace(config, query_dropout=1.0)
    )
    assert none.draw(step_generator(0, 0)).queries is None


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_every_objective_learns_through_the_compression(dropout: float) -> None:
    config = replace(CONFIG, query_dropout=dropout, target_min_users=1)
    world, network = world_of(config)
    sampler = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, config)
    batch = sampler.draw(step_generator(0, 1))
    assert network.compressor is not None
    for weights in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        objectives = replace(config, lambda_generation=weights[0], lambda_reconstruction=weights[1])
        network.train().zero_grad(set_to_none=True)
        karma_loss(network, batch, objectives).backward()  # type: ignore[no-untyped-call]
        gradient = network.compressor[-1].weight.grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0


def test_a_compressed_history_does_not_see_its_future(made: tuple[World, Karma]) -> None:
    world, network = made
    past = world.histories["short"]
    other = History(np.array([past.items[0], 9]), past.queries)
    with torch.no_grad():
        states = []
        for history in (past, other):
            rows = SoftRows.of(history.queries, items=len(world.catalogue), width=2)
            sequence = compressed_sequence(history.items, [*history.queries, EMPTY], rows, limit=20)
            used = used_rows([sequence.tokens], rows)
            soft = evaluation._soft_table(network, used, world.catalogue)
            states.append(network.read_history(torch.from_numpy(used.sequences[0])[None], soft)[0])
    last = int(sequence.interests[1]) + 1
    assert torch.allclose(states[0][:last], states[1][:last], atol=1e-6)
    assert not torch.allclose(states[0][last:], states[1][last:], atol=1e-3)


def test_queries_are_items_without_picture_that_close_otherwise() -> None:
    inputs = query_inputs([np.array([20, 21]), np.array([22])], soft_tokens=2, picture_width=3)
    assert inputs["token_ids"].tolist() == [[20, 21, QUERY, QUERY], [22, QUERY, QUERY, PAD]]
    assert inputs["lengths"].tolist() == [4, 3]
    assert not inputs["has_picture"].any()
    assert inputs["picture"].shape == (2, 3)


@pytest.mark.parametrize(("setting", "value"), [("compressed_tokens", 0), ("compressed_sequence_tokens", 8)])
def test_impossible_settings_are_refused(setting: str, value: int) -> None:
    with pytest.raises(ValueError, match=setting):
        replace(CONFIG, **{setting: value})


def test_before_the_histories_a_text_is_learned_from_its_own_soft_tokens() -> None:
    config = replace(CONFIG, compression_steps=600, pretraining_batch=32, validate_every=50, lambda_matching=0.0)
    world, network = world_of(config)
    texts = world.catalogue.tokens
    pretrain(network, texts, world.catalogue, config, seed=0, checkpoint=None)
    rows = np.flatnonzero(texts.lengths)[:24]
    inputs = query_inputs([texts[row] for row in rows], soft_tokens=2, picture_width=3, closing=ITEM)
    del inputs["id_index"]
    given = torch.from_numpy(padded([np.array([REC, *texts[row]]) for row in rows])[0])
    wanted = torch.from_numpy(padded([np.array([*texts[row], EOS]) for row in rows])[0])
    with torch.no_grad():
        soft = network.eval().to_soft(
            network.read_items(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        )
        own, another = (
            float(text_loss(network.expand(told, given), network.vocabulary, wanted, padding=PAD))
            for told in (soft, soft.roll(1, dims=0))
        )
    assert own < 0.8 * another


def test_the_faster_history_is_kept_wherever_it_loses_little(tmp_path: Path) -> None:
    data, hits = training_set(users=60), {}
    short = replace(CONFIG, steps=6, pretraining_steps=4, compression_steps=4, validate_every=3)
    for history in ("tokens", "compressed"):
        run = train_karma(data, replace(short, history=history), seed=0, checkpoint=tmp_path)
        hits[history] = run.metrics["validation"]["model_all_targets"]["HR@50"]
    for tolerance in (0.0, 1.0):
        config = replace(short, history="auto", history_tolerance=tolerance)
        chosen = train_karma(data, config, seed=0, checkpoint=tmp_path)
        kept = "compressed" if hits["compressed"] >= (1.0 - tolerance) * hits["tokens"] else "tokens"
        assert chosen.metrics["history"] == {"kept": kept, "HR@50": hits}
        assert chosen.preparation.config.history == kept
        assert (chosen.network.compressor is not None) == (kept == "compressed")

"""Pre-training: what matching is, what it leaves out, and that it teaches both sides an item's words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.karma import evaluation
from models.karma.compressed import latest_histories
from models.karma.config import KarmaConfig, karma_tiny
from models.karma.network import Karma
from models.karma.pretraining import matching_loss, pretrain, texts_of
from models.karma.text import Rows
from models.karma.training import World, new_network, prepare, read_world
from models.training import step_generator
from tests.karma_world import COLOURS, catalogue, histories

CONFIG = replace(karma_tiny(), dropout=0.0)


def world_of(items: pa.Table, config: KarmaConfig) -> tuple[World, Karma, dict[str, pa.Table]]:
    features = {"item_catalog": items, "user_history": histories({"u0": [0, 1, 2]}, {"u0": COLOURS})}
    preparation = prepare(features, config)
    torch.manual_seed(0)
    return read_world(features, preparation), new_network(preparation), features


def matched(world: World, network: Karma, rows: Rows, config: KarmaConfig, *, seed: int = 0) -> float:
    with torch.no_grad():
        generator = step_generator(seed, 0)
        return float(matching_loss(network, world.catalogue, rows, config, generator=generator))


@pytest.mark.parametrize("history", ["tokens", "compressed"])
def test_matching_is_the_contrast_of_a_few_words_of_each_text_with_all_texts(history: str) -> None:
    config = replace(CONFIG, history=history, query_tokens=1)
    world, network, _ = world_of(catalogue(), config)
    network.eval()
    texts, rows = world.catalogue.tokens, np.array([0, 1, 3, 8])
    unnamed = replace(world.catalogue, id_index=np.zeros_like(world.catalogue.id_index))
    queries, generator = [], step_generator(0, 0)
    for row in rows:
        torch.randint(1, 2, (1,), generator=generator)  # how many words: one
        queries.append(texts[row][torch.randperm(len(texts[row]), generator=generator)[:1].numpy()])
    asked = latest_histories([evaluation.NEW_USER] * 4, queries, world.catalogue, limit=config.history_limit)
    with torch.no_grad():
        items, interests = evaluation.encode_catalogue(network, unnamed), evaluation.encode_users(network, asked)
    logits = network.scale.item() * interests @ items[rows].T
    expected = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    assert matched(world, network, rows, config) == pytest.approx(expected.mean(), abs=1e-4)


def test_items_of_one_text_are_no_negatives_of_each_other() -> None:
    told = catalogue().set_column(5, "text", pa.array(["red lamp"] * 36))
    world, network, _ = world_of(told, CONFIG)
    assert matched(world, network.eval(), np.arange(6), CONFIG) == 0.0


def test_words_find_their_items_after_pretraining_and_not_without_matching() -> None:
    config = replace(CONFIG, pretraining_steps=120, pretraining_batch=32, validate_every=40)
    losses = {}
    for weight in (0.0, 1.0):
        world, network, features = world_of(catalogue(), config)
        chosen = replace(config, lambda_matching=weight)
        texts = texts_of(features, prepare(features, chosen))
        pretrain(network, texts, world.catalogue, chosen, seed=0, checkpoint=None)
        described = np.flatnonzero(world.catalogue.tokens.lengths)
        losses[weight] = matched(world, network.eval(), described, chosen)
    assert losses[1.0] < 0.8 * losses[0.0]


@pytest.mark.parametrize("described", [0, 1, 2])
def test_a_catalogue_with_too_few_texts_is_not_matched(described: int) -> None:
    told = ["lamp", "red lamp"][:described]
    silent = catalogue().set_column(5, "text", pa.array([*told, *[""] * (36 - described)]))
    world, network, features = world_of(silent, CONFIG)
    texts = texts_of(features, prepare(features, CONFIG))
    assert pretrain(network, texts, world.catalogue, CONFIG, seed=0, checkpoint=None) is not None

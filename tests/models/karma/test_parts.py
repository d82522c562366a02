"""A training batch read in parts: the same states and gradients as read at once, whatever the lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.karma import parts
from models.karma.config import karma_tiny
from models.karma.network import Karma
from models.karma.parts import in_order, parts_by_length
from models.karma.text import BOS, INT, PAD
from tests.models.karma.test_network import item_inputs, network, random_tokens

LENGTHS = (5, 30, 2, 17, 17, 9, 29)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 9), st.integers(1, 200))
def test_every_row_is_read_once_in_parts_that_fit(lengths: list[int], beside: int, tokens: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_TOKENS", tokens)
        found = parts_by_length(torch.tensor(lengths), beside=beside)
    read = torch.cat([rows for rows, _ in found])
    assert sorted(read.tolist()) == list(range(len(lengths)))
    for rows, width in found:
        assert width == max(lengths[row] for row in rows)
        assert len(rows) == 1 or len(rows) * (width + beside) <= tokens
    assert torch.equal(in_order([rows for rows, _ in found], found), torch.arange(len(lengths)))


@pytest.fixture
def karma() -> Karma:
    """Training, with dropout at zero: it draws in another order in parts."""
    return network(replace(karma_tiny(), dropout=0.0)).train()


def histories() -> Tensor:
    block = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in enumerate(LENGTHS):
        block[row, :length] = torch.cat([torch.tensor([BOS]), random_tokens(length - 2, row), torch.tensor([INT])])
    return block


def compare(karma: Karma, read: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `read` gives of its real tokens, and its gradients, at once and in parts of at most 60 tokens."""
    told = []
    for tokens in (10_000, 60):
        monkeypatch.setattr(parts, "PART_TOKENS", tokens)
        karma.zero_grad()
        states = read()
        weights = torch.linspace(-1, 1, states.numel()).reshape(states.shape)
        (states * weights).sum().backward()
        told.append(
            (states.detach(), {name: p.grad.clone() for name, p in karma.named_parameters() if p.grad is not None})
        )
    (whole, slopes), (parted, parted_slopes) = told
    assert torch.allclose(whole, parted, atol=1e-5)
    assert slopes.keys() == parted_slopes.keys()
    for name, slope in slopes.items():
        assert torch.allclose(slope, parted_slopes[name], rtol=1e-4, atol=1e-4), name


def test_histories(karma: Karma, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = histories()
    compare(karma, lambda: karma.read_history(ids)[ids != PAD], monkeypatch)


def test_histories_and_the_texts_behind_them(karma: Karma, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = histories()
    at = torch.tensor([[0, length - 1] for length in LENGTHS])
    texts = torch.stack([random_tokens(8, row).reshape(2, 4) for row in range(len(LENGTHS))])

    def read() -> Tensor:
        states, written = karma.read_with_segments(ids, at, texts)
        return torch.cat([states[ids != PAD], written.flatten(0, 2)])

    compare(karma, read, monkeypatch)


def test_items(karma: Karma, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = item_inputs(20)
    inputs.pop("id_index")
    compare(karma, lambda: karma.read_items(**inputs), monkeypatch)


def test_texts_behind_their_soft_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    karma = network(replace(karma_tiny(), dropout=0.0, history="compressed")).train()
    ids, soft = histories(), torch.randn(len(LENGTHS), 2, karma.width)
    compare(karma, lambda: karma.expand(soft, ids)[ids != PAD], monkeypatch)


def test_histories_over_a_table_of_soft_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    karma = network(replace(karma_tiny(), dropout=0.0, history="compressed")).train()
    ids, at = histories(), torch.tensor([[0, length - 1] for length in LENGTHS])
    texts = torch.stack([random_tokens(8, row).reshape(2, 4) for row in range(len(LENGTHS))])
    inputs = item_inputs(40)
    inputs.pop("id_index")

    def read() -> Tensor:
        soft = karma.to_soft(karma.read_items(**inputs)).flatten(0, 1)
        states, written = karma.read_with_segments(ids, at, texts, soft)
        return torch.cat([states[ids != PAD], written.flatten(0, 2)])

    compare(karma, read, monkeypatch)


@pytest.mark.parametrize("where", ["cpu, measured", "elsewhere, training"])
def test_what_is_measured_is_read_at_once_and_so_is_all_on_a_gpu(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.karma.network.parts_by_length", None)
    karma = network(replace(karma_tiny(), history="compressed"))
    device = torch.device("cpu" if where.startswith("cpu") else "meta")
    karma = karma.eval() if device.type == "cpu" else karma.train().to(device)
    ids, soft = histories().to(device), torch.zeros(len(LENGTHS), 2, karma.width, device=device)
    inputs = {name: value.to(device) for name, value in item_inputs().items() if name != "id_index"}
    texts, at = ids[:, None, :4], ids[:, :1].clamp(max=1)
    assert karma.read_history(ids).shape == (len(LENGTHS), max(LENGTHS), karma.width)
    assert karma.read_with_segments(ids, at, texts)[1].shape == (len(LENGTHS), 1, 4, karma.width)
    assert karma.expand(soft, ids).shape == (len(LENGTHS), max(LENGTHS), karma.width)
    assert karma.read_items(**inputs).shape == (4, 1, karma.width)

"""Losses against references that loop."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.karma.losses import action_loss, false_negatives, log_expected_draws, picture_loss, text_loss


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_action_loss_is_infonce_with_sampling_correction_and_masks(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, e = torch.randn(3, 4, generator=generator), torch.randn(5, 4, generator=generator)
    targets, log_q = torch.randint(5, (3,), generator=generator), torch.randn(5, generator=generator)
    masked = torch.rand(3, 5, generator=generator) < 0.4
    masked[torch.arange(3), targets] = False
    expected = []
    for n in range(3):
        logits = [2.5 * float(z[n] @ e[c]) - float(log_q[c]) for c in range(5)]
        total = sum(math.exp(logit) for c, logit in enumerate(logits) if not masked[n, c])
        expected.append(math.log(total) - logits[int(targets[n])])
    loss = action_loss(z, e, targets, scale=torch.tensor(2.5), log_q=log_q, masked=masked)
    assert torch.allclose(loss, torch.tensor(expected), atol=1e-4)


@given(
    st.sets(st.integers(0, 9), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=2, max_size=2),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_a_users_own_items_are_no_negatives(candidates: set[int], owned: list[list[int]], data: st.DataObject) -> None:
    columns = sorted(candidates)
    targets = [data.draw(st.integers(0, len(columns) - 1)) for _ in range(3)]
    owners = [0, 1, 1]
    block = torch.tensor([[*items, *[-1] * (5 - len(items))] for items in owned])
    masked = false_negatives(torch.tensor(columns), torch.tensor(owners), block, torch.tensor(targets))
    for n in range(3):
        for c, item in enumerate(columns):
            assert bool(masked[n, c]) == (item in owned[owners[n]] and c != targets[n])


def test_expected_draws_count_every_source() -> None:
    shares, draws = torch.tensor([[0.2, 0.0, 0.5], [0.1, 0.3, 0.0]]), torch.tensor([3.0, 2.0])
    chance = [1 - 0.8**3 * 0.9**2, 1 - 0.7**2, 1 - 0.5**3]
    assert torch.allclose(log_expected_draws(shares, draws), torch.tensor(chance).log(), atol=1e-6)


def test_expected_draws_stay_finite_at_the_ends() -> None:
    found = log_expected_draws(torch.tensor([[0.0, 1.0, 1e-12]]), torch.tensor([500.0]))
    assert torch.isfinite(found).all()
    assert found[1] <= 0


def test_text_loss_counts_real_tokens_only() -> None:
    generator = torch.Generator().manual_seed(0)
    states, vocabulary = torch.randn(2, 3, 4, generator=generator), torch.randn(6, 4, generator=generator)
    text = torch.tensor([[1, 2, 0], [3, 0, 0]])
    logged = (states @ vocabulary.T).log_softmax(-1)
    expected = -(logged[0, 0, 1] + logged[0, 1, 2] + logged[1, 0, 3]) / 3
    assert torch.allclose(text_loss(states, vocabulary, text, padding=0), expected)


def test_picture_loss_skips_items_without_a_picture() -> None:
    painted, pictures = torch.ones(3, 2), torch.tensor([[1.0, 1.0], [3.0, 1.0], [9.0, 9.0]])
    has = torch.tensor([True, True, False])
    assert float(picture_loss(painted, pictures, has)) == 1.0
    assert float(picture_loss(painted, pictures, torch.zeros(3, dtype=torch.bool))) == 0.0

"""Losses against their formulas, and far from zero."""

from __future__ import annotations

import pytest
import torch

from models.dicer.losses import cross_entropy, focal, mixture

LOGITS = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]])
LABELS = torch.tensor([1.0, 0.0])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def test_cross_entropy_is_that_of_the_mixture() -> None:
    score = mixture(LOGITS, WEIGHTS)
    assert score.tolist() == pytest.approx((WEIGHTS[:, None] * torch.sigmoid(LOGITS)).sum(0).tolist())
    expected = -(score[0].log() + (1 - score[1]).log()) / 2
    assert cross_entropy(LOGITS, LABELS, WEIGHTS).item() == pytest.approx(expected.item())


def test_a_head_without_weight_has_no_gradient_and_a_sure_one_a_finite_loss() -> None:
    logits = (LOGITS * 100).requires_grad_()
    loss = cross_entropy(logits, LABELS, torch.tensor([0.5, 0.5, 0.0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[2].any()


def test_focal_with_no_focus_is_half_the_cross_entropy_of_each_head_summed() -> None:
    plain = sum(torch.nn.functional.binary_cross_entropy_with_logits(head, LABELS) for head in LOGITS)
    assert focal(LOGITS, LABELS, gamma=0.0, alpha=0.5).item() == pytest.approx(float(plain) / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_a_sure_head_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[120.0, -120.0], [-120.0, 120.0], [1.0, 1.0]], requires_grad=True)
    loss = focal(logits, LABELS, gamma=gamma, alpha=0.25)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1].all(), "what it is wrong about still moves it"
    by_power = torch.sigmoid(torch.tensor([-1.0, 1.0])) ** gamma * torch.tensor([0.25, 0.75])
    expected = -(by_power * torch.nn.functional.logsigmoid(torch.tensor([1.0, -1.0]))).mean()
    assert focal(logits[2:], LABELS, gamma=gamma, alpha=0.25).item() == pytest.approx(expected.item())


def test_focal_turns_away_from_what_is_easy() -> None:
    easy, hard = torch.full((3, 1), 4.0), torch.full((3, 1), -4.0)
    one = torch.ones(1)
    kept = focal(easy, one, gamma=2.0, alpha=0.25) / focal(easy, one, gamma=0.0, alpha=0.25)
    assert kept < 0.001 < focal(hard, one, gamma=2.0, alpha=0.25)

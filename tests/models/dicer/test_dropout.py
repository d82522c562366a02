"""Dropout keeps the share it says, each entry by itself, and the mean; the same seed draws the same."""

from __future__ import annotations

import pytest
import torch

from models.dicer.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_entries_are_dropped_independently_and_the_others_scaled(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 401, requires_grad=True)
    y = Dropout(p)(x)
    kept = (y > 0).double()
    assert y.detach().unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-3)
    deviation = (p * (1 - p)) ** 0.5
    assert float(kept.mean()) == pytest.approx(1 - p, abs=5 * deviation / x.numel() ** 0.5)
    centred = (kept - kept.mean()).flatten() / deviation
    for apart in (1, 2, 3, 4, 8, 401):  # neighbours of one word of bits, of the next, and of the next row
        correlation = float((centred[apart:] * centred[:-apart]).mean())
        assert correlation == pytest.approx(0.0, abs=5 / x.numel() ** 0.5)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_the_seed_decides() -> None:
    x, drops = torch.ones(7, 5), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drops.append(Dropout(0.5)(x))
    assert torch.equal(drops[0], drops[1])
    assert not torch.equal(drops[0], drops[2])


def test_nothing_is_dropped_or_drawn_outside_training_or_at_zero() -> None:
    x, before = torch.randn(3, 4), torch.random.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_share_below_one_drops_everything_for_sure() -> None:
    assert torch.isfinite(Dropout(1 - 1e-9)(torch.ones(100))).all()
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)

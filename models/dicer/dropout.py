"""Dropout whose random bits are drawn many at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STEPS = 2**16


class Dropout(nn.Module):
    """`nn.Dropout` with `p` to the nearest 65536th, which 0.5 is: 16 random bits decide a number.

    On a CPU torch draws a number of its own for every entry, which takes longer than the layer before it.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropped = min(round(p * _STEPS), _STEPS - 1)

    def forward(self, x: Tensor) -> Tensor:
        """x with entries set to 0 and the others scaled up to the same mean, while it trains; else x."""
        if not self.training or self.dropped == 0:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= self.dropped - _STEPS // 2
        return (x * kept).mul_(_STEPS / (_STEPS - self.dropped))

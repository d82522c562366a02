"""The paper's ablation: attention over a history in the place of the elementwise maximum of eqs. 6 and 12.

It has no per-node tables, so every pair gathers its lists: an arm of the experiments, not of the night.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend(x: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """`Σ_j softmax_j(x_j · t) x_j` over the real rows of each list, 0 for an empty one.

    `x` is [..., R, D], `target` [..., c, D], `real` broadcasts to [..., c, R]; [..., c, D].
    """
    logits = (target @ x.mT).masked_fill(~real, torch.finfo(x.dtype).min)
    attention = logits.softmax(dim=-1) * real
    return attention @ x


def attended_interest(z: Tensor, own: tuple[Tensor, Tensor], friends: tuple[Tensor, Tensor], *, mean: bool) -> Tensor:
    """x_ui [n, c, D] of eqs. 8-10 with `attend` as the modulation.

    `z` is [n, c, D]. Lists come as rows and which are real: the user's own [n, R, D] and [n, c, R], the friends'
    [n, F, R, D] and [n, F, R]. A friend without a real entry takes no part. `mean` halves where there is a friend.
    """
    interest = attend(own[0], z, own[1])
    heard = attend(friends[0], z[:, None], friends[1][:, :, None])  # [n, F, c, D]
    speaks = friends[1].any(dim=-1)[:, :, None]
    logits = (heard * interest[:, None]).sum(dim=-1).masked_fill(~speaks, torch.finfo(z.dtype).min)
    attention = logits.softmax(dim=1) * speaks
    total = interest + (attention[..., None] * heard).sum(dim=1)
    return torch.where(speaks.any(dim=1)[:, :, None], total / 2, total) if mean else total

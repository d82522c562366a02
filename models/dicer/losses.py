"""DICER's two losses. `logits` is [3, ...], one slice a head; `labels` [...] is 1 for a positive, 0 for a negative."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mixture(logits: Tensor, head_weights: Tensor) -> Tensor:
    """Eq. 16, the score: `Σ λ_k sigmoid(logit_k)`, shape [...]."""
    weights = head_weights.reshape(-1, *[1] * (logits.dim() - 1))
    return (weights * torch.sigmoid(logits)).sum(dim=0)


def cross_entropy(logits: Tensor, labels: Tensor, head_weights: Tensor) -> Tensor:
    """Mean cross-entropy of the mixed score, in logarithms so that a sure head neither over- nor underflows."""
    weights = head_weights.log().reshape(-1, *[1] * labels.dim())
    log_yes = torch.logsumexp(functional.logsigmoid(logits) + weights, dim=0)
    log_no = torch.logsumexp(functional.logsigmoid(-logits) + weights, dim=0)
    return -(labels * log_yes + (1 - labels) * log_no).mean()


def focal(logits: Tensor, labels: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """The authors' program: `-α_t (1 - p_t)^γ log p_t` of each head, summed over heads, averaged over pairs."""
    signed = torch.where(labels > 0, logits, -logits)
    balance = torch.where(labels > 0, alpha, 1 - alpha)
    return -(balance * torch.sigmoid(-signed) ** gamma * functional.logsigmoid(signed)).sum(dim=0).mean()

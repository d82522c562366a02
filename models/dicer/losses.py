"""DICER's losses. `logits` is [heads, ...]; `labels` [...] is 1 for a positive, 0 for a negative."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def mixture(logits: Sequence[Tensor], head_weights: Tensor, likeness: Tensor | None = None) -> Tensor:
    """The score of each pair, in (0, 1), shape [...], from the `logits` [...] of each head.

    Eq. 16, `Σ λ_k sigmoid(logit_k)`; beside a `likeness` [...] the heads correct its logit instead,
    `sigmoid(likeness + Σ λ_k logit_k)`.
    """
    if likeness is None:
        return _weighted([torch.sigmoid(logit) for logit in logits], head_weights)
    return torch.sigmoid(likeness + _weighted(logits, head_weights))


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
    not_yet = torch.exp(gamma * functional.logsigmoid(-signed))  # a power's gradient is infinite at 0 for γ below 1
    return -(balance * not_yet * functional.logsigmoid(signed)).sum(dim=0).mean()


def sampled_softmax(positives: Tensor, negatives: Tensor, *, stands_for: float = 1.0) -> Tensor:
    """Mean of `-log softmax` of each positive logit [n, p] against the negatives [n, k] of its row.

    Uniformly drawn negatives stand for all: each counts `stands_for` times (Jean et al., ACL 2015).
    """
    others = torch.logsumexp(negatives, dim=1, keepdim=True) + math.log(stands_for)
    return (torch.logaddexp(positives, others) - positives).mean()


def _weighted(parts: Sequence[Tensor], weights: Tensor) -> Tensor:
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part
    return total

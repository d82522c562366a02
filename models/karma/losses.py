"""KARMA's objectives as pure functions (arXiv 2603.22779; the forms are ours where the paper is silent).

L = L_action + λ_gen L_gen + λ_rec L_rec + λ_picture L_picture
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def action_loss(
    interests: Tensor, items: Tensor, targets: Tensor, *, scale: Tensor, log_q: Tensor, masked: Tensor
) -> Tensor:
    """L_action: InfoNCE [N] of interests [N, d] against candidate items [C, d], sampling corrected, by position.

    logit(n, c) = scale * z_n . e_c - log q_c, without the candidates that `masked` [N, C] rules out; `targets` [N] are
    columns; q_c is the chance that a step draws candidate c (after Yi et al., RecSys 2019).
    """
    logits = scale * interests @ items.T - log_q
    return functional.cross_entropy(logits.masked_fill(masked, -torch.inf), targets, reduction="none")


def false_negatives(candidates: Tensor, owners: Tensor, owned: Tensor, targets: Tensor) -> Tensor:
    """Mask [N, C]: a candidate that position n's user has, other than its target, is no negative.

    `candidates` [C] are sorted item numbers, `owned` [R, M] the items of each user, padded with -1, `owners` [N] the
    row of each position's user, `targets` [N] columns of `candidates`.
    """
    place = torch.searchsorted(candidates, owned).clamp(max=len(candidates) - 1)
    found = candidates[place] == owned
    has = torch.zeros(len(owned), len(candidates), dtype=torch.bool, device=candidates.device)
    row = torch.arange(len(owned), device=candidates.device)[:, None].expand_as(owned)
    has[row[found], place[found]] = True
    masked = has[owners]
    masked[torch.arange(len(targets), device=targets.device), targets] = False
    return masked


def log_expected_draws(shares: Tensor, draws: Tensor) -> Tensor:
    """log q_c of a candidate set filled from several sources, log(1 - Π_s (1 - p_sc)^n_s).

    `shares` [sources, C] is each source's probability of drawing c once, `draws` [sources] how often it draws: q_c is
    the probability that c is in the set at all, which is what a set of distinct candidates needs.
    """
    log_absent = (draws[:, None] * torch.log1p(-shares.clamp(max=1 - 1e-6))).sum(dim=0)
    return torch.log(-torch.expm1(log_absent).clamp(max=-1e-12))


def text_loss(states: Tensor, vocabulary: Tensor, text: Tensor, *, padding: int) -> Tensor:
    """L_gen and L_rec: mean cross-entropy of the tokens `text` [..., T] given states [..., T, H] before each.

    What the states could see makes the objective: a history (`Karma.read_with_segments`) or P(z) alone
    (`Karma.reconstruct`). `vocabulary` [V, H] is the output layer; `padding` counts nothing.
    """
    real = text != padding
    return functional.cross_entropy(states[real] @ vocabulary.T, text[real])


def picture_loss(painted: Tensor, pictures: Tensor, has_picture: Tensor) -> Tensor:
    """Optional picture term: mean squared error of the picture vector regressed from z, over items that have one."""
    error = (painted - pictures).square().mean(dim=-1)
    return (error * has_picture).sum() / has_picture.sum().clamp(min=1)

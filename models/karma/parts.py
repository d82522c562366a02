"""A training batch on CPUs, read in parts: rows of like length together, few enough to stay in a core's own cache.

Less is padded, and nothing else changes but the order in which dropout draws (measured: models/LOG.md, 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PART_TOKENS = 2048
"""Tokens of a part, padding included: with 4,096 a step takes longer, with 1,024 as long or longer."""

Part = tuple[Tensor | slice, int | None]
"""Rows of the batch [n], and how many tokens the longest of them has, as an index and the end of a slice."""

WHOLE: Part = (slice(None), None)
"""Every row with all its tokens."""


def parts_by_length(lengths: Tensor, *, beside: int = 0) -> list[tuple[Tensor, int]]:
    """Every row of a batch once, the longest first: rows of `lengths` [B] tokens, each read with `beside` more.

    A batch that fits into one part is one, in its own order.
    """
    longest = int(lengths.max())
    if len(lengths) * (longest + beside) <= PART_TOKENS:
        return [(torch.arange(len(lengths)), longest)]
    order = torch.argsort(lengths, descending=True, stable=True)
    longest_first = lengths[order].tolist()
    parts, start = [], 0
    while start < len(longest_first):
        width = longest_first[start]
        rows = max(1, PART_TOKENS // (width + beside))
        parts.append((order[start : start + rows], width))
        start += rows
    return parts


def in_order(read: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """What was read of every part, [n, ...] each, as rows of the batch [B, ...]."""
    if len(parts) == 1:  # which is in the batch's order
        return read[0]
    order = torch.cat([rows for rows, _ in parts if isinstance(rows, Tensor)])
    return torch.cat(list(read))[torch.argsort(order)]

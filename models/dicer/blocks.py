"""A sum over blocks of rows whose backward pass is taken block by block, so that one block's tensors are held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BlockLoss = Callable[[slice, Sequence[Tensor], Sequence[Tensor]], Tensor]
"""`loss(rows, sliced, shared)`: the scalar of the rows of one block, from its slices and from the shared tensors."""


def blocks_of(lengths: NDArray[np.int64], *, rows: int, cells: int) -> list[slice]:
    """Blocks of consecutive rows, each of at most `rows`, and of at most `cells` when padded to its longest row.

    A row alone may have more cells. Rows in order of their `lengths` are padded least.
    """
    cuts, start, longest = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if row > start and (row - start == rows or (row - start + 1) * longest > cells):
            cuts.append(slice(start, row))
            start, longest = row, length
    return [*cuts, slice(start, len(lengths))]


def sum_in_blocks(
    loss: BlockLoss, sliced: Sequence[Tensor], shared: Sequence[Tensor], *, blocks: Sequence[slice]
) -> Tensor:
    """Sum of `loss` over `blocks` of rows of the `sliced` tensors, whose first lengths are equal.

    The same number and the same gradients as adding up the blocks' losses and going backwards through all of them at
    once, but the tensors between live for one block: they stay in the cache, and memory does not grow with the rows.
    """
    total: Tensor = _SumInBlocks.apply(loss, blocks, len(sliced), *sliced, *shared)  # type: ignore[no-untyped-call]
    return total


class _SumInBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: BlockLoss, blocks: Sequence[slice], split: int, *tensors: Tensor) -> Tensor:
        # a parameter is found by the loss itself and stays as it is
        sliced, shared = tensors[:split], [t if t.is_leaf else _leaf(t) for t in tensors[split:]]
        gradients = [torch.empty_like(tensor) for tensor in sliced] + [torch.zeros_like(tensor) for tensor in shared]
        total = sliced[0].new_zeros(())
        for part in blocks:
            with torch.enable_grad():
                leaves = [_leaf(tensor[part]) for tensor in sliced]
                value = loss(part, leaves, shared)
            found = torch.autograd.grad(value, [*leaves, *shared], allow_unused=True)
            for place, (gradient, tensor) in enumerate(zip(found, [*leaves, *shared], strict=True)):
                into = gradients[place][part] if place < split else gradients[place]
                if place < split:
                    into.copy_(gradient if gradient is not None else torch.zeros_like(tensor))
                elif gradient is not None:
                    into.add_(gradient)
            total += value.detach()
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        return (None, None, None, *(gradient * outputs[0] for gradient in ctx.saved_tensors))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()

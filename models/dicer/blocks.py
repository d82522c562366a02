"""A sum over blocks of rows whose backward pass is taken block by block, so that one block's tensors are held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BlockLoss = Callable[[slice, Sequence[Tensor], Sequence[Tensor]], Tensor]
"""`loss(rows, sliced, shared)`: the scalar of the rows of one block, from its slices and from the shared tensors."""


def sum_in_blocks(loss: BlockLoss, sliced: Sequence[Tensor], shared: Sequence[Tensor], *, rows: int) -> Tensor:
    """Sum of `loss` over blocks of at most `rows` rows of the `sliced` tensors, whose first lengths are equal.

    The same number and the same gradients as adding up the blocks' losses and going backwards through all of them at
    once, but the tensors between live for one block: they stay in the cache, and memory does not grow with the rows.
    """
    total: Tensor = _SumInBlocks.apply(loss, rows, len(sliced), *sliced, *shared)  # type: ignore[no-untyped-call]
    return total


class _SumInBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: BlockLoss, rows: int, split: int, *tensors: Tensor) -> Tensor:
        # a parameter is found by the loss itself and stays as it is
        sliced, shared = tensors[:split], [t if t.is_leaf else _leaf(t) for t in tensors[split:]]
        gradients = [torch.empty_like(tensor) for tensor in sliced] + [torch.zeros_like(tensor) for tensor in shared]
        total = sliced[0].new_zeros(())
        for start in range(0, len(sliced[0]), rows):
            part = slice(start, start + rows)
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

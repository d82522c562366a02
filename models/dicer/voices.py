"""Whom a batch listens to: friends with a history, all of them or a draw of them, padded block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.dicer.graphs import Graphs, Indices, Lists


@dataclass(frozen=True, eq=False)
class Heard:
    """Friends of each row of a batch."""

    lists: Lists
    device: str

    def block(self, part: slice) -> tuple[Tensor, Tensor]:
        """Friends of the rows `part`, padded to the longest among them: [rows, longest], and which are real."""
        index, real = self.lists.padded(np.arange(len(self.lists.lengths))[part])
        return torch.from_numpy(index).to(self.device), torch.from_numpy(real).to(self.device)


class Voices:
    """The lists that a batch draws on. With `fanout` at most so many friends of a user are heard in a step."""

    def __init__(self, graphs: Graphs, *, social: bool = True, fanout: int | None = None, device: str = "cpu") -> None:
        friends = graphs.heard_friends()
        self.friends = friends if social else Lists(np.zeros_like(friends.offsets), friends.values[:0])
        self.fanout, self.device = fanout, device
        self._cut: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self._lists = graphs.histories(), graphs.audiences()

    def heard(self, users: Tensor, *, generator: torch.Generator) -> Heard:
        """Friends of `users` [n], in the order of `users`."""
        return Heard(drawn(self.friends, users.cpu().numpy(), self.fanout, generator), self.device)

    def histories(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """At most `fanout` items of each user [...]: [..., longest], and which are real."""
        index, real = self._drawn_once()[0]
        return index[users], real[users]

    def audiences(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """At most `fanout` users of each item [...]: [..., longest], and which are real."""
        index, real = self._drawn_once()[1]
        return index[items], real[items]

    def _drawn_once(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        if self._cut is None:
            generator = torch.Generator().manual_seed(0)
            self._cut = tuple(self._padded(lists, generator) for lists in self._lists)  # type: ignore[assignment]
        assert self._cut is not None
        return self._cut

    def _padded(self, lists: Lists, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        nodes = np.arange(len(lists.lengths))
        index, real = drawn(lists, nodes, self.fanout, generator).padded(nodes)
        return torch.from_numpy(index).to(self.device), torch.from_numpy(real).to(self.device)


def drawn(lists: Lists, nodes: Indices, count: int | None, generator: torch.Generator) -> Lists:
    """The lists of `nodes`, each cut to `count` entries drawn without replacement, in their order."""
    lengths = lists.lengths[nodes]
    starts = np.concatenate([[0], lengths.cumsum()])
    owner, values = lists.entries(nodes)
    if count is None or lengths.max(initial=0) <= count:
        return Lists(starts, values)
    keys = torch.rand(len(values), generator=generator).numpy()
    order = np.lexsort((keys, owner))
    kept = np.sort(order[np.arange(len(order)) - starts[owner] < count])
    return Lists(np.concatenate([[0], np.minimum(lengths, count).cumsum()]), values[kept])

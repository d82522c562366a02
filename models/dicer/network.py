"""DICER, top to bottom: relation-aware encoder, dual-side modulation, three heads.

D is the width of an encoded node. Equation numbers are those of Fu et al., WWW 2021, doi 10.1145/3442381.3449940.
`models/dicer/definition.py` is the literal form that tests compare with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.dicer.collaboration import Collaboration
from models.dicer.config import DicerConfig
from models.dicer.dropout import Dropout
from models.dicer.encoder import Edges, Encoder


class Head(nn.Module):
    """Eqs. 13-15: a tower D→D→D per side, then 2D→D→s→1.

    A tower's second layer and its half of the 2D→D layer have nothing between them and are applied as one matrix, so a
    side that belongs to one node alone is a table of that node.
    """

    def __init__(self, config: DicerConfig) -> None:
        super().__init__()
        width = config.width
        self.towers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.join = nn.Linear(2 * width, width)
        self.hidden = nn.Linear(width, config.hidden)
        self.out = nn.Linear(config.hidden, 1)
        self.drop = Dropout(config.dropout)

    def left(self, x: Tensor) -> Tensor:
        """The user's side before the join, [..., D]."""
        return self._side(x, 0, self._end(0)) + self.join.bias

    def right(self, x: Tensor) -> Tensor:
        """The item's side before the join, [..., D]."""
        return self._side(x, 1, self._end(1))

    def logits(self, left: Tensor, right: Tensor) -> Tensor:
        """Logit of each pair of sides, broadcast; [...]."""
        return self.verdict(left + right)

    def verdict(self, joined: Tensor) -> Tensor:
        """Logit [...] from the sum of both sides [..., D]."""
        hidden: Tensor = self.drop(functional.relu(self.hidden(self.drop(functional.relu(joined)))))
        logit: Tensor = self.out(hidden)
        return logit.squeeze(-1)

    def forward(self, left: Tensor, right: Tensor, ends: Sequence[Tensor] | None = None) -> Tensor:
        """Logit of each pair of the user's and the item's vectors, broadcast; [...].

        Who asks block by block gives the `tower_ends`, made once.
        """
        ends = self.tower_ends() if ends is None else ends
        return self.logits(self._side(left, 0, ends[:2]) + self.join.bias, self._side(right, 1, ends[2:]))

    def tower_ends(self) -> tuple[Tensor, ...]:
        """What follows each tower up to the join: weight [D, D] and bias [D] of the user's side, then the item's."""
        return (*self._end(0), *self._end(1))

    def _end(self, side: int) -> tuple[Tensor, Tensor]:
        half, projection = self.join.weight.chunk(2, dim=1)[side], self.projections[side]
        assert isinstance(projection, nn.Linear)
        return half @ projection.weight, half @ projection.bias

    def _side(self, x: Tensor, side: int, end: Sequence[Tensor]) -> Tensor:
        return functional.linear(self.drop(functional.relu(self.towers[side](x))), *end)


class Dicer(nn.Module):
    """The whole network; `user_base` and `item_base` are the trained embeddings P and Q.

    With a collaboration a row has what that learns of the node after the d numbers of P or Q: d more, and of an item
    one number for its popularity.
    """

    head_weights: Tensor

    def __init__(self, config: DicerConfig, users: int, items: int) -> None:
        super().__init__()
        self.config = config
        user_base, item_base = _base(users, config), _base(items, config)
        if config.collaborative_layers is not None:
            user_base = torch.cat([user_base, _unit_rows(users, config)], dim=1)
            item_base = torch.cat([item_base, _unit_rows(items, config), torch.zeros(items, 1)], dim=1)
        self.user_base, self.item_base = nn.Parameter(user_base), nn.Parameter(item_base)
        self.encoder = Encoder(config)
        self.collaboration = None if config.collaborative_layers is None else Collaboration(config)
        self.own_head = Head(config)
        self.interest_head = Head(config) if config.user_interest else None
        self.attraction_head = Head(config) if config.item_attraction else None
        self.register_buffer("head_weights", torch.tensor(config.active_weights), persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # torch's own start shrinks a signal 60 times over a head's five layers
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def silence_heads(self) -> None:
        """Let every head say 0, whatever it hears, until training moves it."""
        for weight in self._last_words():
            nn.init.zeros_(weight)

    @property
    def is_silent(self) -> bool:
        """Whether no head says anything: as `silence_heads` left them, where training found nothing to add."""
        return not any(bool(weight.any()) for weight in self._last_words())

    def encode(self, user_base: Tensor, item_base: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Eqs. 2-5: h* [users, D] and z* [items, D] from base embeddings [users, d or more] and [items, d or more]."""
        d = self.config.dimension
        h, z = self.encoder(user_base[:, :d], item_base[:, :d], edges)
        return h, z

    @property
    def heads(self) -> tuple[Head, ...]:
        """Those that are on: own, interest, attraction."""
        return tuple(h for h in (self.own_head, self.interest_head, self.attraction_head) if h is not None)

    def head_logits(
        self,
        h: Tensor,
        z: Tensor,
        interest: Tensor | None,
        attraction: Tensor | None,
        *,
        ends: Sequence[Sequence[Tensor] | None] = (None, None, None),
    ) -> Tensor:
        """Logits of the heads that are on, [heads, users, items].

        `h` is [users, 1, D], `z`, `interest` x_ui and `attraction` y_iu are [users, items, D]; a modulation whose head
        is off may be None. `ends` are the `Head.tower_ends` of the heads that are on, where they are made already.
        """
        left = iter(ends)
        logits = [self.own_head(h, z, next(left))]
        if self.interest_head is not None:
            logits.append(self.interest_head(interest, z, next(left)))
        if self.attraction_head is not None:
            logits.append(self.attraction_head(h, attraction, next(left)))
        return torch.stack(logits)

    def _last_words(self) -> list[Tensor]:
        return [weight for head in self.heads for weight in (head.out.weight, head.out.bias)]


def _base(count: int, config: DicerConfig) -> Tensor:
    if config.base == "xavier":
        return nn.init.xavier_uniform_(torch.empty(count, config.dimension))
    # Rows of about unit length, like each layer's output beside them. Xavier's shrink as the world grows, and with them
    # the one part of an encoded node that tells it from its neighbours: measured worse, models/LOG.md.
    return _unit_rows(count, config)


def _unit_rows(count: int, config: DicerConfig) -> Tensor:
    rows: Tensor = torch.randn(count, config.dimension) * config.dimension**-0.5
    return rows

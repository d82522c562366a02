"""Why DICER gave a pair its score: the three heads, and who owns the maxima that the modulations take.

A modulation is a maximum over a list in every dimension, so each dimension has one owner: the member whose product is
largest there, or nobody where the clamp's zero wins. With g the gradient of a head's logit by its modulation x,

    g · x = Σ_d g_d m_d + Σ_f α_f Σ_d g_d m_fd

splits exactly over owners, because the maxima and the attended friends add up to x (all halved where they are joined
by their mean). What is split is a first-order
attribution (gradient × input): how the logit answers to a small common growth of what the member brings, at this
point, with attention held still. It is not what the score would be without the member: then the runner-up would own
its dimensions, attention would move and the head's ReLUs might switch. `moved`, the logit against the one of an empty
modulation, says how much there is to split; the attributions add up to `attributed`, and both are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from features.errors import ConfigurationError
from models.dicer.config import DicerConfig, FriendFusion
from models.dicer.graphs import Graphs, Indices
from models.dicer.network import Dicer, Head

HeadName = Literal["own", "interest", "attraction"]
"""r_O, r_U and r_I."""


@dataclass(frozen=True)
class HeadPart:
    """A head's term of eq. 16: `contribution = weight · probability`; the terms add up to the score.

    Beside a likeness `contribution = weight · logit`, and the terms and the likeness add up to the score's logit.
    """

    name: HeadName
    logit: float
    probability: float
    weight: float  # λ, of the heads that are on
    contribution: float


@dataclass(frozen=True)
class Owner:
    """A member of a list that owns maxima; `attribution` in units of the head's logit."""

    id: str
    dimensions: int
    attribution: float


@dataclass(frozen=True)
class Maxima:
    """One `max(0, max_j x_j ⊙ t)`: its owners by falling size of their attribution, which add up to `attribution`.

    Equal products belong to the member that comes first by id.
    """

    members: int  # length of the list
    nobody: int  # dimensions in which the clamp's zero wins
    attribution: float
    owners: tuple[Owner, ...]


@dataclass(frozen=True)
class Friend:
    """A friend with a history: its attention α, and the maxima over its history, weighted by α."""

    id: str
    attention: float
    history: Maxima


@dataclass(frozen=True)
class Interest:
    """r_U's modulation x_ui: the user's own history, and friends by falling attention."""

    own: Maxima
    friends: tuple[Friend, ...]
    silent_friends: int  # friends without a history take no part
    hears_friends: bool  # whether the model is configured to
    moved: float  # the logit less that of an empty modulation
    attributed: float


@dataclass(frozen=True)
class Attraction:
    """r_I's modulation y_iu: the past consumers of the item."""

    audience: Maxima
    moved: float
    attributed: float


@dataclass(frozen=True)
class Explanation:
    """What made a score; a head that the configuration switches off has no part and no modulation."""

    user_id: str
    item_id: str
    score: float
    heads: tuple[HeadPart, ...]
    interest: Interest | None
    attraction: Attraction | None
    had_item: bool  # the item is in the user's history, hence the user in its audience
    likeness: float | None = None  # of `dicer_plus`, a logit: what the heads correct


@dataclass(frozen=True, eq=False)
class Heard:
    """Eqs. 6-10 for one pair: m_ui and each friend's m_fi with their owners, the attention, and how they are joined."""

    own: Tensor  # [D]
    own_owners: Tensor  # [D], -1 where nobody owns
    friends: Tensor  # [F, D]
    friend_owners: Tensor  # [F, D]
    attention: Tensor  # [F]
    scale: float  # 1; 1/2 for the mean of the own and the friends' part

    @property
    def interest(self) -> Tensor:
        """x_ui [D]."""
        return self.scale * (self.own + self.attention @ self.friends)


def largest(x: Tensor, target: Tensor, members: Indices) -> tuple[Tensor, Tensor]:
    """`max(0, max_j x_j ⊙ target)` over the rows `members` of `x`, and the member that owns each dimension, else -1."""
    if not len(members):
        return torch.zeros_like(target), torch.full(target.shape, -1)
    products = x.numpy()[members] * target.numpy()  # torch would start its threads for each of these small products
    first = products.argmax(axis=0)
    values = products[first, np.arange(len(first))]
    owners = np.where(values > 0, members[first], -1)
    return torch.from_numpy(values.clip(min=0)), torch.from_numpy(owners)


def heard_by(
    z: Tensor, item: int, history: Indices, friend_histories: Sequence[Indices], *, fusion: FriendFusion = "sum"
) -> Heard:
    """Own and friends' interest in `item` from the literal lists of item rows; friends' must not be empty."""
    own, own_owners = largest(z, z[item], history)
    parts = [largest(z, z[item], theirs) for theirs in friend_histories]
    friends = torch.stack([values for values, _ in parts]) if parts else own.new_zeros(0, len(own))
    owners = torch.stack([owned for _, owned in parts]) if parts else own_owners.new_zeros(0, len(own))
    scale = 0.5 if parts and fusion == "mean" else 1.0
    return Heard(own, own_owners, friends, owners, torch.softmax(friends @ own, dim=0), scale)


def must_take_maxima(network: Dicer) -> None:
    """Raises ConfigurationError for a network whose modulation has no maxima and so no owners of them."""
    if network.config.modulation != "extremes":
        raise ConfigurationError(
            f"only dicer's modulation 'extremes' has owners to name, got a network with {network.config.modulation!r}"
        )


@torch.no_grad()
def explain(
    network: Dicer, h: Tensor, z: Tensor, graphs: Graphs, *, user: int, item: int, likeness: float | None = None
) -> Explanation:
    """What made the score of a user row and an item row, of encoded nodes `h` [users, D] and `z` [items, D].

    `likeness` is that of the pair where the network has a collaboration. It is the night's score: nothing is left out
    of the histories, not even a pair that was an interaction.
    Raises ValueError for a row that `graphs` does not have, for a likeness that the network lacks or needs, or for one
    that is not in evaluation mode; ConfigurationError for one whose modulation takes no maxima.
    """
    _check(network, graphs, user, item)
    if (likeness is None) != (network.collaboration is None):
        raise ValueError(f"a likeness goes with a network that has a collaboration, got {likeness}")
    h, z = h.detach(), z.detach()
    own = network.own_head
    logits: dict[HeadName, Tensor] = {"own": own.logits(own.left(h[user]), own.right(z[item]))}
    interest = attraction = None
    if network.interest_head is not None:
        interest, logits["interest"] = _interest(network.interest_head, network.config, z, graphs, user, item)
    if network.attraction_head is not None:
        attraction, logits["attraction"] = _attraction(network.attraction_head, h, graphs, user, item)
    weights = network.head_weights.tolist()
    parts = [
        _part(name, logit, weight, corrects=likeness is not None)
        for (name, logit), weight in zip(logits.items(), weights, strict=True)
    ]
    total = sum(part.contribution for part in parts)
    return Explanation(
        graphs.user_ids[user].as_py(),
        graphs.item_ids[item].as_py(),
        total if likeness is None else float(torch.sigmoid(torch.tensor(likeness + total))),
        tuple(parts),
        interest,
        attraction,
        bool((graphs.histories().of(user) == item).any()),
        likeness,
    )


def _check(network: Dicer, graphs: Graphs, user: int, item: int) -> None:
    for name, row, count in (("user", user, graphs.users), ("item", item, graphs.items)):
        if not 0 <= row < count:
            raise ValueError(f"expected a {name} row in 0..{count - 1}, got {row}")
    if network.training:
        raise ValueError("expected a network in evaluation mode: dropout would explain another score every time")
    must_take_maxima(network)


def _part(name: HeadName, logit: Tensor, weight: float, *, corrects: bool) -> HeadPart:
    probability = float(torch.sigmoid(logit))
    return HeadPart(name, float(logit), probability, weight, weight * (float(logit) if corrects else probability))


def _interest(
    head: Head, config: DicerConfig, z: Tensor, graphs: Graphs, user: int, item: int
) -> tuple[Interest, Tensor]:
    histories = graphs.histories()
    friends = graphs.heard_friends().of(user) if config.social else np.empty(0, np.int64)
    lists = [histories.of(friend) for friend in friends]
    heard = heard_by(z, item, histories.of(user), lists, fusion=config.friend_fusion)
    right = head.right(z[item])
    logit, moved, gradient = _first_order(lambda x: head.logits(head.left(x), right), heard.interest)
    gradient = heard.scale * gradient
    told = [
        Friend(
            graphs.user_ids[int(friend)].as_py(),
            float(heard.attention[f]),
            _maxima(
                heard.attention[f] * gradient * heard.friends[f],
                heard.friend_owners[f],
                graphs.item_ids,
                len(lists[f]),
            ),
        )
        for f, friend in enumerate(friends)
    ]
    own = _maxima(gradient * heard.own, heard.own_owners, graphs.item_ids, len(histories.of(user)))
    silent = int((graphs.friends[1] == user).sum()) - len(friends) if config.social else 0
    told.sort(key=lambda friend: -friend.attention)
    attributed = own.attribution + sum(friend.history.attribution for friend in told)
    return Interest(own, tuple(told), silent, config.social, float(moved), attributed), logit


def _attraction(head: Head, h: Tensor, graphs: Graphs, user: int, item: int) -> tuple[Attraction, Tensor]:
    consumers = graphs.audiences().of(item)
    values, owners = largest(h, h[user], consumers)
    left = head.left(h[user])
    logit, moved, gradient = _first_order(lambda y: head.logits(left, head.right(y)), values)
    audience = _maxima(gradient * values, owners, graphs.user_ids, len(consumers))
    return Attraction(audience, float(moved), audience.attribution), logit


def _first_order(logit_of: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logit at x, that less the logit at zero, and the gradient at x."""
    with torch.enable_grad():
        here = x.detach().requires_grad_()
        logit = logit_of(here)
        (gradient,) = torch.autograd.grad(logit, here)
    logit = logit.detach()
    return logit, logit - logit_of(torch.zeros_like(x)), gradient


def _maxima(effects: Tensor, owners: Tensor, ids: pa.StringArray, members: int) -> Maxima:
    """`effects` [D] summed by their owners [D]."""
    owned = owners.numpy() >= 0
    rows, places, counts = np.unique(owners.numpy()[owned], return_inverse=True, return_counts=True)
    sums = np.bincount(places, weights=effects.numpy()[owned], minlength=len(rows))
    told = [
        Owner(ids[row].as_py(), count, attribution)
        for row, count, attribution in zip(rows.tolist(), counts.tolist(), sums.tolist(), strict=True)
    ]
    told.sort(key=lambda owner: -abs(owner.attribution))
    return Maxima(members, int((~owned).sum()), float(sums.sum()), tuple(told))

"""DICER at night: what is known of each node as tables, and scores of blocks of users x items from them.

D is the width of an encoded node. A pair meets no history: the ends of models/dicer/modulation.py stand for them, and
whatever of a head belongs to one node alone is in that node's row. The two halves of ends stay apart where a block of
pairs needs them, because taking them apart there would copy them for every block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from features.errors import ConfigurationError
from models.dicer.encoder import Edges
from models.dicer.losses import mixture
from models.dicer.modulation import Friends, ends_of
from models.dicer.network import Dicer, Head

_COLUMNS = 32
_NEVER = -1e30  # as a logit: no attention, and no infinity whose difference from itself would be NaN


@dataclass(frozen=True, eq=False)
class Rows:
    """Tables over the same nodes by name, [nodes, D] or [nodes, 2D]: the one place that says what a night knows.

    Users: `user_own` and `user_attraction`, their sides of r_O and r_I; `user_vector` h*; `user_ends` of the history.
    Items: `item_own` and `item_interest`, their sides of r_O and r_U; `item_above` and `item_below`, the halves of z*;
    `item_audience_above` and `item_audience_below`, the ends of the audience. Both: `user_likeness`, `item_likeness`,
    whose inner product is a pair's likeness. Those of a part that the network does without are absent.
    """

    parts: Mapping[str, Tensor]

    def __getitem__(self, nodes: Tensor | slice) -> Rows:
        return Rows({name: part[nodes] for name, part in self.parts.items()})

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))


def tables(network: Dicer, user_base: Tensor, item_base: Tensor, edges: Edges) -> tuple[Rows, Rows]:
    """What a night knows of each user and of each item.

    Raises ConfigurationError for a network whose modulation depends on whole histories, not on their ends.
    """
    if network.config.modulation != "extremes":
        raise ConfigurationError(
            "a night scores from tables, which exist for dicer's modulation 'extremes' only, got "
            f"{network.config.modulation!r}: such a network can be trained and evaluated, not exported"
        )
    h, z = network.encode(user_base, item_base, edges)
    users, items = edges.interactions
    user_parts, item_parts = {"user_own": network.own_head.left(h)}, {"item_own": network.own_head.right(z)}
    if network.interest_head is not None:
        user_parts |= {"user_ends": torch.cat(_ends(z, users, items, h.shape[0]), dim=1)}
        item_parts |= {
            "item_interest": network.interest_head.right(z),
            "item_above": functional.relu(z),
            "item_below": functional.relu(-z),
        }
    if network.attraction_head is not None:
        above, below = _ends(h, items, users, z.shape[0])
        user_parts |= {"user_attraction": network.attraction_head.left(h), "user_vector": h}
        item_parts |= {"item_audience_above": above, "item_audience_below": below}
    if network.collaboration is not None:
        likeness = network.collaboration(user_base, item_base, edges.interactions)
        user_parts |= {"user_likeness": likeness[0]}
        item_parts |= {"item_likeness": likeness[1]}
    return Rows(user_parts), Rows(item_parts)


def listens(network: Dicer) -> bool:
    """Whether friends take part in the network's scores."""
    return network.interest_head is not None and network.config.social


def friend_ends(user_rows: Rows, index: Tensor, real: Tensor) -> Friends | None:
    """The block of friends `index` [users, longest], padded where not `real`, taken from the rows of all users.

    None where the network has no head for the user's interest.
    """
    if "user_ends" not in user_rows.parts:
        return None
    return Friends(user_rows.parts["user_ends"][index] * real[..., None], real)


def score(network: Dicer, user_rows: Rows, item_rows: Rows, friends: Friends | None) -> Tensor:
    """The score of every user of a block and every item of a block, from their rows: [users, items], in (0, 1).

    One user beside as many items as the cache holds (65,536 / D) is the fastest block. A network that does not listen
    needs no friends.
    """
    users, items = user_rows.parts, item_rows.parts
    found = [_logit(network.own_head, users["user_own"][:, None] + items["item_own"])]
    if (head := network.interest_head) is not None:
        assert friends is not None or not listens(network), "a network that listens needs the friends of the block"
        interest = _interest(network, users["user_ends"], friends, item_rows)
        found.append(_logit(head, _by_pair(head.left, interest) + items["item_interest"]))
    if (head := network.attraction_head) is not None:
        right = _by_pair(head.right, _attraction(users["user_vector"], item_rows))
        found.append(_logit(head, users["user_attraction"][:, None] + right))
    likeness = users["user_likeness"] @ items["item_likeness"].mT if network.collaboration is not None else None
    return mixture(found, network.head_weights, likeness)


def _interest(network: Dicer, own_ends: Tensor, friends: Friends | None, item_rows: Rows) -> Tensor:
    """Eqs. 6-10: x_ui of each pair [users, items, D].

    The logits `m_ui · m_fi` are products of squared halves of z with ends, because the two halves never meet. The
    user's own ends are one more voice, of weight 1, so that all voices make one product.
    """
    above, below = item_rows.parts["item_above"], item_rows.parts["item_below"]
    if friends is None or not listens(network):
        own_above, own_below = own_ends[:, None].chunk(2, dim=-1)
        return own_above * above + own_below * below
    heard_above, heard_below = (friends.ends * own_ends[:, None]).chunk(2, dim=-1)
    logits = (above * above) @ heard_above.mT + (below * below) @ heard_below.mT
    # a user without friends has only equal logits here, whose voices are zeros
    silence = torch.where(friends.real, 0.0, _NEVER)[:, None]
    weights = functional.pad((logits + silence).softmax(dim=-1), (0, 1), value=1.0)
    voices = torch.cat([friends.ends, own_ends[:, None]], dim=1)
    if network.config.friend_fusion == "mean":
        voices = voices * torch.where(friends.real.any(dim=1), 0.5, 1.0)[:, None, None]
    voices_above, voices_below = voices.chunk(2, dim=-1)
    return (weights @ voices_above) * above + (weights @ voices_below) * below


def _ends(x: Tensor, nodes: Tensor, neighbours: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Both halves of `ends_of`, a few columns at a time: what is gathered for every pair grows with the columns."""
    pieces = [ends_of(piece, nodes, neighbours, count).chunk(2, dim=1) for piece in torch.split(x, _COLUMNS, dim=1)]
    above, below = (torch.cat(halves, dim=1) for halves in zip(*pieces, strict=True))
    return above, below


def _attraction(h: Tensor, item_rows: Rows) -> Tensor:
    """Eqs. 11-12: y_iu of each pair [users, items, D]."""
    above, below = item_rows.parts["item_audience_above"], item_rows.parts["item_audience_below"]
    return functional.relu(h)[:, None] * above + functional.relu(-h)[:, None] * below


def _by_pair(side: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A side of a head of every pair as one matrix, which ONNX Runtime multiplies, biases and clamps in one step."""
    return side(x.flatten(0, 1)).reshape(x.shape)


def _logit(head: Head, joined: Tensor) -> Tensor:
    """From the sum of both sides [users, items, D] to the head's logit [users, items]."""
    return head.verdict(joined.flatten(0, 1)).reshape(joined.shape[:2])

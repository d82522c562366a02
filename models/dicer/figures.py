"""A figure of a trained DICER: how the modulation spreads over dimensions, list members and friends.

It is drawn from a seeded sample of pairs of a user and an item that the user has not had, as a night ranks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray
from torch import Tensor

from features.files import replacing_file
from models.dicer.config import DicerConfig
from models.dicer.encoder import edges_of, quiet_about_sparse_tensors
from models.dicer.explanation import heard_by, largest, must_take_maxima
from models.dicer.graphs import Graphs, Indices
from models.dicer.network import Dicer

Floats = NDArray[np.float64]

PAIRS = 256
"""Pairs of the sample: quantiles of 10 % are of some 25 pairs, and it is drawn in two seconds."""

_KINDS = {
    "audience": ("item's past consumers, $y_{iu}$", "#2ca02c", "-"),
    "friends": ("a friend's history, $m_{fi}$", "#ff7f0e", "-"),
    "own": ("own history, $m_{ui}$", "#1f77b4", "--"),  # dashed and on top: often it runs with the friends'
}


@dataclass(frozen=True, eq=False)
class Maxima:
    """The modulations of one kind over non-empty lists: values and owners [lists, D], and the lists' lengths."""

    values: Floats
    owners: Indices
    lengths: Indices

    @property
    def largest_owners(self) -> Floats:
        """Of each list with an owner, the share of the owned dimensions that its largest owner has; else NaN."""
        shares = np.full(len(self.owners), np.nan)
        for row, owners in enumerate(self.owners):
            owned = owners[owners >= 0]
            if len(owned):
                shares[row] = np.unique(owned, return_counts=True)[1].max() / len(owned)
        return shares


@dataclass(frozen=True, eq=False)
class Spread:
    """What was sampled: the maxima by kind, and the attention of each pair over its user's friends with a history."""

    maxima: dict[str, Maxima]
    attention: list[Floats]


def sampled_pairs(graphs: Graphs, count: int, *, seed: int) -> Indices:
    """At most `count` pairs [2, n] of a uniform user and a uniform item that the user has not had."""
    if not graphs.users * graphs.items:
        return np.empty((2, 0), np.int64)
    drawn = np.random.default_rng(seed).integers(0, [[graphs.users], [graphs.items]], (2, count))
    had = graphs.interactions[0] * graphs.items + graphs.interactions[1]
    new: Indices = drawn[:, ~np.isin(drawn[0] * graphs.items + drawn[1], had)]
    return new


def spread_of(config: DicerConfig, h: Tensor, z: Tensor, graphs: Graphs, pairs: Indices) -> Spread:
    """The modulations of `pairs` [2, n] of encoded nodes h [users, D] and z [items, D], of those that `config` has."""
    histories, audiences, friends = graphs.histories(), graphs.audiences(), graphs.heard_friends()
    found: dict[str, list[tuple[Tensor, Tensor, int]]] = {kind: [] for kind in _KINDS}
    attention = []
    for user, item in pairs.T.tolist():
        lists = [histories.of(friend) for friend in friends.of(user)] if config.social else []
        heard = heard_by(z, item, histories.of(user), lists)
        found["own"].append((heard.own, heard.own_owners, len(histories.of(user))))
        found["friends"] += zip(heard.friends, heard.friend_owners, map(len, lists), strict=True)
        found["audience"].append((*largest(h, h[user], audiences.of(item)), len(audiences.of(item))))
        attention.append(heard.attention.double().numpy())
    used = {"own": config.user_interest, "friends": config.user_interest, "audience": config.item_attraction}
    maxima = {kind: _stacked(parts if used[kind] else [], h.shape[1]) for kind, parts in found.items()}
    return Spread(maxima, attention if config.user_interest else [])


def modulation_figure(
    network: Dicer, graphs: Graphs, *, bases: tuple[Tensor, Tensor] | None = None, seed: int
) -> Figure:
    """Four panels: who wins a dimension's maximum, how large it is, how few own it, and how attention spreads.

    `bases` are base embeddings of the graphs' users and items, by default the trained ones, row by row. Raises
    ValueError if there is not one for every node, ConfigurationError for a network whose modulation takes no maxima.
    """
    must_take_maxima(network)
    user_base, item_base = bases or (network.user_base, network.item_base)
    for name, base, count in (("user", user_base, graphs.users), ("item", item_base, graphs.items)):
        if len(base) != count:
            raise ValueError(f"expected a base embedding for each of {count} {name}s, got {len(base)}")
    with torch.no_grad(), quiet_about_sparse_tensors():
        h, z = network.encode(user_base, item_base, edges_of(graphs))
    pairs = sampled_pairs(graphs, PAIRS, seed=seed)
    spread = spread_of(network.config, h, z, graphs, pairs)
    figure = Figure(figsize=(11, 7.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    _wins(panels[0, 0], spread.maxima, network.config.dimension)
    _sizes(panels[0, 1], spread.maxima, network.config.dimension)
    _owners(panels[1, 0], spread.maxima)
    _attention(panels[1, 1], spread.attention)
    figure.suptitle(f"Modulation over {pairs.shape[1]} sampled pairs of a user and an item not had", fontsize=12)
    return figure


def write_modulation_figure(
    network: Dicer, graphs: Graphs, file: Path, *, bases: tuple[Tensor, Tensor] | None = None, seed: int
) -> None:
    """Write `modulation_figure` as SVG; equal input gives equal bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "attractor"}), replacing_file(file) as temporary:
        figure = modulation_figure(network, graphs, bases=bases, seed=seed)
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _stacked(parts: Sequence[tuple[Tensor, Tensor, int]], width: int) -> Maxima:
    some = [part for part in parts if part[2]]
    values = torch.stack([part[0] for part in some]) if some else torch.zeros(0, width)
    owners = torch.stack([part[1] for part in some]) if some else torch.zeros(0, width, dtype=torch.long)
    return Maxima(values.double().numpy(), owners.numpy(), np.array([part[2] for part in some], np.int64))


def _wins(panel: Axes, maxima: dict[str, Maxima], dimension: int) -> None:
    panel.set_title("Who wins a dimension: a list member, else the clamp's zero")
    _by_dimension(panel, {kind: (m.owners >= 0).astype(np.float64) for kind, m in maxima.items()}, dimension)
    panel.set_ylabel("lists in which a member wins")
    panel.set_ylim(0, 1.03)
    panel.yaxis.set_major_formatter(PercentFormatter(1))


def _sizes(panel: Axes, maxima: dict[str, Maxima], dimension: int) -> None:
    panel.set_title("How large the modulation is")
    _by_dimension(panel, {kind: m.values for kind, m in maxima.items()}, dimension)
    panel.set_ylabel("mean value, no unit")
    panel.set_ylim(bottom=0)


def _by_dimension(panel: Axes, tables: dict[str, Floats], dimension: int) -> None:
    """Means over lists of each dimension, falling within each layer's block."""
    width = next(iter(tables.values())).shape[1]
    blocks = range(0, width, dimension)
    for kind, table in tables.items():
        if not len(table):
            continue
        name, colour, style = _KINDS[kind]
        means = table.mean(axis=0)
        for start in blocks:
            falling = np.sort(means[start : start + dimension])[::-1]
            label = name if start == 0 else None
            panel.plot(np.arange(start, start + dimension), falling, style, color=colour, label=label)
    for start in blocks:
        panel.axvline(start - 0.5, color="0.8", linewidth=0.8, zorder=0)
    panel.set_xticks([start + (dimension - 1) / 2 for start in blocks])
    panel.set_xticklabels(["base" if start == 0 else f"layer {start // dimension}" for start in blocks])
    panel.tick_params(axis="x", length=0)
    panel.set_xlim(-0.5, width - 0.5)
    panel.set_xlabel(f"the {width} dimensions, falling within each layer")
    _finish(panel, "no list in the sample")


def _owners(panel: Axes, maxima: dict[str, Maxima]) -> None:
    panel.set_title("How few own a modulation")
    for kind, of_kind in maxima.items():
        name, colour, _ = _KINDS[kind]
        shares = of_kind.largest_owners
        known = np.isfinite(shares)
        _banded(panel, of_kind.lengths[known], shares[known], name, colour)
    _against_equal_shares(panel, max((int(m.lengths.max(initial=1)) for m in maxima.values()), default=1))
    panel.set_xlabel("length of the list, items or users")
    panel.set_ylabel("owned dimensions of the largest owner")
    _finish(panel, "no list in the sample")


def _attention(panel: Axes, attention: Sequence[Floats]) -> None:
    panel.set_title("How attention spreads over friends")
    chosen = [weights for weights in attention if len(weights) > 1]
    counts = np.array([len(weights) for weights in chosen], np.int64)
    entropies = np.array([_entropy(weights) / np.log(len(weights)) for weights in chosen])
    tops = np.array([weights.max() for weights in chosen])
    _banded(panel, counts, entropies, "entropy as a share of log F; 100 %: all alike", "#9467bd")
    _banded(panel, counts, tops, "weight of the top friend", "#d62728")
    _against_equal_shares(panel, int(counts.max(initial=1)))
    panel.set_xlabel("F, friends with a history")
    panel.set_ylabel("share")
    _finish(panel, "no user in the sample hears two friends")


def _entropy(weights: Floats) -> float:
    some = weights[weights > 0]
    return float(-(some * np.log(some)).sum())


def _banded(panel: Axes, at: Indices, values: Floats, name: str, colour: str) -> None:
    """Median and 10-90 % band of `values` by powers of two of `at`."""
    if not len(at):
        return
    bins = np.floor(np.log2(at)).astype(np.int64)
    groups = [bins == number for number in np.unique(bins)]
    centres = [float(np.exp(np.log(at[group]).mean())) for group in groups]
    low, middle, high = (np.array([np.quantile(values[group], q) for group in groups]) for q in (0.1, 0.5, 0.9))
    panel.plot(centres, middle, color=colour, marker="o", markersize=4, label=name)
    panel.fill_between(centres, low, high, color=colour, alpha=0.15, linewidth=0)


def _against_equal_shares(panel: Axes, longest: int) -> None:
    panel.set_ylim(0, 1.03)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    if longest > 1 and panel.lines:
        at = np.geomspace(1, longest)
        panel.plot(at, 1 / at, color="0.5", linestyle=":", linewidth=1, label="equal shares")
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _finish(panel: Axes, otherwise: str) -> None:
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8, frameon=False)
    else:
        panel.text(0.5, 0.5, otherwise, transform=panel.transAxes, ha="center", va="center", color="0.4")
    panel.spines[["top", "right"]].set_visible(False)

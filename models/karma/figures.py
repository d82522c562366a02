"""Figures of the benchmark's page: attention before and after training, sinks by head, and what KARMA gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from features.files import replacing_file
from models.karma.comparison import Run, Runs, hit_gain
from models.karma.sinks import EPSILON

SHOWN = {
    "pretrained": ("before: pre-trained on texts", "0.6"),
    "action_only": ("action only", "#d62728"),
    "plus_generation": ("+ generation", "#ff7f0e"),
    "plus_reconstruction": ("+ reconstruction", "#9467bd"),
    "karma": ("KARMA", "#1f77b4"),
}
"""Name and colour of each arm."""

_GAINS = [
    *((f"HR@{k}, all positions", k, "all", "rank") for k in (10, 50, 200)),
    ("HR@50, all, query known", 50, "all", "rank_with_query"),
    ("HR@50, all, ids hidden", 50, "all", "rank_without_ids"),
    ("HR@50, first position", 50, "first", "rank"),
    ("HR@50, warm items", 50, "warm", "rank"),
    ("HR@50, cold items", 50, "cold", "rank"),
    ("HR@200, cold items", 200, "cold", "rank"),
]


def write_figures(runs: Runs, data: str, folder: Path) -> list[str]:
    """Write the figures that `runs` have the arms for; their file names. Equal runs give equal bytes."""
    made: list[tuple[str, Callable[[], Figure]]] = []
    if any(arm in runs for arm in SHOWN):
        made += [("attention", lambda: attention_figure(runs)), ("sinks", lambda: sink_figure(runs))]
    if "action_only" in runs and set(runs) & set(list(SHOWN)[2:]):
        made.append(("gains", lambda: gain_figure(runs)))
    names = []
    for name, draw in made:
        names.append(f"{name}-{data}.svg")
        with matplotlib.rc_context({"svg.hashsalt": "attractor"}), replacing_file(folder / names[-1]) as temporary:
            draw().savefig(temporary, format="svg", metadata={"Date": None})
    return names


def attention_figure(runs: Runs) -> Figure:
    """Attention weights of one history by head, one line an arm, seed of the first run; the same history for all."""
    arms: list[str] = [arm for arm in ("pretrained", "action_only", "karma") if arm in runs]
    arms = arms or [next(arm for arm in SHOWN if arm in runs)]
    maps = [(runs[arm][0].arrays["map"] / 255.0) ** 2 for arm in arms]
    layers, heads = maps[0].shape[:2]
    figure = Figure(figsize=(1.35 * layers * heads + 0.6, 1.6 * len(arms) + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(arms), layers * heads, squeeze=False)
    for row, (arm, weights) in enumerate(zip(arms, maps, strict=True)):
        for column in range(layers * heads):
            layer, head = divmod(column, heads)
            panel = panels[row, column]
            shown = np.sqrt(weights[layer, head])
            panel.imshow(shown, cmap="magma", vmin=0, vmax=1, interpolation="none", rasterized=True)
            panel.set_xticks([])
            panel.set_yticks([])
            if row == 0:
                panel.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
        panels[row, 0].set_ylabel(SHOWN[arm][0].split(":")[0], fontsize=9)
    figure.suptitle("Attention of one history: queries down, keys across; brightness is the square root", fontsize=9)
    return figure


def sink_figure(runs: Runs) -> Figure:
    """Share of histories with a sink, and the strongest column, by layer and head; bars are standard deviations."""
    arms = [arm for arm in SHOWN if arm in runs]
    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _bars(upper, runs, arms, "sink_share")
    upper.set_ylabel(f"histories with a sink, ε = {EPSILON}")
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    upper.set_ylim(bottom=0)
    upper.legend(fontsize=8, frameon=False, ncols=len(arms), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _bars(lower, runs, arms, "strongest")
    lower.set_ylabel("attention of the strongest key")
    lower.axhline(EPSILON, color="0.5", linestyle=":", linewidth=1)
    lower.set_xlabel("layer.head")
    return figure


def _bars(panel: Axes, runs: Runs, arms: Sequence[str], name: str) -> None:
    width = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        values = np.array([run.figures["collapse"][name] for run in runs[arm]])
        layers, heads = values.shape[1:]
        flat = values.reshape(len(values), -1)
        at = np.arange(layers * heads) + (place - (len(arms) - 1) / 2) * width
        spread = flat.std(axis=0, ddof=1) if len(flat) > 1 else None
        label, colour = SHOWN[arm]
        panel.bar(at, flat.mean(axis=0), width, yerr=spread, color=colour, label=label, error_kw={"linewidth": 0.8})
        panel.set_xticks(range(layers * heads))
        panel.set_xticklabels([f"{place // heads + 1}.{place % heads + 1}" for place in range(layers * heads)])
    panel.spines[["top", "right"]].set_visible(False)


def gain_figure(runs: Runs) -> Figure:
    """Points of HR that each regularised arm has over action only, with 95 % intervals over users."""
    arms = [arm for arm in list(SHOWN)[2:] if arm in runs]
    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panel: Any = figure.subplots()
    for place, arm in enumerate(arms):
        label, colour = SHOWN[arm]
        for line, (_, k, part, ranks) in enumerate(_GAINS):
            found = hit_gain(runs, arm, "action_only", k, part=part, ranks=ranks)
            if found is None:
                continue
            reach = [[100 * (found.mean - found.low)], [100 * (found.high - found.mean)]]
            at = line + 0.22 * (place - (len(arms) - 1) / 2)
            named = label if line == 0 else None
            panel.errorbar(100 * found.mean, at, xerr=reach, fmt="o", color=colour, markersize=4, label=named)
    panel.axvline(0, color="0.5", linewidth=0.8)
    panel.set_yticks(range(len(_GAINS)))
    panel.set_yticklabels([name for name, *_ in _GAINS])
    panel.invert_yaxis()
    panel.set_xlabel("points over action only, 95 % interval (users resampled)")
    panel.legend(fontsize=8, frameon=False, ncols=len(arms), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def mean_over_heads(run: Run, name: str) -> float:
    """A measure of collapse, averaged over layers and heads."""
    return float(np.mean(run.figures["collapse"][name]))

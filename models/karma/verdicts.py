"""What KARMA is to show, and whether the finished runs show it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.karma.comparison import Run, Runs, hit_gain, stage_gain
from models.karma.figures import mean_over_heads
from models.metrics import Interval

SINK_SHARE, TOKEN_ACCURACY = 0.5, 3.0
"""KARMA has at most so much of action only's share of sinks, and at least so many times its decoded-token accuracy."""


@dataclass(frozen=True)
class Verdict:
    """One aim: what came out, and whether that is it; None where runs are missing."""

    aim: str
    found: str
    met: bool | None


def judged(runs: Runs) -> list[Verdict]:
    """Every aim in turn."""
    # Cold items compete with known ones of the same meaning, which stand before them: few or none reach the first 50.
    aims = [
        ("HR@50 over all positions, KARMA above action only", 50, "all"),
        ("HR@200 of cold items, the same", 200, "cold"),
    ]
    gains = [_gain(aim, hit_gain(runs, "karma", "action_only", k, part=part)) for aim, k, part in aims]
    ranker = stage_gain(runs.get("karma", []), "auc", "with_z")
    return [
        *gains,
        _share(runs),
        _accuracy(runs),
        _gain("AUC of the ranker, with KARMA's embedding above without", ranker),
    ]


def verdicts(runs: Runs) -> Iterator[str]:
    """The table of aims."""
    yield "| aim | found | met |"
    yield "|---|---|---|"
    for verdict in judged(runs):
        met = {None: "not run", True: "**yes**", False: "**no**"}[verdict.met]
        yield f"| {verdict.aim} | {verdict.found} | {met} |"
    yield ""


def _gain(aim: str, found: Interval | None) -> Verdict:
    if found is None:
        return Verdict(f"{aim}, interval without zero", "", None)
    told = f"{100 * found.mean:+.2f} points [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    return Verdict(f"{aim}, interval without zero", told, found.low > 0)


def _share(runs: Runs) -> Verdict:
    aim = "heads with a sink, at most half of action only's"
    groups = _both(runs)
    if groups is None:
        return Verdict(aim, "", None)
    theirs, ours = (statistics.fmean(mean_over_heads(run, "sink_share") for run in group) for group in groups)
    met = theirs > 0.0 and ours <= SINK_SHARE * theirs
    return Verdict(aim, f"{100 * ours:.1f} % against {100 * theirs:.1f} %", met)


def _accuracy(runs: Runs) -> Verdict:
    aim = "decoded tokens right, at least three times action only's"
    groups = _both(runs)
    if groups is None:
        return Verdict(aim, "", None)
    theirs, ours = (
        statistics.fmean(run.figures["fidelity"]["decoded"]["own"]["token_accuracy"] for run in group)
        for group in groups
    )
    return Verdict(aim, f"{100 * ours:.1f} % against {100 * theirs:.1f} %", ours >= TOKEN_ACCURACY * theirs)


def _both(runs: Runs) -> tuple[Sequence[Run], Sequence[Run]] | None:
    if "action_only" not in runs or "karma" not in runs:
        return None
    return runs["action_only"], runs["karma"]

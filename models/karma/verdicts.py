"""What KARMA is to show, and whether the finished runs show it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from models.karma.comparison import Run, Runs, common, hit_gain, stage_gain
from models.karma.figures import mean_over_heads
from models.metrics import Interval

SINK_SHARE, TOKEN_ACCURACY = 0.5, 3.0
"""KARMA has at most so much of action only's share of sinks, and at least so many times its decoded-token accuracy."""

FEW_SINKS = 0.01
"""With a smaller share of sinks, actions alone have not collapsed: there is nothing to halve."""


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
        ("HR@50 over all positions, KARMA above action only", 50, "all", ""),
        ("the same, both with compressed histories", 50, "all", "_compressed"),
        ("HR@200 of cold items, KARMA above action only", 200, "cold", ""),
    ]
    gains = [
        _gain(aim, hit_gain(runs, f"karma{history}", f"action_only{history}", k, part=part))
        for aim, k, part, history in aims
    ]
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
    pairs = common(runs, "karma", "action_only")
    if not pairs:
        return Verdict(aim, "", None)
    ours, theirs = _means(pairs, lambda run: mean_over_heads(run, "sink_share"))
    found = f"{100 * ours:.2f} % against {100 * theirs:.2f} %"
    if theirs < FEW_SINKS:
        return Verdict(aim, f"{found}: too few to halve", False)
    return Verdict(aim, found, ours <= SINK_SHARE * theirs)


def _accuracy(runs: Runs) -> Verdict:
    """The whole accuracy is mostly what the words of any item are; what one's own embedding adds is told beside it."""
    aim = "decoded tokens right, at least three times action only's"
    pairs = common(runs, "karma", "action_only")
    if not pairs:
        return Verdict(aim, "", None)
    own, of_another = (
        _means(pairs, lambda run, z=z: float(run.figures["fidelity"]["decoded"][z]["token_accuracy"]))  # type: ignore[misc]
        for z in ("own", "shuffled")
    )
    ours, theirs = own
    gains = [f"{100 * (mine - others):+.1f}" for mine, others in zip(own, of_another, strict=True)]
    found = f"{100 * ours:.1f} % against {100 * theirs:.1f} %; above another user's: {' against '.join(gains)} points"
    return Verdict(aim, found, 0.0 < ours >= TOKEN_ACCURACY * theirs)


def _means(pairs: Sequence[tuple[Run, Run]], measure: Callable[[Run], float]) -> tuple[float, float]:
    """Means over the seeds of pairs of runs."""
    ours, theirs = zip(*pairs, strict=True)
    return statistics.fmean(map(measure, ours)), statistics.fmean(map(measure, theirs))

"""What KARMA is to show, and whether the finished runs show it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from models.karma.comparison import Run, Runs, common, hit_gain, stage_gain
from models.karma.figures import mean_over_heads
from models.metrics import Interval

Pairs = Sequence[tuple[Run, Run]]
"""Runs of KARMA and of action only, on the same seeds."""

SINK_SHARE, TOKEN_ACCURACY = 0.5, 3.0
"""KARMA has at most so much of action only's share of sinks, and at least so many times its decoded-token accuracy."""

FEW_SINKS = 0.01
"""With a smaller share of sinks, actions alone have not collapsed: there is nothing to halve."""

SEEDS = 3
"""That an aim asks for: trainings differ by as much as some gains."""


@dataclass(frozen=True)
class Verdict:
    """One aim: what came out, whether that is it, None where nothing was run or measured, and on how many seeds."""

    aim: str
    found: str
    met: bool | None
    seeds: int


def judged(runs: Runs, *, history: str = "") -> list[Verdict]:
    """Every aim in turn, for arms of histories of words, or with `history` "_compressed"."""
    ours, theirs = f"karma{history}", f"action_only{history}"
    pairs, alone = common(runs, ours, theirs), runs.get(ours, [])
    both = len(pairs)
    # Cold items compete with known ones of the same meaning, which stand before them: few or none reach the first 50.
    return [
        _gain("HR@50 over all positions, KARMA above action only", hit_gain(runs, ours, theirs, 50), both),
        _gain("HR@200 of cold items, KARMA above action only", hit_gain(runs, ours, theirs, 200, part="cold"), both),
        _share(pairs),
        _accuracy(pairs),
        _gain("AUC of the ranker, KARMA's embedding above none", stage_gain(alone, "auc", "with_z"), len(alone)),
    ]


def verdicts(runs: Runs) -> Iterator[str]:
    """The table of aims."""
    yield "| aim | histories of words | met | compressed histories | met |"
    yield "|---|---|---|---|---|"
    for words, compressed in zip(judged(runs), judged(runs, history="_compressed"), strict=True):
        told = [f"{verdict.found or 'not run'} | {_met(verdict)}" for verdict in (words, compressed)]
        yield f"| {words.aim} | {' | '.join(told)} |"
    yield ""


def _met(verdict: Verdict) -> str:
    if verdict.met and verdict.seeds < SEEDS:
        return f"on {verdict.seeds} of {SEEDS} seeds"
    return {None: "", True: "**yes**", False: "**no**"}[verdict.met]


def _gain(aim: str, found: Interval | None, seeds: int) -> Verdict:
    aim = f"{aim}, interval without zero"
    if found is None:
        return Verdict(aim, "", None, seeds)
    told = f"{100 * found.mean:+.2f} points [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    return Verdict(aim, told, found.low > 0, seeds)


def _share(pairs: Pairs) -> Verdict:
    aim = "heads with a sink, at most half of action only's"
    if not pairs:
        return Verdict(aim, "", None, 0)
    pairs = [pair for pair in pairs if all(run.figures.get("collapse") for run in pair)]
    if not pairs:
        return Verdict(aim, "not measured", None, 0)
    ours, theirs = _means(pairs, lambda run: mean_over_heads(run, "sink_share"))
    found = f"{100 * ours:.2f} % against {100 * theirs:.2f} %"
    if theirs < FEW_SINKS:
        return Verdict(aim, f"{found}: too few to halve", False, len(pairs))
    return Verdict(aim, found, ours <= SINK_SHARE * theirs, len(pairs))


def _accuracy(pairs: Pairs) -> Verdict:
    """The whole accuracy is mostly what the words of any item are; what one's own embedding adds is told beside it."""
    aim = "decoded tokens right, at least three times action only's"
    if not pairs:
        return Verdict(aim, "", None, 0)
    own, of_another = (
        _means(pairs, lambda run, z=z: float(run.figures["fidelity"]["decoded"][z]["token_accuracy"]))  # type: ignore[misc]
        for z in ("own", "shuffled")
    )
    ours, theirs = own
    gains = [f"{100 * (mine - others):+.1f}" for mine, others in zip(own, of_another, strict=True)]
    found = f"{100 * ours:.1f} % against {100 * theirs:.1f} %; above another user's: {' against '.join(gains)} points"
    return Verdict(aim, found, 0.0 < ours >= TOKEN_ACCURACY * theirs, len(pairs))


def _means(pairs: Pairs, measure: Callable[[Run], float]) -> tuple[float, float]:
    """Means over the seeds of pairs of runs."""
    ours, theirs = zip(*pairs, strict=True)
    return statistics.fmean(map(measure, ours)), statistics.fmean(map(measure, theirs))

"""Finished runs of one data set, and what they say of two arms: means over seeds, paired bootstrap over users."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.files import is_temporary, read_json
from models.karma.benchmark import SWITCHES, arms
from models.karma.config import KarmaConfig
from models.metrics import Interval, interval_of, paired_bootstrap


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run: its figures, and its arrays by name."""

    figures: Mapping[str, Any]
    arrays: Mapping[str, Any]

    def hits(self, k: int, *, ranks: str = "rank") -> Any:
        """Whether each position's target is among the first k, by one of the kept ranks."""
        return self.arrays[ranks] <= k


Runs = dict[str, list[Run]]
"""Runs by arm, in order of seed; all of one configuration and one state of the data."""

PARTS: Mapping[str, Callable[[Run], Any]] = {
    "all": lambda run: np.ones(len(run.arrays["user"]), np.bool_),
    "first": lambda run: run.arrays["first"],
    "warm": lambda run: ~run.arrays["cold"],
    "cold": lambda run: run.arrays["cold"],
    "new": lambda run: run.arrays["new"],
}
"""Which positions count."""


def read_runs(folder: Path) -> Runs:
    """The runs below `folder`; those of another configuration or state of the data than the first seed's are left out.

    The data's state is that of `action_only`, or of whatever arm comes first; so are KARMA's settings but for what an
    arm changes. A setting that came later counts as stored at its default.
    """
    runs: Runs = {}
    files = sorted(file for file in folder.glob("*.json") if not is_temporary(file))
    for figures in sorted((read_json(file) for file in files), key=lambda figures: int(figures["seed"])):
        with np.load(folder / f"{figures['arm']}-{figures['seed']}.npz", allow_pickle=False) as stored:
            run = Run(figures, dict(stored))
        group = runs.setdefault(figures["arm"], [])
        if not group or _kind(group[0]) == _kind(run):
            group.append(run)
    if not runs:
        return runs
    anchor = (runs.get("action_only") or next(iter(runs.values())))[0]
    return {arm: group for arm, group in runs.items() if _comparable(group[0], anchor)}


def _kind(run: Run) -> Any:
    return [run.figures["version"], run.figures["fingerprint"], _settings(run)]


def _settings(run: Run) -> list[dict[str, Any]]:
    """The settings of each trial."""
    defaults = asdict(type(arms(KarmaConfig())[run.figures["arm"]][0])())
    return [{**defaults, **trial["configuration"]} for trial in run.figures["trials"]]


def _comparable(run: Run, anchor: Run) -> bool:
    if any(run.figures[name] != anchor.figures[name] for name in ("version", "fingerprint")):
        return False
    names = {run.figures["arm"], anchor.figures["arm"]}
    if not names <= SWITCHES.keys():
        return True
    free = {setting for name in (*names, "action_only") for setting in SWITCHES[name]}
    one, other = ({name: value for name, value in _settings(of)[0].items() if name not in free} for of in (run, anchor))
    return one == other


def common(runs: Runs, one: str, other: str) -> list[tuple[Run, Run]]:
    """Runs of two arms on the same seeds."""
    seeds = {run.figures["seed"]: run for run in runs.get(other, [])}
    return [(run, seeds[run.figures["seed"]]) for run in runs.get(one, []) if run.figures["seed"] in seeds]


def hit_gain(runs: Runs, one: str, other: str, k: int, *, part: str = "all", ranks: str = "rank") -> Interval | None:
    """HR@k of one arm less that of the other, averaged over their common seeds; users are resampled.

    None where there is nothing to compare.
    """
    pairs = common(runs, one, other)
    if not pairs:
        return None
    chosen, user = PARTS[part](pairs[0][0]), pairs[0][0].arrays["user"]
    gains = [ours.hits(k, ranks=ranks).astype(float) - theirs.hits(k, ranks=ranks) for ours, theirs in pairs]
    return paired_bootstrap(np.mean(gains, axis=0)[chosen], user[chosen]) if chosen.any() else None


def stage_gain(group: Sequence[Run], measure: str, ranker: str) -> Interval | None:
    """What the embedding adds to a downstream stage, averaged over the seeds of an arm; users are resampled."""
    if not group:
        return None
    name = measure if measure == "pre_ranking" else f"{measure}_{ranker}"
    told = [run.figures["downstream"][measure] for run in group]
    mean = statistics.fmean(figures[ranker] - figures["base"] for figures in told)
    return interval_of(mean, np.mean([run.arrays[f"replicates_{name}"] for run in group], axis=0))


def recall_gain(group: Sequence[Run], counting: Run, k: int, *, beside: bool = False) -> Interval | None:
    """HR@k of the embedding's nearest items less that of `counting`, averaged over an arm's seeds; users are resampled.

    `beside` takes the first k / 2 of each in the embedding's place.
    """
    if not group:
        return None
    alone = counting.hits(k).astype(float)
    hits = [(run.hits(k // 2) | counting.hits(k // 2)) if beside else run.hits(k) for run in group]
    return paired_bootstrap(np.mean(hits, axis=0) - alone, counting.arrays["user"])

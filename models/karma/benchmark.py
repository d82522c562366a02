"""KARMA's four arms and their baselines on one data set: one file of figures and one of arrays a run, found again.

A run is one (data set, arm, seed). The arms of a seed start from one pre-training and differ in their λ alone. A
baseline with several trials trains them all on the first seed and keeps the one that is best on the validation window.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.configuration import Configuration
from features.errors import MissingInput
from features.files import read_json, replacing_file, sha256_of_json, write_json
from features.landing import is_landed, land
from features.sources import SourceConfig
from features.sources.market import FACETS
from features.training_sets import TrainingSet, build_training_sets, read_training_set
from models.benchmark import FIRST_SEED, Share, environment, peak_memory_mib, require_first_seed, reset_peak_memory
from models.karma.baselines import (
    Neighbours,
    SasrecConfig,
    moved,
    neighbours_grid,
    neighbours_score,
    sasrec_grid,
    sasrec_score,
    train_sasrec,
)
from models.karma.config import NAMED, KarmaConfig, switched
from models.karma.evaluation import Score, popularity_score, score_ranks, smooth_gain
from models.karma.judging import (
    VERSION,
    Arrays,
    Exam,
    Window,
    exam_of,
    judge_network,
    judge_scores,
    judge_start,
    rank_figures,
    stage_of,
    validation_figures,
)
from models.karma.training import train_karma

_LIBRARIES = ("torch", "transformers", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Popularity:
    """Nothing to set."""


Config = KarmaConfig | SasrecConfig | Neighbours | Popularity
Arms = Mapping[str, tuple[Config, ...]]

SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "pretrained": {**switched("action_only"), "steps": 0},
    **{name: switched(name) for name in NAMED},
    "action_only_compressed": {**switched("action_only"), "history": "compressed"},
    "karma_compressed": {"history": "compressed"},
}
"""What each arm changes of the data set's settings. `pretrained` is where all start but the last two, which share a
language model that also learns to write a text from its soft tokens."""


# Every arm runs all its steps, so that the rate has fallen for all of them, and keeps its best. Four layers, because
# two grow no sinks to measure. Ids are dropped harder than for a night: with 0.3 they learn what the text could say.
_SHARED = KarmaConfig(layers=4, validate_every=50, patience=8, validation_users=1500, id_dropout=0.7)
SETTINGS: Mapping[str, KarmaConfig] = {"synthetic": _SHARED, "lastfm": _SHARED}
"""What all arms of a data set share; chosen on its validation window, see models/LOG.md."""


def read_data(configuration: Configuration, date: dt.date) -> TrainingSet:
    """The data set of a configuration as of `date`, landed and built where it is not yet."""
    if not is_landed(configuration, date):
        land(configuration, date)
    try:
        return read_training_set(configuration, date, "karma_training_v1")
    except MissingInput:
        build_training_sets(configuration, date)
        return read_training_set(configuration, date, "karma_training_v1")


def read_exam(configuration: Configuration, date: dt.date, settings: KarmaConfig) -> Exam:
    """The data set as it is judged, prepared for `settings`."""
    training_set = read_data(configuration, date)
    kind = configuration.section("source", SourceConfig).kind
    facets = {facet.name: facet.words for facet in FACETS} if kind == "synthetic" else {}
    return exam_of(training_set, settings, facets=facets)


def arms(config: KarmaConfig) -> Arms:
    """Every arm by name, and its trials."""
    return {
        "popularity": (Popularity(),),
        "item_to_item": neighbours_grid(),
        "sasrec": sasrec_grid(),
        **{name: (replace(config, **changed),) for name, changed in SWITCHES.items()},
    }


@dataclass(frozen=True)
class Places:
    """Where unfinished runs wait, and where finished ones are kept."""

    work: Path
    results: Path

    def result(self, data: str, arm: str, seed: int) -> Path:
        """The file of a finished run's figures; its arrays lie beside it."""
        return self.results / data / f"{arm}-{seed}.json"


@dataclass(frozen=True, eq=False)
class Trained:
    """One trial as trained: its value on validation, and how to judge it on the test window."""

    value: float
    best_step: int
    steps: int
    validation: Mapping[str, Any]
    judge: Callable[[], tuple[dict[str, Any], Arrays]]


def run_benchmark(
    data: str,
    exam: Exam,
    chosen: Arms,
    seeds: Sequence[int],
    *,
    places: Places,
    clock: Callable[[], float],
    announce: Callable[[str], None],
    finished: Callable[[], None] = lambda: None,
) -> None:
    """Do the runs that are not done, seed by seed; `clock` counts seconds, `finished` is called after each run.

    Raises MissingInput for an arm with trials whose first seed, which chooses among them, was not run.
    """
    require_trials(data, chosen, seeds, places)
    for seed in seeds:
        for arm, trials in chosen.items():
            name = f"{data} {arm} seed {seed}"
            if done(data, exam, arm, trials, seed, places) is not None:
                announce(f"{name}: done before with the same configuration, re-used")
                continue
            announce(f"{name} …")
            run = _Run(data, exam, arm, trials, seed, places, clock)
            result, arrays = run.result()
            _keep(places.result(data, arm, seed), result, arrays)
            shutil.rmtree(run.folder, ignore_errors=True)
            announce(f"{name}: done in {result['seconds']} s")
            finished()


def shares(chosen: Arms, seeds: Sequence[int]) -> list[Share]:
    """What processes do side by side: arms that share a pre-training stay together, and the seeds of trials."""
    starts: dict[Config, list[str]] = {}
    counted = []
    for arm, trials in chosen.items():
        if isinstance(trials[0], KarmaConfig):
            starts.setdefault(_before_arms(trials[0]), []).append(arm)
        else:
            counted.append(Share((arm,), tuple(seeds)))
    return [Share(tuple(names), (seed,)) for seed in seeds for names in starts.values()] + counted


def require_trials(data: str, chosen: Arms, seeds: Sequence[int], places: Places) -> None:
    """Raise MissingInput if an arm has several trials and nothing to choose among them by."""
    counts = {arm: len(trials) for arm, trials in chosen.items()}
    require_first_seed(counts, seeds, result=lambda arm, seed: places.result(data, arm, seed))


def done(data: str, exam: Exam, arm: str, trials: Sequence[Config], seed: int, places: Places) -> dict[str, Any] | None:
    """The finished run of these very trials on this data, if there is one."""
    file = places.result(data, arm, seed)
    if not (file.is_file() and file.with_suffix(".npz").is_file()):
        return None
    result = read_json(file)
    same = result["version"] == VERSION and result["fingerprint"] == exam.training_set.fingerprint
    stored = [trial["configuration"] for trial in result["trials"]]
    same = same and len(stored) == len(trials)
    # what compressed histories pay attention to was not always measured
    same = same and (arm not in SWITCHES or "collapse" in result)
    return result if same and all(map(same_settings, stored, trials)) else None


def same_settings(stored: Mapping[str, Any], config: Config) -> bool:
    """Whether `config` is what was stored. A setting that came later counts as stored at its default."""
    now, defaults = asdict(config), asdict(type(config)())
    return stored.keys() <= now.keys() and all(now[name] == stored.get(name, defaults[name]) for name in now)


@dataclass(frozen=True, eq=False)
class _Run:
    """One arm on one seed."""

    data: str
    exam: Exam
    arm: str
    trials: tuple[Config, ...]
    seed: int
    places: Places
    clock: Callable[[], float]

    @property
    def folder(self) -> Path:
        # by all that decides it, so that a changed configuration never continues an older one's training
        decisive = [[asdict(trial) for trial in self.trials], self.exam.training_set.fingerprint]
        return self.places.work / self.data / f"{self.arm}-{self.seed}-{sha256_of_json(decisive)[:12]}"

    def result(self) -> tuple[dict[str, Any], Arrays]:
        """Figures and arrays of the kept trial, and on validation what it was chosen from."""
        reset_peak_memory()
        started = self.clock()
        tried = {k: self._train(k) for k in self._candidates()}
        kept = max(tried, key=lambda k: tried[k].value)
        seconds = round(self.clock() - started, 1)
        told, arrays = tried[kept].judge()
        positions = self.exam.test.positions
        arrays |= {"user": positions.user.astype(np.int32), "first": positions.first}
        arrays |= {"cold": positions.cold, "new": positions.new}
        return {
            "version": VERSION,
            "fingerprint": self.exam.training_set.fingerprint,
            "data": self.data,
            "arm": self.arm,
            "seed": self.seed,
            "trials": [{"configuration": asdict(trial)} for trial in self.trials],
            "trial": kept,
            "competed": {str(k): trained.value for k, trained in tried.items()},
            "validation": dict(tried[kept].validation),
            "steps": tried[kept].steps,
            "best_step": tried[kept].best_step,
            "seconds": seconds,  # of training and of the validations that steer it
            "peak_memory_mib": peak_memory_mib(),
            "facts": self.exam.facts(),
            "environment": environment(_LIBRARIES),
            **told,
        }, arrays

    def _candidates(self) -> Sequence[int]:
        if self.seed == FIRST_SEED or len(self.trials) == 1:
            return range(len(self.trials))
        first = done(self.data, self.exam, self.arm, self.trials, FIRST_SEED, self.places)
        if first is None:
            raise MissingInput(f"{self.data} {self.arm}: seed {FIRST_SEED} is of other data or settings; run it anew")
        return [int(first["trial"])]

    def _train(self, k: int) -> Trained:
        config, checkpoint = self.trials[k], self.folder / str(k)
        if isinstance(config, KarmaConfig):
            return self._train_karma(config, checkpoint)
        if isinstance(config, SasrecConfig):
            return self._train_sasrec(config, checkpoint)
        return _count(self.exam, config)

    def _train_karma(self, config: KarmaConfig, checkpoint: Path) -> Trained:
        exam = self.exam
        trained = train_karma(
            exam.training_set,
            config,
            seed=self.seed,
            checkpoint=checkpoint,
            pretraining=self.places.work / self.data / f"pretraining-{self.seed}-{_start(exam, config)}",
        )
        network, steps, best_step = trained.network, trained.metrics["steps"], trained.metrics["best_step"]
        if not config.steps:
            return Trained(0.0, best_step, steps, {}, lambda: judge_start(exam, network))
        learned = stage_of(exam.validation, network)
        validation = validation_figures(learned)
        value = validation["all"]["HR@50"]
        return Trained(value, best_step, steps, validation, lambda: judge_network(exam, network, learned))

    def _train_sasrec(self, config: SasrecConfig, checkpoint: Path) -> Trained:
        exam, world = self.exam, self.exam.validation.world
        histories = [history.items for history in world.histories.values()]
        items, targets = len(world.catalogue), exam.validation.positions.targets
        network, ran = train_sasrec(histories, items, targets, config, seed=self.seed, checkpoint=checkpoint)
        recent = exam.test.world
        to_new = np.array([recent.row_of[item] for item in world.catalogue.ids], np.int64)
        on_test = moved(sasrec_score(network, config), to_new, len(recent.catalogue))
        validation = _figures(exam.validation, sasrec_score(network, config))
        return Trained(ran.best_value, ran.best_step, ran.steps, validation, lambda: judge_scores(exam.test, on_test))


def _count(exam: Exam, config: Neighbours | Popularity) -> Trained:
    """A baseline that only counts; on the test window it counts what was known when that started."""

    def score(window: Window) -> Score:
        if isinstance(config, Popularity):
            return popularity_score(window.world.event_count)
        return neighbours_score(window.likeness, config)

    value = smooth_gain(score_ranks(exam.validation.positions.targets, score(exam.validation)))
    validation = _figures(exam.validation, score(exam.validation))
    return Trained(value, 0, 0, validation, lambda: judge_scores(exam.test, score(exam.test)))


def _figures(window: Window, score: Score) -> dict[str, dict[str, float]]:
    return rank_figures(window.positions, score_ranks(window.positions.targets, score))


def _start(exam: Exam, config: KarmaConfig) -> str:
    """A name for what decides the pre-trained weights: equal for all arms of a data set."""
    return sha256_of_json([asdict(_before_arms(config)), exam.training_set.fingerprint])[:12]


def _before_arms(config: KarmaConfig) -> KarmaConfig:
    """The settings that pre-training depends on, and the rest alike."""
    return replace(config, lambda_generation=0.0, lambda_reconstruction=0.0, steps=0)


def _keep(file: Path, result: Mapping[str, Any], arrays: Arrays) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(file.with_suffix(".npz")) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_json(file, result)

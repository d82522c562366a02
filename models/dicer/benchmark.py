"""DICER, its ablations and the baselines on public data: one JSON file a run, found again by whoever asks next.

A run is one (protocol, arm, seed). An arm with several trials trains them all on the first seed, keeps the one that is
best on the validation part, and uses its configuration for every other seed. Only the kept one ever sees the test part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from features.errors import MissingInput
from features.files import read_json, sha256_of_json, write_json
from features.social_alignment import require_alignment
from models.benchmark import FIRST_SEED, Share, environment, peak_memory_mib, require_first_seed, reset_peak_memory
from models.dicer.baselines import (
    FactorConfig,
    bpr_grid,
    lightgcn_grid,
    popularity_scorers,
    steps_per_epoch,
    train_factors,
)
from models.dicer.config import NAMED, DicerConfig
from models.dicer.evaluation import Scorers
from models.dicer.protocols import Protocol, Split
from models.training import Fit

_WHOLE_MODELS = ("dicer", "dicer_plus")
_GAT_CAP = 20  # its layers hold a row for each edge: 25 million edges of Ciao would take 6.5 GB a layer
# Against the paper's dropout of 0.5, by the validation part: better on `paper` in 40 % fewer steps, on `full` better
# than popularity, which 0.5 is not after 350 steps; on `lastfm` worse. The figures are in models/LOG.md.
_LESS_DROPOUT = {"dropout": 0.2, "negatives": 4, "learning_rate": 0.01}
_TUNED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("paper", "dicer"): _LESS_DROPOUT,
    # A look at 600 users ranks 7 million pairs (on lastfm 10), which takes as long as 20 steps: 200 have to do.
    ("full", "dicer"): {**_LESS_DROPOUT, "users_per_step": 910, "validation_users": 200},
    ("lastfm", "dicer"): {"validate_every": 50, "validation_users": 200},
    ("lastfm", "dicer_plus"): {"temperature": 0.15},  # by the validation part, as elsewhere 0.2: models/LOG.md
}
# A quarter of a step's time at d = 128, so that every ablation has three seeds (models/LOG.md).
_ABLATION_SIZE = {**_LESS_DROPOUT, "dimension": 32, "hidden": 32, "steps": 200}
_ADVICE = "Nothing was run. Check which file of --data the relations come from: its users must be those of the events"
_LIBRARIES = ("torch", "torch-geometric", "numpy", "scipy")


@dataclass(frozen=True)
class Counting:
    """Popularity has nothing to set."""

    validation_users: int = 1


Config = DicerConfig | FactorConfig | Counting


@dataclass(frozen=True, eq=False)
class Trained:
    """A model to ask, and how its training went; an epoch is as many drawn pairs as there are in train."""

    scorers: Scorers
    steps: int
    best_step: int
    epochs: float


Train = Callable[[Split, Any, Callable[[Scorers], float], int, Path], Trained]
"""`train(split, config, validate, seed, checkpoint)`: continues from `checkpoint`, a directory, if there is one."""


@dataclass(frozen=True, eq=False)
class Arm:
    """What is compared: one or more configurations, and how to train them."""

    name: str
    trials: tuple[Config, ...]
    train: Train
    graphs: Mapping[str, Any] = field(default_factory=dict)  # how the graphs are made that it hears


@dataclass(frozen=True)
class Places:
    """Where the data is, where unfinished runs wait, and where finished ones are kept."""

    data: Path
    work: Path
    results: Path

    def result(self, protocol: str, arm: str, seed: int) -> Path:
        """The file of a finished run."""
        return self.results / protocol / f"{arm}-{seed}.json"


def arms(protocol: str, *, similar_cap: int | None = None, device: str = "cpu") -> Mapping[str, Arm]:
    """Every arm by name. A node hears its `similar_cap` most similar ones at most; None hears all of eq. 1."""
    listed = [
        Arm("popularity", (Counting(),), _count),
        Arm("bpr", _on(bpr_grid(), device), _train_factors),
        Arm("lightgcn", _on(lightgcn_grid(), device), _train_factors),
        *(
            _dicer_arm(name, replace(named(), **_settings(protocol, name)), similar_cap, device)
            for name, named in NAMED.items()
        ),
    ]
    return {arm.name: arm for arm in listed}


def _settings(protocol: str, name: str) -> Mapping[str, Any]:
    """What an arm has otherwise than its named configuration."""
    return _TUNED.get((protocol, name), {}) if name in _WHOLE_MODELS else _ABLATION_SIZE


def _dicer_arm(name: str, config: DicerConfig, similar_cap: int | None, device: str) -> Arm:
    cap = _GAT_CAP if config.encoder == "gat" and similar_cap is None else similar_cap
    return Arm(name, _on((config,), device), _dicer_training(cap), {"similar_cap": cap})


def usual_arms(protocol: str) -> list[str]:
    """What a protocol is run for if nothing else is asked: ablations belong to the paper's."""
    listed = list(arms(protocol))
    return listed if protocol == "paper" else [name for name in listed if name not in NAMED or name in _WHOLE_MODELS]


def run_benchmark(
    protocol: Protocol,
    chosen: Sequence[Arm],
    seeds: Sequence[int],
    *,
    places: Places,
    clock: Callable[[], float],
    announce: Callable[[str], None],
    finished: Callable[[], None] = lambda: None,
) -> None:
    """Do the runs that are not done; `clock` counts seconds, `finished` is called after each run.

    Raises MissingInput if the data is not there, or if an arm with trials is asked for a later seed before the first
    one chose among them; SocialMisalignment if the data's network is of other people.
    """
    require_trials(protocol.name, chosen, seeds, places)
    data = _Data(protocol, places.data)
    for arm in chosen:
        for seed in seeds:
            name = f"{protocol.name} {arm.name} seed {seed}"
            before = done(protocol, arm, seed, places, fingerprint=data.fingerprint(seed))
            if before is not None:
                same = "configuration and data" if "data" in before else "configuration, of data that it does not name"
                announce(f"{name}: done before with the same {same}, re-used")
                continue
            announce(f"{name} …")
            run = _Run(protocol, arm, seed, places, clock, data)
            result = run.result()
            write_json(places.result(protocol.name, arm.name, seed), result)
            shutil.rmtree(run.folder, ignore_errors=True)
            announce(f"{name}: {protocol.selection} {result['test'][protocol.selection]:.4f} in {result['seconds']} s")
            finished()


def shares(chosen: Sequence[Arm], seeds: Sequence[int]) -> list[Share]:
    """What processes do side by side: all but the seeds of an arm with trials, which the first one chooses."""
    free = [Share((arm.name,), (seed,)) for seed in seeds for arm in chosen if len(arm.trials) == 1]
    return free + [Share((arm.name,), tuple(seeds)) for arm in chosen if len(arm.trials) > 1]


def require_trials(protocol: str, chosen: Sequence[Arm], seeds: Sequence[int], places: Places) -> None:
    """Raise MissingInput if an arm has several trials and nothing to choose among them by."""
    counts = {arm.name: len(arm.trials) for arm in chosen}
    require_first_seed(counts, seeds, result=lambda arm, seed: places.result(protocol, arm, seed))


def done(protocol: Protocol, arm: Arm, seed: int, places: Places, *, fingerprint: str) -> dict[str, Any] | None:
    """The finished run of these very trials on the data of `fingerprint`, if there is one.

    A run from before its data was recorded is taken for one.
    """
    file = places.result(protocol.name, arm.name, seed)
    if not file.is_file():
        return None
    result = read_json(file)
    same = result["identity"] == identity(protocol, arm) and result.get("data", fingerprint) == fingerprint
    return result if same else None


def identity(protocol: Protocol, arm: Arm) -> str:
    """What decides a run beside its seed: protocol, metrics, graphs and every trial's configuration."""
    trials = [asdict(config) for config in arm.trials]
    return sha256_of_json([protocol.name, protocol.cutoffs, protocol.selection, arm.name, dict(arm.graphs), trials])


@dataclass(eq=False)
class _Data:
    """A protocol's splits by seed: the latest is held for the next arm, and of all that were read the fingerprint."""

    protocol: Protocol
    folder: Path
    _latest: tuple[int, Split] | None = None
    _fingerprints: dict[int, str] = field(default_factory=dict)

    def split(self, seed: int) -> Split:
        """A split whose network belongs to its people. Raises SocialMisalignment if it does not."""
        if self._latest is None or self._latest[0] != seed:
            self._latest = None  # two at a time would double the memory
            split = self.protocol.read(self.folder, seed)
            if seed not in self._fingerprints:
                require_alignment(split.alignment, advice=_ADVICE)
                self._fingerprints[seed] = split.fingerprint()
            self._latest = seed, split
        return self._latest[1]

    def fingerprint(self, seed: int) -> str:
        """What the split of a seed is told by."""
        if seed not in self._fingerprints:
            self.split(seed)
        return self._fingerprints[seed]


@dataclass(frozen=True, eq=False)
class _Run:
    """One arm on one seed."""

    protocol: Protocol
    arm: Arm
    seed: int
    places: Places
    clock: Callable[[], float]
    data: _Data

    @property
    def folder(self) -> Path:
        # by identity and data, so that nothing continues a training of another configuration or of other data
        told = sha256_of_json([identity(self.protocol, self.arm), self.data.fingerprint(self.seed)])
        return self.places.work / self.protocol.name / f"{self.arm.name}-{self.seed}-{told[:12]}"

    def result(self) -> dict[str, Any]:
        """The whole file: the kept trial on both parts, and on validation what it was chosen from."""
        reset_peak_memory()
        split, selection = self.data.split(self.seed), self.protocol.selection
        best, trained, told = -1, None, {}
        competed = []
        for k in self._candidates():
            other, figures = self._trial(split, k)
            competed.append({key: figures[key] for key in ("configuration", "validation", "best_step", "seconds")})
            if trained is None or figures["validation"][selection] > told["validation"][selection]:
                best, trained, told = k, other, figures
        assert trained is not None
        return {
            "identity": identity(self.protocol, self.arm),
            "data": self.data.fingerprint(self.seed),
            "protocol": self.protocol.name,
            "arm": self.arm.name,
            "seed": self.seed,
            "selection": selection,
            "trial": best,
            "competed": competed,
            **told,
            "test": dict(split.test.evaluate(trained.scorers, self.protocol.cutoffs).metrics),
            "graphs": dict(self.arm.graphs),
            "split": split.facts(),
            "peak_memory_mib": peak_memory_mib(),
            "environment": environment(_LIBRARIES),
        }

    def _candidates(self) -> Sequence[int]:
        if self.seed == FIRST_SEED or len(self.arm.trials) == 1:
            return range(len(self.arm.trials))
        known = self.data.fingerprint(FIRST_SEED)
        first = done(self.protocol, self.arm, FIRST_SEED, self.places, fingerprint=known)
        if first is None:
            raise MissingInput(
                f"{self.protocol.name} {self.arm.name}: seed {FIRST_SEED} is of other data or settings; run it anew"
            )
        return [int(first["trial"])]

    def _trial(self, split: Split, k: int) -> tuple[Trained, dict[str, Any]]:
        """Train one configuration, or find it trained; what it came to on the validation part."""
        config, folder, protocol = self.arm.trials[k], self.folder / str(k), self.protocol
        judged = split.validation.sample(config.validation_users, seed=FIRST_SEED)
        log = folder / "seconds.json"
        before = read_json(log)["seconds"] if log.is_file() else 0.0
        started = self.clock()

        def spent() -> float:
            return round(float(before + self.clock() - started), 1)

        def validate(scorers: Scorers) -> float:
            value = judged.evaluate(scorers, protocol.cutoffs).metrics[protocol.selection]
            write_json(log, {"seconds": spent()})
            return value

        trained = self.arm.train(split, config, validate, self.seed, folder / "checkpoint")
        seconds = spent()
        return trained, {
            "configuration": {"kind": type(config).__name__, **asdict(config)},
            "validation": dict(split.validation.evaluate(trained.scorers, protocol.cutoffs).metrics),
            "steps": trained.steps,
            "best_step": trained.best_step,
            "epochs": round(trained.epochs, 1),
            "seconds": seconds,  # of training and of the validations that steer it
        }


def _on(trials: Sequence[Any], device: str) -> tuple[Any, ...]:
    return tuple(replace(config, device=device) for config in trials)


def _count(split: Split, _: Counting, validate: Callable[[Scorers], float], seed: int, checkpoint: Path) -> Trained:
    return Trained(popularity_scorers(split), 0, 0, 0.0)


def _train_factors(
    split: Split, config: FactorConfig, validate: Callable[[Scorers], float], seed: int, checkpoint: Path
) -> Trained:
    scorers, ran = train_factors(split, config, validate, seed=seed, checkpoint=checkpoint)
    return _trained(scorers, ran, ran.steps / steps_per_epoch(split, config))


def _dicer_training(similar_cap: int | None) -> Train:
    """DICER's training on graphs with at most `similar_cap` similar nodes a node."""

    def train(
        split: Split, config: DicerConfig, validate: Callable[[Scorers], float], seed: int, checkpoint: Path
    ) -> Trained:
        from models.dicer.encoder import edges_of
        from models.dicer.scorers import scorers_of
        from models.dicer.training import train_split

        graphs = split.graphs(cap=similar_cap)
        network, ran = train_split(graphs, config, validate=validate, seed=seed, checkpoint=checkpoint)
        edges = edges_of(graphs)
        scorers = scorers_of(network, (network.user_base, network.item_base), edges, graphs)
        drawn = ran.steps * config.users_per_step * config.positives_per_user
        return _trained(scorers, ran, drawn / split.interactions.shape[1])

    return train


def _trained(scorers: Scorers, ran: Fit, epochs: float) -> Trained:
    return Trained(scorers, ran.steps, ran.best_step, epochs)

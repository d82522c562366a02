"""The whole night, stage after stage, for the command line; `dags/nightly.py` runs the same functions as tasks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial

from export import stages
from export.ledger import Figures, StageResult
from export.model_settings import require_trainable
from features.configuration import Configuration

Announce = Callable[[str, StageResult | None], None]
"""`announce(stage, None)` when a stage starts, `announce(stage, result)` when it is done."""


def run_night(
    configuration: Configuration,
    date: dt.date,
    *,
    clock: Callable[[], dt.datetime],
    announce: Announce,
    force_reason: str | None = None,
) -> Figures:
    """Land, build, register, train what has no champion, score, stage, audit, publish; returns the publication.

    `clock` is asked when a model is promoted and when the release goes live.
    Where only one model's part is refused, the other goes live beside what stood. Raises GateFailed if a gate refuses
    more than that: what is served stays as it was.
    """
    prepare(configuration, date, stages.missing_champions(configuration), announce=announce)
    run_training(configuration, date, stages.missing_champions(configuration), clock=clock, announce=announce)
    _run("score", partial(stages.score, configuration, date), announce)
    staged = _run("stage", partial(stages.stage, configuration, date), announce)
    release_id: str = staged.figures["release_id"]
    if force_reason is None:
        release_id = stages.audit(configuration, release_id)["release_id"]
    return stages.publish(configuration, release_id, published_at=clock(), force_reason=force_reason)


def prepare(configuration: Configuration, date: dt.date, models: Sequence[str], *, announce: Announce) -> None:
    """Land, build and register: what both a night and a training begin with.

    Raises ConfigurationError before all of it if the settings of `models`, which will be trained, cannot be used.
    """
    for model in models:
        require_trainable(configuration, model)
    _run("land", partial(stages.land, configuration, date), announce)
    _run("build", partial(stages.build, configuration, date), announce)
    _run("register", partial(stages.register, configuration), announce)


def run_training(
    configuration: Configuration,
    date: dt.date,
    models: Sequence[str],
    *,
    clock: Callable[[], dt.datetime],
    announce: Announce,
) -> list[Figures]:
    """Train, export and promote `models` on what was known at `date`; the verdicts of each promotion.

    Raises GateFailed if a promotion gate refuses.
    """
    if models:
        _run("training sets", partial(stages.training_sets, configuration, date), announce)
    promotions = []
    for model in models:
        _run(f"train {model}", partial(stages.train, configuration, date, model), announce)
        exported = _run(f"export {model}", partial(stages.export, configuration, date, model), announce)
        promotions.append(stages.promote(configuration, exported.figures["version"], promoted_at=clock()))
    return promotions


def _run(name: str, work: Callable[[], StageResult], announce: Announce) -> StageResult:
    announce(name, None)
    result = work()
    announce(name, result)
    return result

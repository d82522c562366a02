"""Training: challengers for both models, learned from what was known at a date and promoted through their gates.

- **Date**: param `date`, else the day the run is for. Labels come from the last days before it, features from earlier.
- **Reads**: the source that `attractor.toml` names.
- **Writes**: raw tables, feature partitions, training sets (Feast, point in time), checkpoints, artifacts with parity
  and held-out metrics, and the champion pointers that the next night reads.
- **Run again**: finished stages are skipped while their inputs stand; a killed training goes on from its checkpoint.
- **Refused**: a gate that refuses fails its task without a retry, and the champion before it stays.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import (
    DAG,
    Connection,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    chain,
    task,
    task_group,
)

from features.configuration import load
from features.errors import AttractorError, SourceLost
from features.windows import night_of, parse_date


def stages() -> Any:
    """The stage functions, imported when a task runs: the scheduler parses this file all day long."""
    from export import stages

    return stages


with DAG(
    "training",
    # Sunday noon, after the night. A trigger, not an interval: asked for a Wednesday, it trains as of that Wednesday.
    schedule=CronTriggerTimetable("0 12 * * 0", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "attractor",
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2.0,
        # Our own errors are answers (a gate, a broken contract, a missing input); only a lost warehouse is asked again.
        "retry_policy": ExceptionRetryPolicy([RetryRule(SourceLost), RetryRule(AttractorError, RetryAction.FAIL)]),
        "execution_timeout": timedelta(hours=2),
    },
    params={"date": Param(None, type=["null", "string"], format="date", description="Train as of YYYY-MM-DD.")},
    user_defined_macros={"night_of": night_of},
    doc_md=__doc__,
):

    @task
    def land(date: str) -> int:
        return stages().land(load(), parse_date(date), uri_of=lambda name: Connection.get(name).get_uri()).run_id

    @task
    def build(date: str) -> int:
        return stages().build(load(), parse_date(date)).run_id

    @task
    def register() -> int:
        return stages().register(load()).run_id

    @task
    def training_sets(date: str) -> int:
        return stages().training_sets(load(), parse_date(date)).run_id

    @task_group
    def champion(model: str, date: str) -> None:
        @task(execution_timeout=timedelta(hours=12))
        def train(model: str, date: str) -> int:
            return stages().train(load(), parse_date(date), model).run_id

        @task
        def export(model: str, date: str) -> str:
            return stages().export(load(), parse_date(date), model).figures["version"]

        @task
        def promote(version: str, ti: Any = None) -> str:
            return stages().promote(load(), version, promoted_at=ti.start_date)["version"]

        chain(train(model, date), version := export(model, date), promote(version))

    date = "{{ night_of(params.date, dag_run.data_interval_end, dag_run.run_after) }}"
    champions = [champion.override(group_id=model)(model, date) for model in ("karma", "dicer")]
    chain(land(date), build(date), register(), training_sets(date), champions)

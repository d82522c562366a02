"""The night: what happened before its date becomes one audited release that rankers read.

- **Date**: param `date`, else the end of the data interval: the run for `[D - 1 day, D)` is the night of `D`.
- **Reads** the source in `attractor.toml` and the champions; **writes** raw tables, features, scores and a release.
- **First night**: a model that has no champion yet is trained, exported and promoted before the night is scored.
- **Run again**: finished stages are skipped, the same date gives the same release, no older date replaces a newer one.
- **Refused**: a gate that refuses fails its task without a retry, and the release before it stays live. Where only one
  model's part is refused, the other's goes live beside the part that stood.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import (
    DAG,
    Connection,
    CronDataIntervalTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    chain,
    task,
    task_group,
)
from airflow.sdk.exceptions import AirflowSkipException

from features.configuration import load
from features.errors import AttractorError, SourceLost
from features.windows import night_of, parse_date


def stages() -> Any:
    """The stage functions, imported when a task runs: the scheduler parses this file all day long."""
    from export import stages

    return stages


with DAG(
    "nightly",
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
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
    params={"date": Param(None, type=["null", "string"], format="date", description="The night, YYYY-MM-DD.")},
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
    def training_sets(date: str) -> list[str]:
        missing = stages().missing_champions(load())
        if not missing:
            raise AirflowSkipException("every model has a champion")
        stages().training_sets(load(), parse_date(date))
        return missing

    @task_group
    def champion(model: str, date: str, missing: list[str]) -> None:
        @task(execution_timeout=timedelta(hours=12))
        def train(model: str, date: str, missing: list[str]) -> int:
            if model not in missing:
                raise AirflowSkipException(f"{model} has a champion")
            return stages().train(load(), parse_date(date), model).run_id

        @task
        def export(model: str, date: str) -> str:
            return stages().export(load(), parse_date(date), model).figures["version"]

        @task
        def promote(version: str, ti: Any = None) -> str:
            return stages().promote(load(), version, promoted_at=ti.start_date)["version"]

        chain(train(model, date, missing), version := export(model, date), promote(version))

    @task(trigger_rule="none_failed")
    def score(date: str) -> int:
        return stages().score(load(), parse_date(date)).run_id

    @task
    def stage(date: str) -> str:
        return stages().stage(load(), parse_date(date)).figures["release_id"]

    @task
    def audit(release_id: str) -> str:
        return stages().audit(load(), release_id)["release_id"]

    @task
    def publish(release_id: str, ti: Any = None) -> str:
        return stages().publish(load(), release_id, published_at=ti.start_date)["release_id"]

    date = "{{ night_of(params.date, dag_run.data_interval_end, dag_run.run_after) }}"
    missing = training_sets(date)
    champions = [champion.override(group_id=model)(model, date, missing) for model in ("karma", "dicer")]
    chain(land(date), build(date), register(), missing, champions, score(date), release_id := stage(date))
    publish(audit(release_id))

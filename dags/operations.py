"""Operations: is what is served fresh, is it what the offline store holds, and what may be deleted.

- **Every hour**, against the time at which each task began; no night is run.
- **Freshness** fails where what is served is older than `[freshness] max_age`, or nothing is.
- **Consistency** reads sampled rows through Feast online and offline, and fails where more differ than
  `[consistency] max_mismatch_rate`.
- **Retention** deletes old releases; the live one, the one before it and the newest seven stay.
- **Alerts**: a task that fails tells the notifiers of `attractor.toml` and `airflow.cfg`; no task waits for another.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable

from dags.orchestration.defaults import DEFAULTS
from dags.orchestration.stage_tasks import NOW, stage

with DAG(
    "operations",
    # A trigger: what is looked at is the present, so that a missed hour is not made up for.
    schedule=CronTriggerTimetable("30 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    doc_md=__doc__,
):
    stage("freshness")(at=NOW)
    stage("consistency")(at=NOW)
    stage("retention")(at=NOW)

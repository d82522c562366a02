"""The night: what happened before its date becomes one audited release that rankers read.

- **Date**: param `date`, else the end of the data interval: the run for `[D - 1 day, D)` is the night of `D`.
- **Reads** the source in `attractor.toml` and the champions; **writes** raw tables, features, scores and a release.
- **First night**: a model that has no champion yet is trained, exported and promoted before the night is scored.
- **Run again**: finished stages are skipped, the same date gives the same release, no older date replaces a newer one.
- **Refused**: a gate that refuses fails its task without a retry, and the release before it stays live. Where only one
  model's part is refused, the other's goes live beside the part that stood. Param `force` is a reason to publish
  all the same.
- **Consumers** start on the asset `attractor_release`; its event names the release.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, chain, task
from airflow.sdk.exceptions import AirflowSkipException

from dags.orchestration.defaults import DATE, DEFAULTS, FORCE, MODELS, RELEASE
from dags.orchestration.stage_tasks import NOW, champion, known_features, nothing_missing, stage
from features.windows import night_of


def missing(context: Any) -> Any:
    """The models without a champion."""
    return context["ti"].xcom_pull(task_ids="missing_champions")


with DAG(
    "nightly",
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params={"date": DATE, "force": FORCE},
    user_defined_macros={"night_of": night_of},
    doc_md=__doc__,
):

    @task(outlets=[RELEASE])
    def announce(published: dict[str, Any], outlet_events: Any = None) -> None:
        """Tell consumers which release went live; skipped where an older night was published and is not served."""
        if not published["live"]:
            raise AirflowSkipException(published["sentence"])
        outlet_events[RELEASE].extra = {
            name: published[name] for name in ("release_id", "date", "window_end", "published_at")
        }

    date = "{{ night_of(params.date, dag_run.data_interval_end, dag_run.run_after) }}"
    force = "{{ params.force or '' }}"
    champions = [champion.override(group_id=model)(model, date, missing) for model in MODELS]
    scored = stage("score", pool="scoring", trigger_rule="none_failed")(date=date)
    chain(
        known_features(date),
        stage("missing_champions")(),
        stage("training_sets", pre_execute=nothing_missing)(date=date),
        champions,
        scored,
    )
    opened = stage("open_staging")(date=date).as_setup()
    staged = stage("stage")(date=date)
    published = stage("publish")(release_id=stage("audit")(release_id=staged, force=force), at=NOW, force=force)
    closed = stage("close_staging")().as_teardown(setups=opened.operator)
    chain(scored, opened, staged)
    chain(published, [announce(published), closed])

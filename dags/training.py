"""Training: challengers for both models, learned from what was known at a date and promoted through their gates.

- **Date**: param `date`, else the day the run is for. Labels come from the last days before it, features from earlier.
- **Models**: param `models`, both unless fewer are asked for.
- **Reads**: the source that `attractor.toml` names.
- **Writes**: raw tables, feature partitions, training sets (Feast, point in time), checkpoints, artifacts with parity
  and held-out metrics, and the champion pointers that the next night reads.
- **Run again**: finished stages are skipped while their inputs stand; a killed training goes on from its checkpoint.
- **Refused**: a gate that refuses fails its task without a retry, and the champion before it stays.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, chain

from dags.orchestration.defaults import DATE, DEFAULTS, MODELS, TRAINED
from dags.orchestration.stage_tasks import champion, known_features, stage
from features.windows import night_of


def asked(context: Any) -> Any:
    """The models that the run is to train."""
    return context["params"]["models"]


with DAG(
    "training",
    # Sunday noon, after the night. A trigger, not an interval: asked for a Wednesday, it trains as of that Wednesday.
    schedule=CronTriggerTimetable("0 12 * * 0", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params={"date": DATE, "models": TRAINED},
    user_defined_macros={"night_of": night_of},
    doc_md=__doc__,
):
    date = "{{ night_of(params.date, dag_run.data_interval_end, dag_run.run_after) }}"
    champions = [champion.override(group_id=model)(model, date, asked) for model in MODELS]
    chain(known_features(date), stage("training_sets")(date=date), champions)

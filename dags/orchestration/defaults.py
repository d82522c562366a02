"""What every DAG has: retries, owner, parameters, and who is told when a task fails."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import Any

from airflow.sdk import Asset, ExceptionRetryPolicy, Param, RetryAction, RetryRule
from airflow.sdk.configuration import conf

from features.configuration import load
from features.errors import AttractorError, BucketUnreachable, SourceLost

RELEASE = Asset("attractor_release")
"""A release went live: what a consumer's DAG starts on. The event's extra has release_id, date, window_end."""

MODELS = ("karma", "dicer")

DATE = Param(None, type=["null", "string"], format="date", title="The night, YYYY-MM-DD", description="Else the run's.")
FORCE = Param(
    None,
    type=["null", "string"],
    pattern=r"\S.*\S",
    minLength=10,
    title="Publish although a gate refuses: why",
    description="The reason is kept in the release's manifest and in the ledger.",
)
TRAINED = Param(
    list(MODELS),
    type="array",
    items={"type": "string", "enum": list(MODELS)},
    minItems=1,
    uniqueItems=True,
    title="Models to train",
)


def tell(context: Any) -> None:
    """Tell the notifier of attractor.toml and those of airflow.cfg that a task failed, with the gates that refused."""
    from export.notifier import failure, open_notifier

    ti = context["ti"]
    alert = failure(f"{ti.dag_id}.{ti.task_id}", ti.run_id, context.get("exception"), log_url=ti.log_url or "")
    open_notifier(load()).notify(alert)
    for chosen in conf.getjson("attractor", "notifiers", fallback=[]):
        module, _, name = chosen["class"].rpartition(".")
        notifier = getattr(import_module(module), name)(**chosen.get("arguments", {}))
        notifier({**context, "alert": alert.text})


APART = conf.get("attractor", "python", fallback="")
"""The interpreter that stages run in, where that is not the worker's own."""

_ANSWERS = [AttractorError, *(["airflow.sdk.exceptions.AirflowException"] if APART else [])]
"""What is not asked again; `stage_tasks.perform_apart` lets only answers become an error of Airflow's."""

DEFAULTS: dict[str, Any] = {
    "owner": "attractor",
    "retries": 2,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
    # Our own errors are answers (a gate, a broken contract, a missing input); only who did not answer is asked again.
    "retry_policy": ExceptionRetryPolicy(
        [RetryRule(SourceLost), RetryRule(BucketUnreachable), RetryRule(_ANSWERS, RetryAction.FAIL)]
    ),
    "execution_timeout": timedelta(hours=2),
    "on_failure_callback": tell,
}

"""The functions of `export/tasks.py` as tasks: in the worker, or in an environment of their own.

`[attractor] python = /path/to/venv/bin/python` in airflow.cfg runs every stage there by `@task.external_python`:
Airflow's environment then needs none of what a stage does.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Connection, XComArg, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from dags.orchestration.defaults import APART
from dags.orchestration.lineage import tables_of
from export import tasks
from features.configuration import load

TRAINING_TIME = timedelta(hours=12)
NOW = "{{ ti.start_date.isoformat() }}"
"""When the task began: of a retry, when that began."""


def perform(name: str, arguments: dict[str, Any]) -> Any:
    """Do a stage in this process."""
    from export import tasks

    return getattr(tasks, name)(**arguments)


def perform_apart(name: str, arguments: dict[str, Any]) -> Any:
    """Do a stage in another environment, from this source alone; trouble, unlike an answer, ends without an error."""
    import sys
    import traceback

    from sqlalchemy.exc import OperationalError

    from export import tasks
    from export.logs import LoggingConfig, configure
    from features.configuration import load
    from features.errors import BucketUnreachable, SourceLost

    configure(load().section("logging", LoggingConfig))  # nothing of Airflow is there to show log lines
    try:
        return getattr(tasks, name)(**arguments)
    except (BucketUnreachable, SourceLost, OperationalError, OSError, MemoryError):
        traceback.print_exc()
        sys.exit(1)


def stage(name: str, **options: Any) -> Any:
    """A task that does `export.tasks.<name>`, explained by its docstring; call it with that function's arguments."""
    told = {"task_id": name, "doc_md": getattr(tasks, name).__doc__, **options}
    decorated = (
        task.external_python(python=APART, expect_airflow=False, **told)(perform_apart)
        if APART
        else task(**told)(perform)
    )

    def made(**arguments: Any) -> XComArg:
        answer = decorated(name, arguments)
        operator = answer.operator
        operator.get_openlineage_facets_on_start = tables_of(name, operator.task_id)
        return answer

    return made


def provide_warehouse(context: Any) -> None:
    """Put the URI of the Airflow Connection that [source] names where the source looks for it."""
    configuration = load()
    if configuration.sections.get("source", {}).get("connection"):
        from features.sources import SourceConfig, provide_url

        source = configuration.section("source", SourceConfig)
        provide_url(source, lambda name: Connection.get(name).get_uri())


def nothing_missing(context: Any) -> None:
    """Skip where every model has a champion."""
    if not context["ti"].xcom_pull(task_ids="missing_champions"):
        raise AirflowSkipException("every model has a champion")


def not_chosen(model: str, chosen: Any) -> Any:
    """A hook that skips the training of `model` where `chosen(context)` does not name it."""

    def skip(context: Any) -> None:
        if model not in chosen(context):
            raise AirflowSkipException(f"{model} is not to be trained")

    return skip


@task_group
def champion(model: str, date: str, chosen: Any) -> None:
    """One model from its training set to the champion's place."""
    train = stage("train", pool="training", execution_timeout=TRAINING_TIME, pre_execute=not_chosen(model, chosen))(
        date=date, model=model
    )
    version = stage("export")(date=date, model=model)
    train >> version >> stage("promote")(version=version, at=NOW)


def known_features(date: str) -> XComArg:
    """Land, build and register: what a night and a training begin with; the last of them."""
    landed = stage("land", pre_execute=provide_warehouse)(date=date)
    registered = stage("register", pool="feast_registry")()
    landed >> stage("build")(date=date) >> registered
    return registered

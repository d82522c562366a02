"""What OpenLineage is told of a task: the tables it reads and writes, where Airflow's provider is installed and on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from features.configuration import load


def tables_of(stage: str, task_id: str) -> Callable[[], Any]:
    """The method that the provider asks an operator for; one model's tasks are in a group of its name."""

    def facets() -> Any:
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import Dataset

        from export.lineage import datasets

        read, written = datasets(load(), stage, task_id.rpartition(".")[0])
        return OperatorLineage(inputs=[Dataset(*one) for one in read], outputs=[Dataset(*one) for one in written])

    return facets

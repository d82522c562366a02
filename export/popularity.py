"""The items most acted on before a night: what a release carries for readers who may not use its lists."""

from __future__ import annotations

import datetime as dt

import pyarrow.compute as pc

from features.configuration import Configuration
from features.partitions import read_partition


def popular_items(configuration: Configuration, date: dt.date, *, top_k: int) -> list[str]:
    """Ids of the `top_k` items with most events before `date`, best first, ties by id; only items that have some.

    Raises MissingInput if the catalogue of `date` was not built.
    """
    catalogue = read_partition(configuration, "item_catalog", date, columns=["item_id", "item_event_count"])
    acted_on = catalogue.filter(pc.greater(catalogue["item_event_count"], 0))
    ranked = acted_on.sort_by([("item_event_count", "descending"), ("item_id", "ascending")])
    items: list[str] = ranked["item_id"].slice(0, top_k).to_pylist()
    return items

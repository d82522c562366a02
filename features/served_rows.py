"""The same rows from both of Feast's sides: as it serves them now, and as its point-in-time join gives them."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
from feast import FeatureStore

from features.contracts import PUBLISHED
from features.definitions import INSTANT


def online_rows(store: FeatureStore, view: str, columns: Sequence[str], ids: Sequence[str]) -> pa.Table:
    """The key and `columns` of a published view for `ids`, as they are served; nulls for an id without a row."""
    key = PUBLISHED[view].key[0]
    answer = store.get_online_features(_names(view, columns), [{key: one} for one in ids]).to_arrow()
    return answer.select([key, *columns])


def offline_rows(
    store: FeatureStore, view: str, columns: Sequence[str], ids: Sequence[str], *, instant: dt.datetime
) -> pa.Table:
    """The same from the offline store, as of `instant`, in no order."""
    key = PUBLISHED[view].key[0]
    entities = pd.DataFrame({key: pd.Series(list(ids), dtype=object), INSTANT: pd.Timestamp(instant)})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)  # of ibis, which calls DuckDB
        answer = store.get_historical_features(entities, _names(view, columns)).to_arrow()
    return answer.select([key, *columns])


def _names(view: str, columns: Sequence[str]) -> list[str]:
    return [f"{view}:{column}" for column in columns]

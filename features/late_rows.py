"""Late rows: what a second reading of an interval added and lost, and the file as it was where that is nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from features.transforms import FeatureConfig, scratch_database


def keep_unless_changed(before: Path, again: Path, *, scratch: Path) -> Mapping[str, int]:
    """The number of rows `added` to and `gone` from Parquet file `before`, as `again` has them; none if there are none.

    The order of rows is no part of a table, and databases change it: equal rows keep the bytes that they had, so that
    whoever read them need not do it again. Rows count as often as they occur.
    """
    with scratch_database(FeatureConfig(memory_limit="1GB"), scratch) as database:
        found = database.execute(
            """
            SELECT
                (SELECT count(*) FROM (FROM read_parquet($again) EXCEPT ALL FROM read_parquet($before))) AS added,
                (SELECT count(*) FROM (FROM read_parquet($before) EXCEPT ALL FROM read_parquet($again))) AS gone
            """,
            {"before": str(before), "again": str(again)},
        ).fetchone()
    assert found is not None
    if found == (0, 0):
        shutil.copyfile(before, again)
        return {}
    return dict(zip(("added", "gone"), found, strict=True))

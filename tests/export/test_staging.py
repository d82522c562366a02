"""Staging: the same content is the same release, and what cannot be laid out is refused by row."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export import release
from export.staging import is_known
from features.configuration import Configuration
from features.errors import ContractViolation, MissingInput
from features.files import read_json
from features.releases import MANIFEST, STAGING, open_release
from tests.scored_nights import about, configuration_at, stage_night, tables, write_scored

NIGHT = dt.date(2026, 3, 1)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configuration_at(tmp_path)


def staged(configuration: Configuration) -> list[str]:
    return sorted(path.parent.name for path in (configuration.releases / STAGING).glob(f"*/{MANIFEST}"))


def test_the_same_content_is_the_same_release_whatever_its_order(configuration: Configuration) -> None:
    columns = tables()
    first = stage_night(configuration, NIGHT, columns)
    turned = {view: {name: values[::-1] for name, values in table.items()} for view, table in columns.items()}
    assert stage_night(configuration, NIGHT, turned) == first
    assert first.startswith("2026-03-01-")
    assert staged(configuration) == [first]
    assert is_known(configuration, first)
    assert not is_known(configuration, "2026-03-01-000000000000")


def test_other_content_date_model_or_space_is_another_release(configuration: Configuration) -> None:
    columns = tables()
    changed = tables()
    changed["karma_user_interest"]["interest_embedding"][3][0] += 1e-6
    ids = {
        stage_night(configuration, NIGHT, columns),
        stage_night(configuration, NIGHT, changed),
        stage_night(configuration, NIGHT + dt.timedelta(days=1), columns),
        stage_night(configuration, NIGHT, columns, space_id="space-2"),
    }
    assert len(ids) == 4


def test_the_manifest_says_what_the_release_is(configuration: Configuration) -> None:
    release_id = stage_night(configuration, NIGHT, tables(users=20))
    manifest = read_json(configuration.releases / STAGING / release_id / MANIFEST)
    assert manifest["views"]["karma_user_interest"] == {"rows": 20, "dimension": 8}
    assert manifest["window"]["end"] == "2026-03-01T00:00:00+00:00"
    assert manifest["models"] == {"karma": "karma-1", "dicer": "dicer-1"}
    assert manifest["contracts"]["karma_item_embedding"]["key"] == ["item_id"]
    assert len(manifest["files"]) == 10  # rows and two index arrays a table, and the popularity list
    assert manifest["version"]


def test_values_survive_staging(configuration: Configuration) -> None:
    columns = tables(users=15)
    release_id = stage_night(configuration, NIGHT, columns)
    opened = open_release(configuration.releases / STAGING / release_id)
    lists = opened.tables["dicer_user_attraction"]
    rows = lists.locate([pa.array(columns["dicer_user_attraction"]["user_id"])])
    assert lists.column("item_ids", rows).to_pylist() == columns["dicer_user_attraction"]["item_ids"]
    ids = columns["karma_item_embedding"]["item_id"]
    block, found = opened.embeddings("karma_item_embedding", "item_embedding", ids)
    assert found.all()
    assert (block == np.stack(columns["karma_item_embedding"]["item_embedding"])).all()


@pytest.mark.parametrize(
    ("view", "column", "row", "value", "message"),
    [
        ("karma_user_interest", "interest_embedding", 3, [1.0], "row 3: expected a vector of 8, got 1"),
        ("karma_user_interest", "interest_embedding", 4, [None] * 8, "row 4: expected a list without nulls"),
        ("karma_user_interest", "user_id", 5, None, "row 5: expected a value"),
        ("dicer_user_attraction", "scores", 2, None, "row 2: expected a value"),
        ("dicer_user_attraction", "item_ids", 6, ["item 1", None], "row 6: expected a list without nulls"),
    ],
)
def test_a_value_that_cannot_be_laid_out_is_named_by_its_row(
    configuration: Configuration, view: str, column: str, row: int, value: Any, message: str
) -> None:
    columns = tables()
    scored = write_scored(configuration.scored / "night", columns)
    columns[view][column][row] = value
    pq.write_table(pa.table(_as_arrow(columns[view])), scored / f"{view}.parquet")
    with pytest.raises(ContractViolation, match=message):
        release.stage(configuration, NIGHT, scored, about(NIGHT, columns))
    assert list((configuration.releases / STAGING).glob("*/")) == []


def test_columns_and_types_are_the_contracts(configuration: Configuration) -> None:
    columns = tables()
    scored = write_scored(configuration.scored / "night", columns)
    good = pq.read_table(scored / "karma_item_embedding.parquet")
    numbers = pa.array(range(len(good)))
    for broken, message in (
        (good.drop_columns("item_embedding"), "'item_embedding'.*got 'None'"),
        (good.append_column("extra", numbers), "'extra'"),
        (good.set_column(0, "item_id", numbers), "'item_id'.*string.*int64"),
    ):
        pq.write_table(broken, scored / "karma_item_embedding.parquet")
        with pytest.raises(ContractViolation, match=message):
            release.stage(configuration, NIGHT, scored, about(NIGHT, columns))
    (scored / "karma_item_embedding.parquet").unlink()
    with pytest.raises(MissingInput, match="attractor score"):
        release.stage(configuration, NIGHT, scored, about(NIGHT, columns))


def test_scores_of_another_night_are_refused(configuration: Configuration) -> None:
    columns = tables()
    scored = write_scored(configuration.scored / "night", columns)
    with pytest.raises(MissingInput, match="2026-03-01"):
        release.stage(configuration, NIGHT + dt.timedelta(days=1), scored, about(NIGHT, columns))


def test_a_draft_that_a_killed_run_left_is_replaced(configuration: Configuration) -> None:
    leftover = configuration.releases / STAGING / f".tmp-{NIGHT}" / "karma_user_interest"
    leftover.mkdir(parents=True)
    (leftover / "rows.arrow").write_bytes(b"half")
    release_id = stage_night(configuration, NIGHT)
    assert staged(configuration) == [release_id]
    assert not leftover.exists()


def _as_arrow(columns: dict[str, Any]) -> dict[str, pa.Array]:
    kinds = {"interest_embedding": pa.list_(pa.float32()), "scores": pa.list_(pa.float32())}
    return {name: pa.array(values, kinds.get(name)) for name, values in columns.items()}

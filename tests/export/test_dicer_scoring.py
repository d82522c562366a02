"""A night of DICER: lists equal a sort of the definition's scores, nothing seen, the same bytes, and without torch."""

from __future__ import annotations

import dataclasses
import datetime as dt
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from export.dicer_scoring import (
    ENCODER,
    ITEM_BASES,
    SCORER,
    USER_BASES,
    Tables,
    base_rows,
    encode,
    open_scorer,
    ranked_lists,
    score_dicer,
    write_lists,
)
from features.configuration import Configuration
from features.contracts import DICER_USER_ATTRACTION, FEATURES, TIMESTAMP
from features.errors import ContractViolation, MissingInput
from features.partitions import partition_path, write_rows
from models.dicer import definition
from models.dicer.encoder import edges_of
from models.dicer.graphs import Graphs
from models.dicer.training import cold_rows
from tests.dicer_worlds import ExportedDicer, World, item_ids, user_ids

DATE = dt.date(2026, 1, 20)
FILE = "dicer_user_attraction.parquet"


@pytest.fixture(scope="module")
def configuration(dicer: ExportedDicer, tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """A state directory with the feature partitions of one date."""
    root = tmp_path_factory.mktemp("state")
    configuration = Configuration(root / "attractor.toml", root, {})
    write_features(configuration, dicer.world)
    return configuration


def write_features(configuration: Configuration, world: World) -> None:
    midnight = dt.datetime.combine(DATE, dt.time(), dt.UTC)
    for view, table in world.views().items():
        lists = {name: table[name] for name in table.column_names[1:]}
        counts = {name: pa.array([len(listed) for listed in values.to_pylist()]) for name, values in lists.items()}
        columns = [table[0], pa.array([midnight] * len(table), TIMESTAMP), *lists.values(), *counts.values()]
        rows = pa.table(columns, schema=FEATURES[view].schema)
        write_rows(partition_path(configuration, view, DATE), FEATURES[view], rows.to_batches())


def bases_of(graphs: Graphs) -> list[tuple[str, pa.StringArray]]:
    return [(USER_BASES, graphs.user_ids), (ITEM_BASES, graphs.item_ids)]


def definition_scores(dicer: ExportedDicer) -> np.ndarray:
    """Scores [users, items] by the literal definition."""
    world, network, graphs = dicer.world, dicer.trained.network, dicer.world.graphs()
    histories, friends, audiences = (
        [set(x) for x in world.histories],
        [set(x) for x in world.friends],
        world.audiences(),
    )
    users, items = np.arange(graphs.users), np.arange(graphs.items)
    bases = (
        cold_rows(network.user_base, np.where(users < len(network.user_base), users, -1)),
        cold_rows(network.item_base, np.where(items < len(network.item_base), items, -1)),
    )
    scores = np.empty((graphs.users, graphs.items))
    with torch.no_grad():
        h, z = network.encode(*bases, edges_of(graphs))
        for u in users:
            for i in items:
                interest = definition.user_interest(z, u, i, histories, friends, leave_out=False)
                attraction = definition.item_attraction(h, u, i, audiences, leave_out=False)
                logits = [
                    definition.head_logit(network.own_head.state_dict(), h[u], z[i]),
                    definition.head_logit(network.interest_head.state_dict(), interest, z[i]),
                    definition.head_logit(network.attraction_head.state_dict(), h[u], attraction),
                ]
                scores[u, i] = torch.sigmoid(torch.stack(logits)).mean()
    return scores


@pytest.mark.parametrize("top_k", [3, 50])
def test_lists_are_a_sort_of_the_definitions_scores(
    dicer: ExportedDicer, configuration: Configuration, tmp_path: Path, top_k: int
) -> None:
    scores = definition_scores(dicer)
    figures = score_dicer(dicer.artifact, configuration, DATE, tmp_path, top_k=top_k)
    table = pq.read_table(tmp_path / FILE)
    assert table.schema.equals(DICER_USER_ATTRACTION.schema)
    assert table["user_id"].to_pylist() == user_ids(range(1, 13)), "user 0 has had everything"
    for row in table.to_pylist():
        user = int(row["user_id"][1:])
        left = [item for item in range(10) if item not in dicer.world.histories[user]]
        assert row["item_ids"] == item_ids(sorted(left, key=lambda item: -scores[user, item])[:top_k])
        expected = [scores[user, int(item[1:])] for item in row["item_ids"]]
        np.testing.assert_allclose(row["scores"], expected, atol=1e-5)
    assert figures["dicer_user_attraction"] == 12
    assert figures["dicer_cold_users"] == 4
    assert figures["dicer_cold_items"] == 3


def tables_of(dicer: ExportedDicer) -> Tables:
    graphs = dicer.world.graphs()
    bases = (base_rows(dicer.artifact.path(name), ids)[0] for name, ids in bases_of(graphs))
    return encode(dicer.artifact.path(ENCODER), graphs, *bases)


def test_a_score_that_is_no_number_ends_the_night(dicer: ExportedDicer) -> None:
    graphs, tables = dicer.world.graphs(), tables_of(dicer)
    broken = {name: table.copy() for name, table in tables.items()}
    broken["user_own"][2] = np.nan
    scorer = open_scorer(dicer.artifact.path(SCORER), graphs, broken, block=(2, 3))
    with pytest.raises(ContractViolation, match="column 'scores', row 2: expected finite numbers"):
        list(ranked_lists(scorer, graphs, top_k=4))


def test_neither_blocks_nor_cores_show(dicer: ExportedDicer) -> None:
    graphs, tables = dicer.world.graphs(), tables_of(dicer)
    nights = []
    for block, cores in (((100, 100), 1), ((2, 3), 1), ((1, 4), 3), (None, None)):
        scorer = open_scorer(dicer.artifact.path(SCORER), graphs, tables, block=block)
        nights.append([(u, best.tolist()) for u, best, _ in ranked_lists(scorer, graphs, top_k=4, cores=cores)])
    assert nights[0] == nights[1] == nights[2] == nights[3]


def test_some_users_can_be_ranked_alone_and_a_reader_may_stop(dicer: ExportedDicer) -> None:
    graphs = dicer.world.graphs()
    scorer = open_scorer(dicer.artifact.path(SCORER), graphs, tables_of(dicer))
    everyone = ranked_lists(scorer, graphs, top_k=4)
    first = next(everyone)
    everyone.close()
    assert first[0] == 1, "user 0 has had everything"
    chosen = list(ranked_lists(scorer, graphs, top_k=4, users=np.array([7, 1])))
    assert [user for user, _, _ in chosen] == [7, 1]
    np.testing.assert_array_equal(chosen[1][1], first[1])


def test_more_rows_than_one_write_holds(tmp_path: Path) -> None:
    users = [f"u{n:05}" for n in range(5000)]
    graphs = dataclasses.replace(World([[]], [[]], [[]], [[]]).graphs(), user_ids=pa.array(users))
    best, score = np.array([0]), np.array([0.5], np.float32)
    assert write_lists(((n, best, score) for n in range(5000)), graphs, tmp_path / FILE) == 5000
    assert pq.read_table(tmp_path / FILE)["user_id"].to_pylist() == users


def test_the_same_night_gives_the_same_bytes(
    dicer: ExportedDicer, configuration: Configuration, tmp_path: Path
) -> None:
    written = []
    for name in ("one", "two"):
        score_dicer(dicer.artifact, configuration, DATE, tmp_path / name, top_k=4)
        written.append((tmp_path / name / FILE).read_bytes())
    assert written[0] == written[1]


def test_equal_scores_come_in_the_order_of_item_ids(dicer: ExportedDicer) -> None:
    graphs = World([[]], [[]], [[]] * 5, [[2]]).graphs()
    tables = {  # equal rows: every score the same
        name: np.zeros((5 if name.startswith("item_") else 1, table.shape[1]), np.float32)
        for name, table in tables_of(dicer).items()
    }
    lists = ranked_lists(open_scorer(dicer.artifact.path(SCORER), graphs, tables), graphs, top_k=3)
    assert [items.tolist() for _, items, _ in lists] == [[0, 1, 3]]


def test_a_date_without_features_is_missing(dicer: ExportedDicer, configuration: Configuration, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="attractor build --date 2026-01-21"):
        score_dicer(dicer.artifact, configuration, DATE + dt.timedelta(1), tmp_path, top_k=4)
    assert not list(tmp_path.iterdir())


def test_the_night_loads_neither_torch_nor_feast(
    dicer: ExportedDicer, configuration: Configuration, tmp_path: Path
) -> None:
    program = """
import datetime as dt, sys
from pathlib import Path
from export.artifacts import load
from export.dicer_scoring import score_dicer
from features.configuration import Configuration
state, artifact, out = (Path(name) for name in sys.argv[1:])
loaded = load(artifact.parent.parent, artifact.name)
score_dicer(loaded, Configuration(state / "attractor.toml", state, {}), dt.date(2026, 1, 20), out, top_k=4)
print([name for name in ("torch", "torch_geometric", "feast", "transformers") if name in sys.modules])
"""
    paths = map(str, (configuration.state, dicer.artifact.directory, tmp_path))
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", program, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / FILE).is_file()

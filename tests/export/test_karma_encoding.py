"""The nightly encoder over compressed histories: torch's vectors, vectors kept between nights, int8, bounded memory."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from export.artifacts import Artifact
from export.karma_cache import cache_path, content_keys, item_cache
from export.karma_encoding import HISTORY_GRAPH, ITEM_GRAPH, named_rows, open_encoder, quantised
from export.karma_quantisation import int8_cost, list_overlap
from export.karma_scoring import score_karma
from export.karma_settings import EncodingConfig
from features.configuration import Configuration
from features.contracts import FEATURES
from features.errors import GateFailed
from features.partitions import partition_path, write_rows
from models.karma import evaluation
from models.karma.compressed import FIRST_SOFT, latest_histories
from models.karma.text import BOS, EMPTY, INT, SPECIALS, Catalogue, read_catalogue, vocabulary_size
from models.karma.training import read_world
from tests.karma_world import ExportedKarma, catalogue, histories, training_set

DATE = dt.date(2026, 1, 20)
ITEMS, USERS = "karma_item_embedding.parquet", "karma_user_interest.parquet"


def night_of(state: Path, features: dict[str, pa.Table]) -> Configuration:
    """A state directory with the partitions of one date."""
    configuration = Configuration(state / "attractor.toml", state, {})
    for view, table in features.items():
        write_rows(partition_path(configuration, view, DATE), FEATURES[view], table.to_batches())
    return configuration


@pytest.fixture(scope="module")
def features() -> dict[str, pa.Table]:
    rng = np.random.default_rng(0)
    taken = {f"u{u:03}": rng.integers(36, size=rng.integers(1, 25)).tolist() for u in range(30)}
    taken["u030"] = [900]  # an item that the catalogue does not know
    return {"item_catalog": catalogue(), "user_history": histories(taken)}


@pytest.fixture
def float_artifact(compressed_karma: ExportedKarma, tmp_path: Path) -> Artifact:
    """A copy without the int8 graphs and without vectors of earlier nights."""
    whole = compressed_karma.artifact
    directory = tmp_path / "karma" / whole.version
    directory.mkdir(parents=True)
    for file in whole.directory.iterdir():
        if ".int8." not in file.name:
            (directory / file.name).write_bytes(file.read_bytes())
    return replace(whole, directory=directory)


def vectors(path: Path, column: str) -> np.ndarray:
    return np.stack(pq.read_table(path)[column].to_numpy(zero_copy_only=False))


def test_parity_holds_and_the_history_graph_knows_no_words(compressed_karma: ExportedKarma) -> None:
    for record in compressed_karma.artifact.manifest["about"]["parity"].values():
        assert record["worst"] < 1e-5
    words = vocabulary_size(compressed_karma.trained.preparation.tokenizer)
    for graph, rows in ((HISTORY_GRAPH, len(SPECIALS)), (ITEM_GRAPH, words)):
        weights = [
            tuple(t.dims) for t in onnx.load(compressed_karma.artifact.path(graph)).graph.initializer if len(t.dims) > 1
        ]
        assert (rows, 16) in weights
        assert all(words not in dims for dims in weights) or graph == ITEM_GRAPH
        assert (16, words) not in weights


@pytest.mark.parametrize("rows", [7, 8192])
def test_every_row_gets_the_vector_that_torch_computes(
    compressed_karma: ExportedKarma,
    float_artifact: Artifact,
    features: dict[str, pa.Table],
    tmp_path: Path,
    rows: int,
) -> None:
    configuration = night_of(tmp_path / "state", features)
    figures = score_karma(float_artifact, configuration, DATE, tmp_path, rows=rows, batch_tokens=64)
    assert figures == {"items": 36, "users": 31, "items_reused": 0}
    trained = compressed_karma.trained
    world = read_world(features, trained.preparation)
    pasts = list(world.histories.values())
    read = latest_histories(pasts, [EMPTY] * len(pasts), world.catalogue, limit=20)
    with torch.no_grad():
        items = evaluation.encode_catalogue(trained.network, world.catalogue)
        users = evaluation.encode_users(trained.network, read)
    assert np.abs(vectors(tmp_path / ITEMS, "item_embedding") - items).max() < 1e-5
    assert np.abs(vectors(tmp_path / USERS, "interest_embedding") - users).max() < 1e-5


def test_the_next_night_encodes_what_changed_and_nothing_else(
    float_artifact: Artifact, features: dict[str, pa.Table], tmp_path: Path
) -> None:
    configuration = night_of(tmp_path / "state", features)
    assert score_karma(float_artifact, configuration, DATE, tmp_path / "first")["items_reused"] == 0
    assert score_karma(float_artifact, configuration, DATE, tmp_path / "again")["items_reused"] == 36
    for name in (ITEMS, USERS):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    changed = features["item_catalog"].to_pylist()
    changed[3]["text"] = "another title"
    changed[4]["picture"] = [0.5, 0.5, 0.5]
    table = pa.Table.from_pylist(changed, features["item_catalog"].schema)
    later = night_of(tmp_path / "later", {**features, "item_catalog": table})
    assert score_karma(float_artifact, later, DATE, tmp_path / "changed")["items_reused"] == 34
    before, after = (vectors(tmp_path / night / ITEMS, "item_embedding") for night in ("first", "changed"))
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [3, 4]
    assert score_karma(float_artifact, configuration, DATE, tmp_path / "back")["items_reused"] == 34


def test_vectors_that_rot_on_disk_are_made_anew(
    float_artifact: Artifact, features: dict[str, pa.Table], tmp_path: Path
) -> None:
    configuration = night_of(tmp_path / "state", features)
    score_karma(float_artifact, configuration, DATE, tmp_path / "first")
    path = cache_path(float_artifact)
    written = path.read_bytes()
    reader = pa.ipc.open_file(pa.BufferReader(written))
    values = reader.get_batch(0)["vectors"].flatten()
    start = written.index(values.buffers()[1].to_pybytes())
    for place in (start + 2, start + 4 * len(values) // 2, start + 4 * len(values) - 1):
        path.write_bytes(written[:place] + bytes([written[place] ^ 64]) + written[place + 1 :])
        assert score_karma(float_artifact, configuration, DATE, tmp_path / "again")["items_reused"] == 0
        assert (tmp_path / "again" / ITEMS).read_bytes() == (tmp_path / "first" / ITEMS).read_bytes()
        assert path.read_bytes() == written


def test_a_night_that_fails_leaves_the_vectors_of_the_one_before(
    float_artifact: Artifact, features: dict[str, pa.Table], tmp_path: Path
) -> None:
    score_karma(float_artifact, night_of(tmp_path / "state", features), DATE, tmp_path)
    path, encoder = cache_path(float_artifact), open_encoder(float_artifact.directory)
    kept = path.read_bytes()
    with pytest.raises(RuntimeError, match="killed"), item_cache(float_artifact, encoder) as cache:
        cache.encode(read_catalogue(features["item_catalog"].slice(0, 3), encoder.preparation))
        raise RuntimeError("killed")
    assert path.read_bytes() == kept
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]


def test_items_alike_share_a_key_and_every_input_counts(compressed_karma: ExportedKarma) -> None:
    known: Catalogue = read_catalogue(catalogue(), compressed_karma.trained.preparation)
    keys = content_keys(known)
    bare = [row for row in range(36) if not len(known.tokens[row]) and not known.has_picture[row]]
    assert len(set(keys)) == len({(k, known.tokens[r].tobytes(), int(known.id_index[r])) for r, k in enumerate(keys)})
    for changed in (
        replace(known, id_index=known.id_index + 1),
        replace(known, has_picture=~known.has_picture),
        replace(known, pictures=known.pictures + 1),
        replace(known, tokens=replace(known.tokens, values=known.tokens.values + 1)),
    ):
        other = content_keys(changed)
        untouched = {row for row in range(36) if keys[row] == other[row]}
        assert untouched <= {row for row in range(36) if not len(known.tokens[row])}
    assert len(bare) >= 1


def test_named_rows_are_the_table_that_a_batch_needs() -> None:
    items, queries = np.arange(12, dtype=np.float32).reshape(3, 4), 100 + np.arange(8, dtype=np.float32).reshape(2, 4)
    block = np.array([[BOS, FIRST_SOFT + 4, FIRST_SOFT + 5, INT], [BOS, FIRST_SOFT + 8, FIRST_SOFT + 1, INT]])
    local, soft = named_rows(block, items, queries, width=2)
    whole = np.concatenate([items.reshape(-1, 2), queries.reshape(-1, 2)])
    assert soft.shape == (5, 2)
    assert (soft[local[:, 1:3] - FIRST_SOFT] == whole[block[:, 1:3] - FIRST_SOFT]).all()
    assert (local[:, [0, 3]] == block[:, [0, 3]]).all()
    nothing, table = named_rows(np.array([[BOS, INT]]), items[:0], queries[:0], width=2)
    assert (nothing.tolist(), table.tolist()) == ([[BOS, INT]], [[0.0, 0.0]])


def test_int8_is_measured_and_run(compressed_karma: ExportedKarma) -> None:
    artifact, known = compressed_karma.artifact, training_set().recent
    recorded = artifact.manifest["about"]["int8"]
    again = int8_cost(artifact.directory, known["item_catalog"], known["user_history"], overlap_floor=0.0)
    assert recorded == again
    assert 0.9 < recorded["min_cosine_items"] < 1.0
    assert 0.9 < recorded["min_cosine_users"] < 1.0
    assert recorded["users"] == 40
    assert 0.5 <= recorded["overlap_at_3"] <= 1.0, "of 36 items: lists of a tenth"
    for name in (ITEM_GRAPH, HISTORY_GRAPH):
        kinds = {node.op_type for node in onnx.load(artifact.path(quantised(name))).graph.node}
        assert "MatMulInteger" in kinds or "DynamicQuantizeMatMul" in kinds
    rough, exact = (open_encoder(artifact.directory, precision=precision) for precision in (None, "fp32"))
    rows = read_catalogue(catalogue(), rough.preparation)
    assert np.abs(rough.items(rows, np.arange(5)).embeddings - exact.items(rows, np.arange(5)).embeddings).max() > 1e-6


def test_int8_that_changes_too_much_is_refused(compressed_karma: ExportedKarma) -> None:
    known = training_set().recent  # of 36 items, whose first 100 are always all
    with pytest.raises(GateFailed, match="overlap_floor"):
        int8_cost(compressed_karma.artifact.directory, *known.values(), overlap_floor=1.0)
    with pytest.raises(ValueError, match="overlap_floor"):
        EncodingConfig(overlap_floor=1.5)


def test_overlap_is_that_of_sorted_lists() -> None:
    rng = np.random.default_rng(0)
    items, users = rng.standard_normal((300, 4), np.float32), rng.standard_normal((9, 4), np.float32)
    others = items + rng.standard_normal((300, 4), np.float32) * 0.3
    expected = np.mean(
        [len(set(np.argsort(-items @ user)[:100]) & set(np.argsort(-others @ user)[:100])) / 100 for user in users]
    )
    assert list_overlap(items, users, others, users) == pytest.approx(expected)
    assert list_overlap(items, users, items, users) == 1.0


def test_memory_does_not_grow_with_the_users(float_artifact: Artifact, tmp_path: Path) -> None:
    """Ten times the users in chunks of the same size: the peak of a process of its own grows by less than a tenth."""
    peaks = []
    for users in (1000, 10_000):
        taken = {f"u{u:05}": [u % 36, (7 * u) % 36, (5 * u) % 36] for u in range(users)}
        state = tmp_path / str(users)
        night_of(state, {"item_catalog": catalogue(), "user_history": histories(taken)})
        program = f"""
import datetime as dt
from pathlib import Path
from export.artifacts import Artifact
from export.karma_scoring import score_karma
from features.configuration import Configuration
state = Path({str(state)!r})
manifest = {dict(float_artifact.manifest)!r}
artifact = Artifact("karma", {float_artifact.version!r}, Path({str(float_artifact.directory)!r}), manifest)
configuration = Configuration(state / "attractor.toml", state, {{}})
assert score_karma(artifact, configuration, dt.date(2026, 1, 20), state, rows=500)["users"] == {users}
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])  # of this program alone; ru_maxrss would count the process that started it
"""
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0], peaks

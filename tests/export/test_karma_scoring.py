"""A night of KARMA: what torch computes, for everyone, in partition order, with the same bytes, and without torch."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from export.artifacts import Artifact
from export.karma_scoring import score_karma
from features.configuration import Configuration
from features.contracts import FEATURES, KARMA_ITEM_EMBEDDING, KARMA_USER_INTEREST
from features.errors import MissingInput
from features.partitions import partition_path, write_rows
from models.karma import evaluation
from models.karma.compressed import latest_histories
from models.karma.text import EMPTY, decode, encode
from models.karma.training import TrainedKarma, read_world
from tests.karma_world import KARMA_EXPORTED, ExportedKarma, catalogue, histories

DATE = dt.date(2026, 1, 20)
FILES = ("karma_item_embedding.parquet", "karma_user_interest.parquet")


@dataclass(frozen=True)
class Night:
    """An artifact, its network, and a state directory with the partitions of one date."""

    trained: TrainedKarma
    artifact: Artifact
    configuration: Configuration
    features: dict[str, pa.Table]


@pytest.fixture(scope="module")
def night(karma: ExportedKarma, tmp_path_factory: pytest.TempPathFactory) -> Night:
    root = tmp_path_factory.mktemp("state")
    configuration = Configuration(root / "attractor.toml", root, {})
    rng = np.random.default_rng(0)
    taken = {f"u{u:03}": rng.integers(36, size=rng.integers(1, 25)).tolist() for u in range(50)}
    taken["u050"] = [900]  # an item that the catalogue does not know
    features = {"item_catalog": catalogue(), "user_history": histories(taken)}
    for view, table in features.items():
        write_rows(partition_path(configuration, view, DATE), FEATURES[view], table.to_batches())
    return Night(karma.trained, karma.artifact, configuration, features)


def vectors(path: Path, column: str) -> np.ndarray:
    return np.stack(pq.read_table(path)[column].to_numpy(zero_copy_only=False))


def test_every_row_gets_the_vector_that_torch_computes(night: Night, tmp_path: Path) -> None:
    figures = score_karma(night.artifact, night.configuration, DATE, tmp_path, rows=16, batch_tokens=256)
    assert figures == {"items": 36, "users": 51, "items_reused": 0}
    for table, name in ((KARMA_ITEM_EMBEDDING, FILES[0]), (KARMA_USER_INTEREST, FILES[1])):
        assert pq.read_schema(tmp_path / name).equals(table.schema)
    items, users = (
        vectors(tmp_path / FILES[0], "item_embedding"),
        vectors(tmp_path / FILES[1], "interest_embedding"),
    )
    for view, name, key in (("item_catalog", FILES[0], "item_id"), ("user_history", FILES[1], "user_id")):
        assert pq.read_table(tmp_path / name)[key].to_pylist() == night.features[view][key].to_pylist()
    world, limit = read_world(night.features, night.trained.preparation), KARMA_EXPORTED.history_limit
    pasts = list(world.histories.values())
    sequences = latest_histories(pasts, [EMPTY] * len(pasts), world.catalogue, limit=limit)
    with torch.no_grad():
        assert np.abs(items - evaluation.encode_catalogue(night.trained.network, world.catalogue)).max() < 1e-5
        assert np.abs(users - evaluation.encode_users(night.trained.network, sequences)).max() < 1e-5
    for block in (items, users):
        assert np.abs(np.linalg.norm(block, axis=1) - 1).max() < 1e-5


def test_the_same_night_gives_the_same_bytes(night: Night, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        score_karma(night.artifact, night.configuration, DATE, tmp_path / folder)
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_chunks_do_not_change_a_vector(night: Night, tmp_path: Path) -> None:
    score_karma(night.artifact, night.configuration, DATE, tmp_path / "whole")
    score_karma(night.artifact, night.configuration, DATE, tmp_path / "pieces", rows=3, batch_tokens=1)
    for name, column in zip(FILES, ("item_embedding", "interest_embedding"), strict=True):
        whole, pieces = (vectors(tmp_path / folder / name, column) for folder in ("whole", "pieces"))
        assert np.abs(whole - pieces).max() < 1e-5


def scored(night: Night, features: dict[str, pa.Table], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of items and of users of another night by the same artifact."""
    configuration = Configuration(folder / "attractor.toml", folder / "state", {})
    for view, table in features.items():
        write_rows(partition_path(configuration, view, DATE), FEATURES[view], table.to_batches())
    score_karma(night.artifact, configuration, DATE, folder)
    return vectors(folder / FILES[0], "item_embedding"), vectors(folder / FILES[1], "interest_embedding")


SCRIPTS = ("रेड शर्ट", "赤いシャツ", "قميص أحمر", "красная рубашка", "👩\u200d👧 🐈", "zwölf Boxkämpfer")


def test_words_and_scripts_that_training_never_saw_are_read_by_their_bytes(night: Night, tmp_path: Path) -> None:
    tokenizer = night.trained.preparation.tokenizer
    tokens = encode(tokenizer, SCRIPTS, limit=200)
    assert [decode(tokenizer, tokens[row]) for row in range(len(SCRIPTS))] == [text.lower() for text in SCRIPTS]
    rows = catalogue().to_pylist()
    for number, row in enumerate(rows):
        row["title"] = row["text"] = SCRIPTS[number % len(SCRIPTS)]
    taken = {f"u{u:03}": [u, u + 1] for u in range(6)}
    queries = {user: [SCRIPTS[items[0]], SCRIPTS[items[1] % 6]] for user, items in taken.items()}
    drifted = {
        "item_catalog": pa.Table.from_pylist(rows, catalogue().schema),
        "user_history": histories(taken, queries),
    }
    items, users = scored(night, drifted, tmp_path)
    world = read_world(drifted, night.trained.preparation)
    pasts = list(world.histories.values())
    read = latest_histories(pasts, [EMPTY] * 6, world.catalogue, limit=KARMA_EXPORTED.history_limit)
    with torch.no_grad():
        assert np.abs(items - evaluation.encode_catalogue(night.trained.network, world.catalogue)).max() < 1e-5
        assert np.abs(users - evaluation.encode_users(night.trained.network, read)).max() < 1e-5
    for block in (items, users):
        assert np.abs(np.linalg.norm(block, axis=1) - 1).max() < 1e-5
    silent, _ = scored(night, {**drifted, "item_catalog": catalogue()}, tmp_path / "silent")
    assert np.abs(items - silent).max(axis=1).min() > 1e-4, "a text of unknown words says something"
    without = histories(taken, {user: ["", ""] for user in taken})
    _, unasked = scored(night, {**drifted, "user_history": without}, tmp_path / "unasked")
    assert np.abs(users - unasked).max(axis=1).min() > 1e-4, "so does a query"


def test_an_item_deleted_since_training_leaves_no_trace_in_a_history(night: Night, tmp_path: Path) -> None:
    remaining = catalogue().filter(pc.not_equal(catalogue()["item_id"], "i003"))
    deleted = {"u0": [1, 3, 2], "u1": [3, 3], "u2": [2, 3, 2], "u3": [4, 3]}
    # 999 was never there either: a history without any known event
    never = {"u0": [1, 2], "u1": [999], "u2": [2, 2], "u3": [4]}
    asked = {"u0": ["red", "blue", ""], "u1": ["red", ""], "u2": ["lamp", "red", "shirt"], "u3": ["", "green shirt"]}
    kept = {"u0": ["red", ""], "u1": ["blue"], "u2": ["lamp", "shirt"], "u3": [""]}
    items, after = scored(night, {"item_catalog": remaining, "user_history": histories(deleted, asked)}, tmp_path / "a")
    assert len(items) == 35
    _, without = scored(night, {"item_catalog": remaining, "user_history": histories(never, kept)}, tmp_path / "b")
    assert np.array_equal(after, without)
    _, before = scored(night, {"item_catalog": catalogue(), "user_history": histories(deleted, asked)}, tmp_path / "c")
    assert np.abs(before - after).max(axis=1).min() > 1e-4, "while it was there it counted"


def test_a_night_that_was_not_built_is_named_and_leaves_nothing(night: Night, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="item_catalog"):
        score_karma(night.artifact, night.configuration, dt.date(2030, 1, 1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_night_loads_no_training_library(night: Night, tmp_path: Path) -> None:
    program = f"""
import datetime as dt, sys
from pathlib import Path
from export.artifacts import load
from export.karma_scoring import score_karma
from features.configuration import Configuration
root = Path({str(night.configuration.state)!r})
artifact = load(Path({str(night.artifact.directory.parents[1])!r}), {night.artifact.version!r})
print(score_karma(artifact, Configuration(root / "attractor.toml", root, {{}}), {DATE!r}, Path({str(tmp_path)!r})))
heavy = {{"torch", "transformers", "feast", "torch_geometric"}} & {{name.split(".")[0] for name in sys.modules}}
sys.exit(f"the night loaded {{heavy}}" if heavy else 0)
""".replace("datetime.date", "dt.date")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'users': 51" in done.stdout

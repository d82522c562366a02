"""Interests with a current query: what torch computes, the published vector without one, and refusals by name."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from export import artifacts, release
from export.cli import cli
from export.karma_encoding import open_encoder
from export.karma_interest import Interests, nearest_items, open_interests
from export.karma_scoring import score_karma
from features.configuration import Configuration
from features.contracts import FEATURES
from features.errors import MissingInput
from features.partitions import partition_path, write_rows
from features.releases import open_releases
from models.karma import evaluation
from models.karma.compressed import latest_histories
from models.karma.text import encode
from models.karma.training import TrainedKarma, read_world
from tests.karma_world import ExportedKarma, catalogue, histories
from tests.markdown import blocks
from tests.scored_nights import MIDDAY, about, tables, write_scored

DATE = dt.date(2026, 1, 20)
FEATURES_OF_THE_NIGHT = {
    "item_catalog": catalogue(),
    "user_history": histories(
        {
            **{f"u{u:03}": np.random.default_rng(u).integers(36, size=1 + 3 * u).tolist() for u in range(12)},
            "u012": [900],  # an item that the catalogue does not know
        }
    ),
}


@dataclass(frozen=True)
class Published:
    """A state with one published night of a trained KARMA."""

    trained: TrainedKarma
    configuration: Configuration
    release_id: str


@pytest.fixture(scope="module", params=["karma", "compressed_karma"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    exported: ExportedKarma = request.getfixturevalue(request.param)
    root = tmp_path_factory.mktemp("state")
    (root / "attractor.toml").write_text('state = "."\n', encoding="utf-8")
    configuration = Configuration(root / "attractor.toml", root, {})
    version = exported.artifact.version
    shutil.copytree(exported.artifact.directory, configuration.artifacts / "karma" / version)
    for view, table in FEATURES_OF_THE_NIGHT.items():
        write_rows(partition_path(configuration, view, DATE), FEATURES[view], table.to_batches())
    columns = tables()
    scored = write_scored(configuration.scored / DATE.isoformat(), columns)
    score_karma(artifacts.load(configuration.artifacts, version), configuration, DATE, scored)
    told = about(DATE, columns, space_id=exported.artifact.manifest["about"]["space_id"])
    told["models"]["karma"] = version
    release_id = release.stage(configuration, DATE, scored, told)
    at = dt.datetime.combine(DATE, MIDDAY)
    release.publish(configuration, release_id, published_at=at, force_reason="a test's attraction lists")
    return Published(exported.trained, configuration, release_id)


@pytest.fixture(scope="module")
def asked(published: Published) -> Interests:
    return open_interests(published.configuration)


USERS = [*(f"u{u:03}" for u in range(13)), "u003"]
QUERIES = ["red shirt", "blue", "", "green lamp 7", "  \t", "猫", *["shirt"] * 5, "a" * 10_000, "lamp", "blue lamp"]


def test_with_a_query_it_is_what_torch_computes(published: Published, asked: Interests) -> None:
    trained = published.trained
    world, config = read_world(FEATURES_OF_THE_NIGHT, trained.preparation), trained.preparation.config
    texts = encode(trained.preparation.tokenizer, QUERIES, limit=config.query_tokens)
    queries, pasts = [texts[row] for row in range(len(texts))], [world.histories[user] for user in USERS]
    read = latest_histories(pasts, queries, world.catalogue, limit=config.history_limit)
    with torch.no_grad():
        expected = evaluation.encode_users(trained.network, read)
    (directory,) = (path for path in (published.configuration.artifacts / "karma").iterdir() if path.is_dir())
    exact = replace(asked, encoder=open_encoder(directory, precision="fp32"))
    made = exact.interests(USERS, QUERIES)
    assert made.dtype == np.float32
    asking = [row for row in range(len(texts)) if len(texts[row])]
    assert np.abs(made - expected)[asking].max() < 1e-5
    assert (made * asked.interests(USERS, QUERIES)).sum(axis=1).min() > 0.98, "in 8 bits, where the night is"


def test_without_a_query_it_is_the_published_vector(published: Published, asked: Interests) -> None:
    live = open_releases(published.configuration.releases).current()
    vectors, _ = live.embeddings("karma_user_interest", "interest_embedding", USERS, space_id=asked.release.space_id)
    assert np.array_equal(asked.interests(USERS, [""] * len(USERS)), vectors)
    made = asked.interests(USERS, QUERIES)
    silent = [row for row, query in enumerate(QUERIES) if not query.strip()]
    assert np.array_equal(made[silent], vectors[silent])
    moved = np.abs(made - vectors).max(axis=1) > 1e-3
    assert moved.tolist() == [bool(query.strip()) for query in QUERIES], "a query counts"
    assert asked.interests([], []).shape == (0, vectors.shape[1])


def test_a_history_encoded_again_without_a_query_is_what_was_published(asked: Interests) -> None:
    again = asked._encoded(USERS, [np.empty(0, np.int64)] * len(USERS))
    assert (again * asked.interests(USERS, [""] * len(USERS))).sum(axis=1).min() > 1 - 1e-5


def test_the_page_for_ranking_systems(published: Published, asked: Interests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRACTOR_CONFIG", str(published.configuration.file))
    (code,) = (block for block in blocks("ranking-system.md", "python") if "open_interests" in block)
    given = {"user_ids": USERS, "queries": QUERIES}
    exec(compile(code, "ranking-system.md", "exec"), given)
    assert np.array_equal(given["vectors"], asked.interests(USERS, QUERIES))


def test_nearest_items_are_those_of_a_sort(asked: Interests) -> None:
    (vector,) = asked.interests(["u003"], ["red shirt"])
    known = catalogue()["item_id"].to_pylist()
    items, _ = asked.release.embeddings("karma_item_embedding", "item_embedding", known)
    best = np.argsort(-(items @ vector), kind="stable")[:5]
    found = nearest_items(asked.release, vector, top=5)
    assert [item for item, _ in found] == [known[row] for row in best]
    assert [cosine for _, cosine in found] == pytest.approx((items @ vector)[best].tolist(), abs=1e-6)


def test_who_is_not_there_is_named(published: Published, asked: Interests, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=f"no user 'nobody' in release {published.release_id}"):
        asked.interests(["u001", "nobody"], ["red", ""])
    with pytest.raises(ValueError, match="one query for each user, got 1 for 2"):
        asked.interests(["u001", "u002"], ["red"])
    with pytest.raises(MissingInput, match="2030-01-01-000000000000"):
        open_interests(published.configuration, "2030-01-01-000000000000")
    shutil.copytree(published.configuration.state, tmp_path / "own")
    own = Configuration(tmp_path / "own" / "attractor.toml", tmp_path / "own", {})
    held = open_interests(own)
    partition_path(own, "user_history", DATE).unlink()
    with pytest.raises(MissingInput, match=r"user_history was not built as of 2026-01-20.*attractor build"):
        held.interests(["u001"], ["red"])
    without = FEATURES_OF_THE_NIGHT["user_history"].slice(2)
    write_rows(partition_path(own, "user_history", DATE), FEATURES["user_history"], without.to_batches())
    with pytest.raises(MissingInput, match=r"no user 'u001' in user_history as of 2026-01-20"):
        held.interests(["u001"], ["red"])
    partition_path(own, "item_catalog", DATE).unlink()
    with pytest.raises(MissingInput, match="item_catalog was not built as of 2026-01-20"):
        open_interests(own)
    shutil.rmtree(own.artifacts)
    with pytest.raises(MissingInput, match=r"was scored by karma-.*, which is gone"):
        open_interests(own)


def test_the_command_says_what_the_function_does(published: Published, asked: Interests) -> None:
    arguments = ["interest", "--user", "u003", "--query", "red shirt", "--config", str(published.configuration.file)]
    told = json.loads(CliRunner().invoke(cli, [*arguments, "--json", "--top", "3"], catch_exceptions=False).output)
    (vector,) = asked.interests(["u003"], ["red shirt"])
    assert np.array_equal(np.float32(told["interest_embedding"]), vector)
    assert (told["release_id"], told["space_id"]) == (published.release_id, asked.release.space_id)
    assert [entry["item_id"] for entry in told["nearest"]] == [
        i for i, _ in nearest_items(asked.release, vector, top=3)
    ]
    lines = CliRunner().invoke(cli, arguments, catch_exceptions=False).output.splitlines()
    assert "asking 'red shirt'" in lines[0]
    assert len(lines) == 11


def test_it_loads_no_training_library(published: Published) -> None:
    program = f"""
import sys
from pathlib import Path
from export.karma_interest import open_interests
from features.configuration import load
open_interests(load(Path({str(published.configuration.file)!r}))).interests(["u001"], ["red"])
heavy = {{"torch", "transformers", "feast", "torch_geometric"}} & {{name.split(".")[0] for name in sys.modules}}
sys.exit(f"it loaded {{heavy}}" if heavy else 0)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

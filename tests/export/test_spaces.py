"""One space: a new KARMA takes over the standing one's where little is lost, and vectors of two are never mixed."""

from __future__ import annotations

import copy
import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ortho_group

from export import alignment
from export.alignment import NODE, ROTATION, Loss, measured, procrustes, rotate, standing_alignment
from export.artifacts import Artifact, save
from export.audit import audit
from export.champions import crown, evidence
from export.composition import compose
from export.gates import PARTS
from export.karma_cache import cache_path, item_cache
from export.karma_encoding import HISTORY_GRAPH, ITEM_GRAPH, open_encoder, quantised
from export.karma_graphs import export_karma, space_id
from export.karma_quantisation import night_vectors, write_int8
from export.karma_scoring import score_karma
from export.karma_settings import AlignmentConfig, alignment_inputs, standing_karma
from export.parity import open_session
from export.staging import SPACE_MARK, stage, write_table
from features.configuration import Configuration
from features.contracts import KARMA_ITEM_EMBEDDING, KARMA_USER_INTEREST
from features.errors import ArtifactCorrupt, ContractViolation
from features.release_table import check_comparable, open_table
from features.releases import open_release, read_pointer
from models.karma.text import load_preparation, read_catalogue
from models.karma.training import TrainedKarma, train_karma
from tests.karma_world import KARMA_EXPORTED, ExportedKarma, training_set
from tests.scored_nights import about, configuration_at, publish_night, stage_night, tables, write_scored

WORLD = training_set()
ALIGN = AlignmentConfig(align=True)
Floats = NDArray[np.float32]


def exported(root: Path, trained: TrainedKarma, **settings: Any) -> Artifact:
    return save(root, "karma", lambda directory: export_karma(trained, WORLD, directory, **settings))


def vectors(directory: Path) -> tuple[Floats, Floats]:
    """Items and users of the world, by the graphs that a night would use."""
    encoder = open_encoder(directory)
    catalogue = read_catalogue(WORLD.recent["item_catalog"], encoder.preparation)
    return night_vectors(encoder, catalogue, WORLD.recent["user_history"])


def turned(trained: TrainedKarma, rotation: Floats) -> TrainedKarma:
    """The same network in another basis: the last layers and the ids turned, so that only its space is another."""
    network, turn = copy.deepcopy(trained.network), torch.from_numpy(rotation)
    with torch.no_grad():
        for side in (network.interest, network.item):
            last = cast(torch.nn.Linear, side[-1])
            last.weight.copy_(turn.T @ last.weight)
            last.bias.copy_(last.bias @ turn)
        network.identity.weight.copy_(network.identity.weight @ turn)
    return replace(trained, network=network)


@pytest.fixture(scope="module")
def standing(karma: ExportedKarma) -> Artifact:
    return karma.artifact


@pytest.fixture(scope="module")
def twin(karma: ExportedKarma) -> TrainedKarma:
    """The standing network turned at random."""
    return turned(karma.trained, ortho_group.rvs(KARMA_EXPORTED.embedding, random_state=1).astype(np.float32))


@pytest.fixture(scope="module")
def aligned(twin: TrainedKarma, standing: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The twin in the standing space."""
    return exported(tmp_path_factory.mktemp("aligned"), twin, standing=standing, alignment=ALIGN)


@pytest.fixture(scope="module")
def other() -> TrainedKarma:
    """The same configuration and data, another seed."""
    return train_karma(WORLD, KARMA_EXPORTED, seed=1)


@pytest.fixture(scope="module")
def apart(other: TrainedKarma, standing: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The other seed, where little may be lost."""
    return exported(tmp_path_factory.mktemp("apart"), other, standing=standing, alignment=ALIGN)


def test_a_network_turned_at_random_is_turned_back_and_keeps_the_space(
    twin: TrainedKarma, standing: Artifact, aligned: Artifact
) -> None:
    about, before = aligned.manifest["about"], standing.manifest["about"]
    assert about["space_id"] == before["space_id"] != space_id(aligned.directory)
    assert about["alignment"]["aligned_to"] == standing.version
    assert about["alignment"]["cosine"] > 1 - 1e-5
    assert about["alignment"]["overlap"] == 1.0
    assert (about["alignment"]["fitted"], about["alignment"]["held_out"]) == (27, 9)
    assert before["space_id"] in about["alignment"]["sentence"]
    for ours, theirs in zip(vectors(aligned.directory), vectors(standing.directory), strict=True):
        assert np.abs(ours - theirs).max() < 1e-4
    rotation = standing_alignment(aligned).rotation
    assert rotation is not None
    assert np.abs(rotation - np.eye(len(rotation))).max() > 0.1, "there was something to undo"
    assert np.abs(rotation @ rotation.T - np.eye(len(rotation))).max() < 1e-6


def test_parity_is_of_the_rotated_graphs(aligned: Artifact) -> None:
    for graph in (HISTORY_GRAPH, ITEM_GRAPH):
        record = aligned.manifest["about"]["parity"][graph]
        assert record["holds"]
        assert record["worst"] < 1e-5


def test_two_seeds_are_apart_and_the_artifact_says_so(apart: Artifact, standing: Artifact) -> None:
    """Ten steps of training agree on little: the figures are what they are, and the space is a new one."""
    about = apart.manifest["about"]
    loss = about["alignment"]
    assert loss["cosine"] < ALIGN.min_cosine or loss["overlap"] < ALIGN.min_overlap
    assert about["space_id"] == space_id(apart.directory) != standing.manifest["about"]["space_id"]
    assert loss["aligned_to"] is None
    assert f"{loss['cosine']:.4f}" in loss["sentence"]
    assert "the space is a new one" in loss["sentence"]
    assert not apart.path(ROTATION).exists()


def test_what_a_model_says_of_its_own_users_and_items_stays(
    apart: Artifact, standing: Artifact, tmp_path: Path
) -> None:
    """Whatever is lost across the models, within the new one every inner product is what it was."""
    (items, users), (standing_items, _) = vectors(apart.directory), vectors(standing.directory)
    shutil.copytree(apart.directory, tmp_path / "rotated")
    for graph, output in ((HISTORY_GRAPH, "interest"), (ITEM_GRAPH, "item")):
        rotate(tmp_path / "rotated" / graph, output, procrustes(items, standing_items))
    turned_items, turned_users = vectors(tmp_path / "rotated")
    assert np.abs(items - turned_items).max() > 0.1, "it was rotated"
    assert np.abs(users @ items.T - turned_users @ turned_items.T).max() < 1e-6
    assert np.abs(items @ items.T - turned_items @ turned_items.T).max() < 1e-6
    assert np.abs(np.linalg.norm(turned_users, axis=1) - 1).max() < 1e-6
    assert (np.argsort(-(users @ items.T))[:, :3] == np.argsort(-(turned_users @ turned_items.T))[:, :3]).all()


def test_an_int8_variant_is_rotated_too_and_the_rotation_stays_exact(
    aligned: Artifact, standing: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(aligned.directory, tmp_path / "int8")
    write_int8(tmp_path / "int8", float_nodes=[NODE])
    for graph in (HISTORY_GRAPH, ITEM_GRAPH):
        model = onnx.load(tmp_path / "int8" / quantised(graph))
        (last,) = [node for node in model.graph.node if node.name == NODE]
        assert last.op_type == "MatMul"
    for ours, theirs in zip(vectors(tmp_path / "int8"), vectors(standing.directory), strict=True):
        assert (ours * theirs).sum(axis=1).min() > 0.95


def test_soft_tokens_of_compressed_histories_are_not_rotated(compressed_karma: ExportedKarma, tmp_path: Path) -> None:
    graph = tmp_path / ITEM_GRAPH
    shutil.copyfile(compressed_karma.artifact.path(ITEM_GRAPH), graph)
    rotation = ortho_group.rvs(KARMA_EXPORTED.embedding, random_state=2).astype(np.float32)
    rotate(graph, "item", rotation)
    preparation = compressed_karma.trained.preparation
    inputs = read_catalogue(WORLD.recent["item_catalog"], preparation).inputs(np.arange(5))
    items, soft = open_session(compressed_karma.artifact.path(ITEM_GRAPH)).run(["item", "soft"], inputs)
    turned_items, same = open_session(graph).run(["item", "soft"], inputs)
    assert (soft == same).all()
    assert np.abs(turned_items - items @ rotation).max() < 1e-6


def test_an_export_once_more_is_the_same_artifact(twin: TrainedKarma, aligned: Artifact, tmp_path: Path) -> None:
    """Also when the champion that it is compared with is by then itself."""
    assert exported(tmp_path, twin, standing=aligned, alignment=ALIGN).version == aligned.version


def test_nothing_is_aligned_unless_it_is_asked_for(standing: Artifact, tmp_path: Path) -> None:
    silent = configuration_at(tmp_path)
    assert standing_karma(silent) is None
    assert alignment_inputs(silent) == {}
    asked = configuration_at(tmp_path, alignment={"align": True})
    assert standing_karma(asked) is None, "no champion yet"
    shutil.copytree(standing.directory, asked.artifacts / "karma" / standing.version)
    crown(asked, standing, at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC), gates=[], quality=None)
    found = standing_karma(asked)
    assert found is not None
    assert found.version == standing.version
    assert alignment_inputs(asked)["alignment"]["space_id"] == standing.manifest["about"]["space_id"]
    assert alignment_inputs(silent) == {}


def test_vectors_of_another_length_are_another_space(
    karma: ExportedKarma, aligned: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item vectors of the artifact in the making cut by one number, as of a network that has one less."""
    made = iter([tuple(side[:, :-1] for side in vectors(aligned.directory)), vectors(karma.artifact.directory)])
    monkeypatch.setattr(alignment, "_vectors", lambda directory, training_set, *, users: next(made))
    found = alignment.align(aligned.directory, "own", karma.artifact, WORLD, ALIGN)
    assert (found.rotation, found.space_id, found.record["aligned_to"]) == (None, "own", None)
    assert "another length" in found.record["sentence"]


def test_a_release_tells_whose_space_it_is_in_and_what_was_lost(
    aligned: Artifact, standing: Artifact, tmp_path: Path
) -> None:
    told = evidence(configuration_at(tmp_path), aligned)["alignment"]
    assert told["aligned_to"] == standing.version
    assert {"cosine", "overlap", "min_cosine", "min_overlap", "fitted", "held_out"} <= set(told)
    assert "alignment" not in evidence(configuration_at(tmp_path), standing)
    assert standing.manifest["about"]["space_id"] == space_id(standing.directory)


def test_procrustes_finds_the_rotation_and_the_loss_is_of_what_remains() -> None:
    rng = np.random.default_rng(0)
    items, users = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 300, 6)))
    turn = ortho_group.rvs(6, random_state=3)
    assert np.allclose(procrustes(items, items @ turn), turn, atol=1e-6)
    none = measured((items, users), (items, users), fitted=0)
    assert (round(none.cosine, 6), none.overlap) == (1.0, 1.0)
    noisy = items + 0.3 * rng.normal(size=items.shape)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    some = measured((noisy, users), (items, users), fitted=0)
    assert some.cosine == pytest.approx(float(np.mean([a @ b for a, b in zip(noisy, items, strict=True)])))
    slow = [set(np.argsort(-items @ user)[:30]) & set(np.argsort(-noisy @ user)[:30]) for user in users]
    assert some.overlap == pytest.approx(np.mean([len(shared) / 30 for shared in slow]))
    assert isinstance(some, Loss)


@pytest.mark.parametrize(
    "setting", [{"min_cosine": 1.1}, {"min_overlap": -0.1}, {"held_out": 0.0}, {"held_out": 1.0}, {"users": 0}]
)
def test_settings_that_do_not_fit_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        AlignmentConfig(**setting)


# Vectors of two spaces are never mixed

NIGHT = dt.date(2026, 3, 1)
VIEWS = ("karma_user_interest", "karma_item_embedding")


def marked(scored: Path, view: str, space: str) -> None:
    """Mark a scored file as scoring does."""
    table = pq.read_table(scored / f"{view}.parquet")
    pq.write_table(table.replace_schema_metadata({SPACE_MARK: space}), scored / f"{view}.parquet")


@pytest.mark.parametrize(
    ("spaces", "refused"),
    [(("space-1", "space-1"), False), (("space-1", "space-2"), True), (("space-2", "space-2"), True),
     (("space-1", None), True), ((None, "space-2"), True)],
)  # fmt: skip
def test_scored_files_of_another_space_are_not_staged(
    tmp_path: Path, spaces: tuple[str | None, str | None], refused: bool
) -> None:
    configuration, columns = configuration_at(tmp_path), tables(users=3, items=3)
    scored = write_scored(configuration.scored / str(NIGHT), columns)
    for view, space in zip(VIEWS, spaces, strict=True):
        if space is not None:
            marked(scored, view, space)
    if not refused:
        assert stage(configuration, NIGHT, scored, about(NIGHT, columns))
        return
    with pytest.raises(ContractViolation, match="vectors of space space-1 in both files"):
        stage(configuration, NIGHT, scored, about(NIGHT, columns))
    assert not list((configuration.releases / "staging").glob("2*"))


def shorter(columns: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    items = columns["karma_item_embedding"]
    short = [vector[:-1] for vector in items["item_embedding"]]
    return {**columns, "karma_item_embedding": {**items, "item_embedding": short}}


def test_users_and_items_of_different_lengths_are_not_staged(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match="as long as those of items"):
        stage_night(configuration_at(tmp_path), NIGHT, shorter(tables(users=3, items=3)))


def test_users_and_items_of_different_lengths_are_not_opened(tmp_path: Path) -> None:
    """Two releases that are whole, and a directory that has the items of one beside the users of the other."""
    for name, columns in (("a", tables(users=3, items=3)), ("b", shorter(tables(users=3, items=3)))):
        scored = write_scored(tmp_path / name, columns)
        for table in (KARMA_USER_INTEREST, KARMA_ITEM_EMBEDDING):
            write_table(scored / f"{table.name}.parquet", table, scored)
    users = open_table(tmp_path / "a", KARMA_USER_INTEREST)
    check_comparable(tmp_path, users, open_table(tmp_path / "a", KARMA_ITEM_EMBEDDING))
    with pytest.raises(ArtifactCorrupt, match="vectors of one space"):
        check_comparable(tmp_path, users, open_table(tmp_path / "b", KARMA_ITEM_EMBEDDING))


def test_readers_refuse_vectors_of_another_space_and_every_read_tells_its_own(tmp_path: Path) -> None:
    configuration = configuration_at(tmp_path)
    first = publish_night(configuration, NIGHT, tables(users=3, items=3))
    second = stage_night(configuration, NIGHT + dt.timedelta(days=1), tables(users=3, items=3), space_id="space-2")
    releases = [open_release(configuration.releases / "releases" / first)]
    releases.append(open_release(configuration.releases / "staging" / second))
    for release, space, foreign in zip(releases, ("space-1", "space-2"), ("space-2", "space-1"), strict=True):
        assert release.provenance["space_id"] == release.provenance["item_space_id"] == space
        release.embeddings("karma_user_interest", "interest_embedding", ["user 1"], space_id=space)
        for view, column, key in (
            ("karma_user_interest", "interest_embedding", "user 1"),
            ("karma_item_embedding", "item_embedding", "item 1"),
        ):
            with pytest.raises(ValueError, match=f"expected vectors of space {foreign}"):
                release.embeddings(view, column, [key], space_id=foreign)


def test_a_composed_release_has_the_space_of_the_part_that_made_its_vectors(tmp_path: Path) -> None:
    """Both views of vectors come from one release, whichever part stands in."""
    assert set(VIEWS) == set(PARTS["karma"])
    configuration = configuration_at(tmp_path)
    publish_night(configuration, NIGHT)
    columns = tables(seed=5)
    columns["karma_user_interest"]["interest_embedding"] = [
        0 * row for row in columns["karma_user_interest"]["interest_embedding"]
    ]
    release_id = stage_night(configuration, NIGHT + dt.timedelta(days=1), columns, space_id="space-2")
    composed = compose(configuration, audit(configuration, release_id))
    assert composed is not None
    opened = open_release(configuration.releases / "staging" / composed)
    live = open_release(configuration.releases / "releases" / read_pointer_id(configuration))
    assert opened.space_id == opened.provenance["item_space_id"] == "space-1"
    for view, column in zip(VIEWS, ("interest_embedding", "item_embedding"), strict=True):
        rows = np.arange(live.tables[view].row_count)
        assert (opened.tables[view].vectors(column, rows) == live.tables[view].vectors(column, rows)).all()


def read_pointer_id(configuration: Configuration) -> str:
    pointer = read_pointer(configuration.releases)
    assert pointer is not None
    return pointer.release_id


def test_cached_vectors_of_another_artifact_are_not_used(
    standing: Artifact, apart: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the file was renamed, or is broken."""
    catalogue = read_catalogue(WORLD.recent["item_catalog"], load_preparation(standing.directory))
    copies = []
    for artifact in (standing, apart):
        shutil.copytree(artifact.directory, tmp_path / artifact.version)
        copies.append(replace(artifact, directory=tmp_path / artifact.version))
    reused = []
    for spoil in (None, "another artifact's", "broken", None):
        if spoil == "another artifact's":
            with item_cache(copies[1], open_encoder(copies[1].directory)) as cache:
                cache.encode(catalogue)
            cache_path(copies[1]).replace(cache_path(copies[0]))
        elif spoil == "broken":
            cache_path(copies[0]).write_bytes(b"ARROW1 or not")
        with item_cache(copies[0], open_encoder(copies[0].directory)) as cache:
            made = cache.encode(catalogue).embeddings
        assert np.abs(made - vectors(standing.directory)[0]).max() < 1e-6
        reused.append(cache.reused)
    assert reused == [0, 0, 0, len(catalogue)]
    assert "of another artifact" in caplog.text
    assert "cannot be read" in caplog.text


def test_scoring_marks_both_files_with_the_artifacts_space(standing: Artifact, tmp_path: Path) -> None:
    for name, rows in (("item_catalog", WORLD.recent["item_catalog"]), ("user_history", WORLD.recent["user_history"])):
        folder = configuration_at(tmp_path).features / name
        folder.mkdir(parents=True)
        pq.write_table(rows, folder / f"date={NIGHT}.parquet")
    out = tmp_path / "out"
    out.mkdir()
    shutil.copytree(standing.directory, tmp_path / standing.version)
    score_karma(replace(standing, directory=tmp_path / standing.version), configuration_at(tmp_path), NIGHT, out)
    for view in VIEWS:
        mark = pq.read_schema(out / f"{view}.parquet").metadata[SPACE_MARK]
        assert mark.decode() == standing.manifest["about"]["space_id"]

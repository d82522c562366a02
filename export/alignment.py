"""A new KARMA in the standing one's embedding space: one rotation at the end of its graphs, if little is lost by it.

Two trainings of one network give spaces that differ by a rotation and by what they learned apart. The rotation can be
undone: orthogonal Procrustes (P. H. Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966)
over the items that both encode. It keeps every inner product within the new model, so its own lists stay; the rest is
the loss, measured on items that were kept from the fit. Where it is small, vectors of both may be compared and the
space keeps its id; where it is not, the new space has an id of its own.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.linalg import orthogonal_procrustes

from export.artifacts import Artifact
from export.karma_encoding import Vectors, open_encoder
from export.karma_quantisation import LISTED, list_overlap, night_vectors
from export.karma_settings import AlignmentConfig
from features.errors import ArtifactCorrupt, ContractViolation
from features.files import replacing_file
from features.training_sets import TrainingSet
from models.karma.text import read_catalogue

ROTATION = "alignment.safetensors"
NODE = "alignment"
"""The product with the rotation, and its weight: what int8 leaves alone."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """What came of it: the rotation [d, d] if it is applied, the space of the vectors then, and what is recorded."""

    rotation: Vectors | None
    space_id: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """What comparing across the two models costs: 1 and 1 if they differ by a rotation alone; NaN if not measured."""

    cosine: float
    overlap: float
    fitted: int
    held_out: int
    users: int


def align(
    directory: Path, own_space: str, standing: Artifact, training_set: TrainingSet, config: AlignmentConfig
) -> Alignment:
    """Fit the rotation of the artifact being made in `directory` to `standing`, and decide by `config` if it holds.

    Nothing is written. `own_space` is the space's id without a rotation.
    """
    space = str(standing.manifest["about"]["space_id"])
    told = {"standing": standing.version, "standing_space_id": space, **asdict(config)}
    try:
        rotation, loss = _fitted(directory, standing.directory, training_set, config)
    except ContractViolation as error:  # what one of them reads, the other cannot
        return _apart(own_space, told, f"{standing.version} cannot encode the same items: {error}")
    if rotation is None:
        return _apart(own_space, told, f"{standing.version} has vectors of another length, or too few items are shared")
    figures = (
        f"{loss.held_out} held-out items keep a mean cosine of {loss.cosine:.4f} and {loss.overlap:.4f} of their lists"
    )
    told |= asdict(loss)
    if not (loss.cosine >= config.min_cosine and loss.overlap >= config.min_overlap):
        asked = f"{config.min_cosine} and {config.min_overlap} are asked for"
        return _apart(own_space, told, f"not aligned to {standing.version}: {figures}; {asked}: the space is a new one")
    sentence = f"aligned to {standing.version}, whose space {space} stays: {figures}"
    return Alignment(rotation, space, {**told, "aligned_to": standing.version, "sentence": sentence})


def standing_alignment(standing: Artifact) -> Alignment:
    """That of the standing artifact itself, for an export of the same network once more."""
    about, rotation = standing.manifest["about"], standing.path(ROTATION)
    try:
        matrix = load_file(rotation)["rotation"] if rotation.is_file() else None
    except (SafetensorError, KeyError) as error:
        raise ArtifactCorrupt(f"{rotation} holds no rotation: {error}") from error
    return Alignment(matrix, about["space_id"], dict(about["alignment"]) if about.get("alignment") else {})


def procrustes(new: Vectors, standing: Vectors) -> Vectors:
    """The orthogonal R [d, d] that makes |new R - standing| smallest; both [items, d], row by row the same items."""
    rotation, _ = orthogonal_procrustes(new.astype(np.float64), standing.astype(np.float64))
    found: Vectors = rotation.astype(np.float32)
    return found


def rotate(graph: Path, output: str, rotation: NDArray[np.float32]) -> None:
    """Multiply the output [B, d] of an ONNX file by `rotation` [d, d], as the last step of the graph itself."""
    model = onnx.load(graph, load_external_data=False)  # weights beside the graph stay there
    before = f"{output}_before_{NODE}"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [before if name == output else name for name in names]
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rotation), NODE))
    model.graph.node.append(helper.make_node("MatMul", [before, NODE], [output], name=NODE))
    with replacing_file(graph) as temporary:
        onnx.save_model(model, temporary)


def save_rotation(rotation: Vectors, directory: Path) -> None:
    """Keep the rotation beside the graphs, for whoever reads the network's weights instead."""
    with replacing_file(directory / ROTATION) as temporary:
        temporary.write_bytes(save({"rotation": np.ascontiguousarray(rotation)}))


def _apart(own_space: str, told: dict[str, Any], sentence: str) -> Alignment:
    return Alignment(None, own_space, {**told, "aligned_to": None, "sentence": sentence})


def _fitted(
    directory: Path, standing: Path, training_set: TrainingSet, config: AlignmentConfig
) -> tuple[Vectors | None, Loss]:
    """The rotation over the items that are not held out, and its loss on those that are."""
    (new_items, new_users), (items, users) = (
        _vectors(folder, training_set, users=config.users) for folder in (directory, standing)
    )
    order = np.random.default_rng(config.seed).permutation(len(items))
    held_out, fitted = np.split(order, [math.ceil(config.held_out * len(items))])
    nothing = Loss(math.nan, math.nan, len(fitted), len(held_out), len(users))
    if new_items.shape != items.shape or not len(fitted) or not len(held_out):
        return None, nothing
    rotation = procrustes(new_items[fitted], items[fitted])
    return rotation, measured(
        (new_items[held_out] @ rotation, new_users @ rotation), (items[held_out], users), fitted=len(fitted)
    )


def measured(new: tuple[Vectors, Vectors], standing: tuple[Vectors, Vectors], *, fitted: int) -> Loss:
    """The loss between (items [n, d], users [u, d]) of two models, unit rows.

    Of lists of the n best items, n at most 100 and a tenth of all: what changes where one side's vectors come from
    the other model, the items' or the users'.
    """
    (new_items, new_users), (items, users) = new, standing
    listed = max(1, min(LISTED, len(items) // 10))
    overlaps = (
        list_overlap(items, users, new_items, users, listed=listed),
        list_overlap(new_items, new_users, items, new_users, listed=listed),
    )
    cosine = float((new_items * items).sum(axis=1).mean())
    return Loss(cosine, min(overlaps), fitted, len(items), len(users))


def _vectors(directory: Path, training_set: TrainingSet, *, users: int) -> tuple[Vectors, Vectors]:
    encoder = open_encoder(directory, precision="fp32")
    catalogue = read_catalogue(training_set.recent["item_catalog"], encoder.preparation)
    return night_vectors(encoder, catalogue, training_set.recent["user_history"].slice(0, users))

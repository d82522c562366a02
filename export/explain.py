"""Explain a published score: find what made it, encode the night's graphs again, and compare with what was released.

Unlike scoring this runs on torch, from the artifact's weights: what the heads make of a modulation takes gradients.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from export.artifacts import Artifact
from export.champions import champion
from export.dicer_scoring import ITEM_BASES, USER_BASES, night_graphs
from export.released import released
from features.configuration import Configuration
from features.errors import ArtifactCorrupt, MissingInput
from features.files import read_json
from features.partitions import partition_path
from features.releases import Release
from models.dicer.config import DicerConfig
from models.dicer.encoder import edges_of, quiet_about_sparse_tensors
from models.dicer.explanation import Explanation, Maxima, explain
from models.dicer.graphs import Graphs, rows_of
from models.dicer.network import Dicer
from models.dicer.training import cold_rows


@dataclass(frozen=True)
class Published:
    """What a release says of the pair: its place from 1 and score in the user's list, None where it is not in it."""

    release_id: str
    listed: int  # length of the user's list; 0: the release has none
    rank: int | None
    score: float | None
    difference: float | None  # recomputed less published
    erased: bool = False  # whether a user was erased from the release since it was scored


@dataclass(frozen=True)
class ExplainedScore:
    """An explanation, what it was made from, and what was published."""

    date: str
    artifact: str
    explanation: Explanation
    published: Published | None  # None for a night that is not published
    cold_user: bool  # training did not know the user: its base embedding is zeros
    cold_item: bool
    titles: Mapping[str, str]  # of the items named, where they have one

    @property
    def score(self) -> float:
        """The recomputed score."""
        return self.explanation.score


def explain_score(
    configuration: Configuration,
    user_id: str,
    item_id: str,
    *,
    release_id: str | None = None,
    date: dt.date | None = None,
) -> ExplainedScore:
    """Explain the pair's score in the live release, in the one named, or by the champion on the features of `date`.

    Raises MissingInput if the night does not know an id, or if the release, its artifact or the feature partitions of
    its date are gone; ValueError if both a release and a date are named.
    """
    release, artifact, date = _night(configuration, release_id, date)
    graphs = night_graphs(configuration, date)
    user = _row(user_id, graphs.user_ids, partition_path(configuration, "social_graph", date), "user")
    item = _row(item_id, graphs.item_ids, partition_path(configuration, "item_audience", date), "item")
    network = load_network(artifact)
    users, items = (_trained_rows(artifact, *pair) for pair in _bases(graphs))
    with torch.no_grad(), quiet_about_sparse_tensors():
        bases = cold_rows(network.user_base, users), cold_rows(network.item_base, items)
        edges = edges_of(graphs)
        h, z = network.encode(*bases, edges)
        likeness = None
        if network.collaboration is not None:
            of_users, of_items = network.collaboration(*bases, edges.interactions)
            likeness = float(of_users[user] @ of_items[item])
    explanation = explain(network, h, z, graphs, user=user, item=item, likeness=likeness)
    return ExplainedScore(
        date.isoformat(),
        artifact.version,
        explanation,
        _published(release, explanation) if release else None,
        bool(users[user] < 0),
        bool(items[item] < 0),
        _titles(configuration, date, explanation),
    )


def load_network(artifact: Artifact) -> Dicer:
    """The trained network of an artifact, in evaluation mode. Raises ArtifactCorrupt if its weights do not fit."""
    config = TypeAdapter(DicerConfig).validate_python(read_json(artifact.path("config.json")))
    weights = load_file(artifact.path("weights.safetensors"))
    with torch.random.fork_rng(devices=[]):  # the starting weights are drawn, and overwritten
        network = Dicer(config, len(weights["user_base"]), len(weights["item_base"]))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactCorrupt(
            f"{artifact.directory}: the weights do not fit this version's network: {error}"
        ) from error
    return network.eval()


def _night(
    configuration: Configuration, release_id: str | None, date: dt.date | None
) -> tuple[Release | None, Artifact, dt.date]:
    if date is not None:
        if release_id is not None:
            raise ValueError(f"expected a release or a date, got both {release_id} and {date}")
        return None, champion(configuration, "dicer"), date
    return released(configuration, release_id, model="dicer", view="dicer_user_attraction")


def _row(named: str, ids: pa.StringArray, partition: object, what: str) -> int:
    row = int(rows_of(pa.array([named]), ids)[0])
    if row < 0:
        raise MissingInput(f"no {what} {named!r} among the {len(ids):,} {what}s of {partition}")
    return row


def _bases(graphs: Graphs) -> tuple[tuple[str, pa.StringArray], tuple[str, pa.StringArray]]:
    return (USER_BASES, graphs.user_ids), (ITEM_BASES, graphs.item_ids)


def _trained_rows(artifact: Artifact, name: str, ids: pa.StringArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return rows_of(ids, pq.read_table(artifact.path(name), columns=["id"])["id"].combine_chunks())


def _published(release: Release, explanation: Explanation) -> Published:
    table = release.tables["dicer_user_attraction"]
    row = table.locate_one([explanation.user_id])
    erased = bool(release.manifest.get("erased_from"))
    if row < 0:
        return Published(release.release_id, 0, None, None, None, erased)
    items, scores = (table.column(name, np.array([row]))[0].as_py() for name in ("item_ids", "scores"))
    if explanation.item_id not in items:
        return Published(release.release_id, len(items), None, None, None, erased)
    place = items.index(explanation.item_id)
    difference = explanation.score - scores[place]
    return Published(release.release_id, len(items), place + 1, scores[place], difference, erased)


def _titles(configuration: Configuration, date: dt.date, explanation: Explanation) -> dict[str, str]:
    path = partition_path(configuration, "item_catalog", date)
    if not path.is_file():
        raise MissingInput(f"item_catalog was not built as of {date}: no {path}; run `attractor build --date {date}`")
    interest = explanation.interest
    maxima: list[Maxima] = [interest.own, *(friend.history for friend in interest.friends)] if interest else []
    named = {explanation.item_id, *(owner.id for part in maxima for owner in part.owners)}
    rows = pq.read_table(path, columns=["item_id", "title"], filters=[("item_id", "in", sorted(named))])
    pairs = zip(rows["item_id"].to_pylist(), rows["title"].to_pylist(), strict=True)
    return {item: title for item, title in pairs if title}

"""KARMA's graphs with weights and activations of 8 bits, and what that costs against float32.

Dynamic quantisation of ONNX Runtime: products with weights only, a scale for each output channel; activations get
their scale while the graph runs. Attention, norms and embeddings stay in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.karma_encoding import HISTORY_GRAPH, ITEM_GRAPH, Encoder, Vectors, open_encoder, quantised
from features.errors import GateFailed
from features.files import replacing_file
from models.karma.text import Catalogue, read_catalogue, read_histories

LISTED = 100
"""Items of the lists that are compared."""


def write_int8(directory: Path, *, float_nodes: Collection[str] = ()) -> None:
    """Write the int8 graphs beside those of float32, `float_nodes` left as they are; the night then uses them.

    Where a graph's weights stand in a file of their own, so do those of its int8 graph, whose embeddings are as large.
    """
    for name in (ITEM_GRAPH, HISTORY_GRAPH):
        graph, made = directory / name, directory / quantised(name)
        if (directory / f"{name}.data").is_file():
            _quantise(graph, made, float_nodes, external=True)  # two files, named by each other: written as they are
            continue
        with replacing_file(made) as temporary:
            _quantise(graph, temporary, float_nodes, external=False)


def _quantise(graph: Path, made: Path, float_nodes: Collection[str], *, external: bool) -> None:
    with _quiet_about_preprocessing():
        quantize_dynamic(
            graph,
            made,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(float_nodes),
            use_external_data_format=external,
        )


@contextmanager
def _quiet_about_preprocessing() -> Iterator[None]:
    """ONNX Runtime advises, in the root logger, to optimise graphs before: those of torch's exporter have been."""
    root = logging.getLogger()

    def other(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def int8_cost(
    directory: Path, item_catalog: pa.Table, user_history: pa.Table, *, overlap_floor: float, users: int = 2000
) -> dict[str, Any]:
    """Cosines of int8 vectors to those of float32, and the share of the first `users`' top-100 lists that stays.

    Of a catalogue below 1,000 items the lists are a tenth of it: whatever the vectors, lists of all items are alike.
    Raises GateFailed if that share is below `overlap_floor`.
    """
    encoders = (open_encoder(directory, precision="fp32"), open_encoder(directory, precision="int8"))
    catalogue = read_catalogue(item_catalog, encoders[0].preparation)
    (items, interests), (rough_items, rough_interests) = (
        night_vectors(encoder, catalogue, user_history.slice(0, users)) for encoder in encoders
    )
    listed = max(1, min(LISTED, len(items) // 10))
    overlap = list_overlap(items, interests, rough_items, rough_interests, listed=listed)
    cost = {
        "users": len(interests),
        "min_cosine_items": float((items * rough_items).sum(axis=1).min(initial=1.0)),
        "min_cosine_users": float((interests * rough_interests).sum(axis=1).min(initial=1.0)),
        f"overlap_at_{listed}": overlap,
    }
    if not overlap >= overlap_floor:
        sentence = (
            f"int8 leaves {overlap:.4f} of the top-{listed} lists as float32 has them, at least "
            f"{overlap_floor} are asked for: set [encoding] precision to fp32 or lower overlap_floor"
        )
        raise GateFailed("int8 encoder", [sentence])
    return cost


def list_overlap(
    items: Vectors, interests: Vectors, other_items: Vectors, other_interests: Vectors, *, listed: int = LISTED
) -> float:
    """Mean share of each user's `listed` best items [items, d] that are also among the others' best."""
    listed, shares = min(listed, len(items)), []
    for one, other in zip(interests, other_interests, strict=True):
        first, second = (np.argpartition(-scores, listed - 1)[:listed] for scores in (items @ one, other_items @ other))
        shares.append(len(np.intersect1d(first, second)) / listed)
    return float(np.mean(shares)) if shares else 1.0


def night_vectors(encoder: Encoder, catalogue: Catalogue, user_history: pa.Table) -> tuple[Vectors, Vectors]:
    """Vectors [items, d] of a catalogue and [users, d] of histories, as a night makes them."""
    row_of = {item: row for row, item in enumerate(catalogue.ids)}
    histories = list(read_histories(user_history, encoder.preparation, row_of).values())
    items = encoder.items(catalogue, np.arange(len(catalogue)))
    return items.embeddings, encoder.users(histories, catalogue.history_tokens, items.soft)

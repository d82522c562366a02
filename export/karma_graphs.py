"""KARMA as an artifact: two ONNX graphs, the proof that they compute what the network does, what prepares their inputs.

`history_encoder.onnx`: input_ids [B, S], lengths [B] -> interest [B, d].
`item_encoder.onnx`: token_ids [B, L], lengths [B], picture [B, P], has_picture [B], id_index [B] -> item [B, d].
Where histories are compressed the first also reads soft [R, H], which `input_ids` name from `FIRST_SOFT` on, and the
second also gives soft [B, K, H], of items and of queries alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.export import Dim

from export.alignment import NODE as ALIGNMENT_NODE
from export.alignment import Alignment, align, rotate, save_rotation, standing_alignment
from export.artifacts import Artifact
from export.karma_encoding import HISTORY_GRAPH, ITEM_GRAPH, Vectors
from export.karma_quantisation import int8_cost, write_int8
from export.karma_settings import AlignmentConfig, EncodingConfig
from export.parity import Arrays, Case, measure
from features.files import replacing_file, sha256_of_file, sha256_of_json, write_json
from features.training_sets import TrainingSet
from models.karma.compressed import FIRST_SOFT, latest_histories, used_rows
from models.karma.network import Karma
from models.karma.text import (
    BOS,
    EMPTY,
    INT,
    ITEM,
    Catalogue,
    Preparation,
    padded,
    read_catalogue,
    read_histories,
    vocabulary_size,
)
from models.karma.training import TrainedKarma

WEIGHTS = "weights.safetensors"
NIGHT_PARTS = ("backbone.", "interest.", "item.", "picture.", "no_picture", "identity.", "compressor.")
"""What inference needs of the network; the rest exists to train these."""
DECODING = "backbone.output"  # an output layer that is not tied to the token embeddings

SINGLE_FILE_BYTES = 1 << 30
"""Weights beyond this stand beside their graph in `<graph>.data`: one ONNX file holds at most 2 GiB."""

FLOAT32 = EncodingConfig()
ALIGNMENT = AlignmentConfig()
MAX_BATCH = 1 << 16
OPSET = 23  # the first with attention, rotary positions and RMS normalisation as one operator each


class HistoryEncoder(nn.Module):
    """The user side as a graph sees it."""

    marks: Tensor

    def __init__(self, network: Karma) -> None:
        super().__init__()
        self.network = network
        # of a large vocabulary the exporter would keep every row, to take these few
        self.register_buffer("marks", network.marks.detach().clone(), persistent=False)

    def forward(self, input_ids: Tensor, lengths: Tensor, soft: Tensor | None = None) -> Tensor:
        """[B, S], [B], and [R, H] where histories are soft tokens -> [B, d]."""
        return self.network.encode_history(input_ids, lengths, soft, self.marks)


class ItemEncoder(nn.Module):
    """The item side as a graph sees it."""

    def __init__(self, network: Karma) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, token_ids: Tensor, lengths: Tensor, picture: Tensor, has_picture: Tensor, id_index: Tensor
    ) -> tuple[Tensor, ...]:
        """[B, L], [B], [B, P], [B], [B] -> [B, d], and [B, K, H] where histories are soft tokens."""
        states = self.network.read_items(token_ids, lengths, picture, has_picture)
        items = self.network.to_items(states, id_index)
        return (items,) if self.network.compressor is None else (items, self.network.to_soft(states))


def export_karma(
    trained: TrainedKarma,
    training_set: TrainingSet,
    directory: Path,
    encoding: EncodingConfig = FLOAT32,
    *,
    standing: Artifact | None = None,
    alignment: AlignmentConfig = ALIGNMENT,
) -> dict[str, Any]:
    """Fill `directory` with the artifact and return what its manifest says about it.

    With a `standing` artifact and `alignment.align`, the vectors are rotated into its space where little is lost, see
    `export/alignment.py`. A parity that does not hold is recorded, not raised: promotion refuses the artifact. Raises
    GateFailed if int8 is asked for and changes more of the lists than `encoding` allows.
    """
    network, preparation = trained.network.eval(), trained.preparation
    sides = _sides(network, training_set, preparation)
    for side in sides:
        write_graph(side.module, side.cases[-1], directory / side.graph, outputs=side.outputs)
    preparation.save(directory)
    parameters = _write_weights(network, directory)
    aligned = _aligned(directory, standing if alignment.align else None, training_set, alignment)
    if aligned.rotation is not None:
        for side in sides:
            rotate(directory / side.graph, side.outputs[0], aligned.rotation)
        save_rotation(aligned.rotation, directory)
    parity = {
        side.graph: measure(directory / side.graph, _reference(side.module, aligned.rotation), side.cases).record()
        for side in sides
    }
    int8: dict[str, Any] = {}
    if encoding.precision == "int8":
        write_int8(directory, float_nodes=[ALIGNMENT_NODE])
        views = (training_set.recent[view] for view in ("item_catalog", "user_history"))
        int8 = {"int8": int8_cost(directory, *views, overlap_floor=encoding.overlap_floor)}
    write_json(directory / "parity.json", parity)
    write_json(directory / "metrics.json", trained.metrics)
    split = training_set.split
    return {
        "metrics": dict(trained.metrics),
        "parity": parity,
        **int8,
        "space_id": aligned.space_id,
        **({"alignment": aligned.record} if aligned.record else {}),
        "split": {name: getattr(split, name).isoformat() for name in ("train_end", "valid_end", "test_end")},
        "training_set": training_set.fingerprint,
        "dimensions": {
            "embedding": preparation.config.embedding,
            "picture": preparation.picture_width,
            "items_with_id": len(preparation.item_index),
            "parameters": parameters,
        },
    }


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two graphs: its file, the module that it comes from, inputs to compare them on, its outputs."""

    graph: str
    module: nn.Module
    cases: list[Case]
    outputs: list[str]


def _sides(network: Karma, training_set: TrainingSet, preparation: Preparation) -> list[_Side]:
    catalogue, histories = history_cases(training_set, preparation, width=network.width)
    items = item_cases(catalogue, preparation)
    made = ["item"] if network.compressor is None else ["item", "soft"]
    return [
        _Side(HISTORY_GRAPH, HistoryEncoder(network), histories, ["interest"]),
        _Side(ITEM_GRAPH, ItemEncoder(network), items, made),
    ]


def _write_weights(network: Karma, directory: Path) -> int:
    """Write what inference needs of the network; its number of parameters."""
    state = network.state_dict().items()
    weights = {name: v for name, v in state if name.startswith(NIGHT_PARTS) and not name.startswith(DECODING)}
    with replacing_file(directory / WEIGHTS) as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in sorted(weights.items())}))
    return sum(value.numel() for value in weights.values())


def _aligned(
    directory: Path, standing: Artifact | None, training_set: TrainingSet, config: AlignmentConfig
) -> Alignment:
    own = space_id(directory)
    if standing is None:
        return Alignment(None, own, {})
    if space_id(standing.directory) == own:
        return standing_alignment(standing)
    return align(directory, own, standing, training_set, config)


def space_id(directory: Path) -> str:
    """Identity of the space that the network's own vectors live in: whatever makes them, hashed."""
    makers = (WEIGHTS, "tokenizer.json", "item_index.parquet", "config.json")
    return sha256_of_json({name: sha256_of_file(directory / name) for name in makers})[:16]


def write_graph(module: nn.Module, example: Case, path: Path, *, outputs: list[str]) -> None:
    """Export `module` with every axis dynamic that differs between batches, as one self-contained file if it may be."""
    batch, tokens = Dim("batch", min=1, max=MAX_BATCH), Dim("tokens", min=1, max=1 << 14)
    kinds = {"token_ids": {0: batch, 1: tokens}, "input_ids": {0: batch, 1: tokens}, "soft": {0: Dim("rows", min=1)}}
    shapes = {name: kinds.get(name, {0: batch}) for name in example.inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; parity is what judges its work
        program = torch.onnx.export(
            module.eval(),
            kwargs={name: torch.from_numpy(value) for name, value in example.inputs.items()},
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(example.inputs),
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, and other bytes on another
    if sum(value.nbytes for value in module.state_dict().values()) > SINGLE_FILE_BYTES:
        program.save(str(path), external_data=True)  # two files under their own names; the artifact appears as a whole
        return
    with replacing_file(path) as temporary:
        program.save(str(temporary), external_data=False)


def history_cases(training_set: TrainingSet, preparation: Preparation, *, width: int) -> tuple[Catalogue, list[Case]]:
    """Inputs of the history encoder, real and adversarial; the last has a batch and a length above one.

    Soft tokens, where histories are made of them, have `width` numbers.
    """
    catalogue = read_catalogue(training_set.recent["item_catalog"], preparation)
    row_of = {item: row for row, item in enumerate(catalogue.ids)}
    limit = preparation.config.history_limit
    histories = list(read_histories(training_set.recent["user_history"].slice(0, 64), preparation, row_of).values())
    asking = [history for history in histories if history.queries]
    # Together, so that one table of soft tokens serves them all.
    currents = [*([EMPTY] * len(histories)), *(history.queries[-1] for history in asking)]
    together = latest_histories([*histories, *asking], currents, catalogue, limit=limit)
    sequences, named, soft = together.sequences, vocabulary_size(preparation.tokenizer), {}
    if together.rows is not None:
        used = used_rows(sequences, together.rows)
        sequences, rows = used.sequences, (len(used.items) + len(used.queries)) * together.rows.width + 1
        # Any table will do: what matters is that both sides read the same.
        soft = {"soft": np.random.default_rng(0).standard_normal((rows, width), np.float32)}
        named = FIRST_SOFT + rows
    real, asked = sequences[: len(histories)], sequences[len(histories) :]
    empty = np.array([BOS, INT], np.int64)
    ordinary = np.arange(limit, dtype=np.int64) % named
    longest = np.concatenate([[BOS], ordinary, [INT]])[-limit:]
    cases = {
        "empty history, alone": [empty],
        "longest history, alone": [longest],
        "one user": real[:1] or [empty],
        "seven users": (real * 7)[:7] or [empty] * 7,
        "with a current query": asked or [empty, longest],
        "empty beside longest": [empty, longest, empty],
        "many users": [*real, empty, longest],
    }
    return catalogue, [Case(name, {**_history_inputs(rows), **soft}) for name, rows in cases.items()]


def item_cases(catalogue: Catalogue, preparation: Preparation) -> list[Case]:
    """Inputs of the item encoder, real and adversarial; the last has a batch and a length above one."""
    first = np.arange(min(64, len(catalogue)), dtype=np.int64)
    many = catalogue.inputs(first)

    def changed(count: int, **replaced: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        return {name: value[:count] for name, value in {**many, **replaced}.items()}

    def bare(**replaced: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Items without a text: `[ITEM]` alone."""
        nothing = catalogue_without_text(catalogue, first)
        return {**nothing, **replaced}

    absent = {"has_picture": np.zeros(len(first), np.bool_)}
    present = {
        "has_picture": np.ones(len(first), np.bool_),
        "picture": np.linspace(-3, 3, many["picture"].size, dtype=np.float32).reshape(many["picture"].shape),
    }
    indices = np.arange(len(first), dtype=np.int64) % (len(preparation.item_index) + 1)
    return [
        Case("one item", changed(1)),
        Case("seven items", catalogue.inputs(np.resize(first, 7))),
        Case("without picture", changed(len(first), **absent)),
        Case("with picture", changed(len(first), **present)),
        Case("without text", bare()),
        Case("without text and picture", bare(**absent)),
        Case("unknown id", changed(len(first), id_index=np.zeros(len(first), np.int64))),
        Case("every kind of id", changed(len(first), id_index=indices)),
        Case("many items", catalogue.inputs(np.resize(first, max(3, len(first))))),
    ]


def catalogue_without_text(catalogue: Catalogue, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The inputs of `rows` as if none of them had a text."""
    inputs = catalogue.inputs(rows)
    closing = max(1, catalogue.soft_tokens)
    return {
        **inputs,
        "token_ids": np.full((len(rows), closing), ITEM, np.int64),
        "lengths": np.full(len(rows), closing, np.int64),
    }


def _history_inputs(rows: Iterable[NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    input_ids, lengths = padded(list(rows))
    return {"input_ids": input_ids, "lengths": lengths}


def _reference(module: nn.Module, rotation: Vectors | None) -> Callable[[Arrays], list[NDArray[Any]]]:
    """What the network makes of inputs, its vectors rotated where its graph's are."""

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        with torch.no_grad():
            made = module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        vectors, *rest = [output.numpy() for output in (made if isinstance(made, tuple) else (made,))]
        return [vectors if rotation is None else vectors @ rotation, *rest]

    return run

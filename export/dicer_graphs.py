"""DICER as two ONNX graphs, with their parity to torch, and the artifact's other files.

`dicer_encoder.onnx` runs once a night: base embeddings and edge lists to rows of every user and item.
`dicer_scorer.onnx` runs once a block: rows of users, their friends' ends, rows of items, to scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from export.dicer_scoring import ENCODER, ITEM_BASES, SCORER, USER_BASES, encoder_inputs, scorer_inputs
from export.parity import Arrays, Case, Parity, measure
from features.files import write_json
from models.dicer.graphs import Graphs, graphs_of
from models.dicer.network import Dicer, Edges, Friends
from models.dicer.training import TrainedDicer

if TYPE_CHECKING:
    from features.training_sets import TrainingSet

OPSET = 20
ENCODER_INPUTS = ("user_base", "item_base", "friends", "similar_users", "similar_items", "interactions")
SCORER_INPUTS = ("user_rows", "item_rows", "friend_ends", "friend_real")


class NightEncoder(nn.Module):
    """`Dicer.tables` with tensors only in its signature."""

    def __init__(self, network: Dicer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        user_base: Tensor,
        item_base: Tensor,
        friends: Tensor,
        similar_users: Tensor,
        similar_items: Tensor,
        interactions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rows of users [users, 5D] and of items [items, 5D]."""
        return self.network.tables(user_base, item_base, Edges(friends, similar_users, similar_items, interactions))


class NightScorer(nn.Module):
    """`Dicer.score` with tensors only in its signature."""

    def __init__(self, network: Dicer) -> None:
        super().__init__()
        self.network = network

    def forward(self, user_rows: Tensor, item_rows: Tensor, friend_ends: Tensor, friend_real: Tensor) -> Tensor:
        """Scores [users, items]."""
        return self.network.score(user_rows, item_rows, Friends(friend_ends, friend_real))


def export_dicer(trained: TrainedDicer, training_set: TrainingSet, directory: Path) -> dict[str, Any]:
    """Fill an artifact's `directory`: graphs, bases with their ids, weights, parity and metrics; returns its `about`.

    Parity that fails is recorded here and refused by promotion.
    """
    network = trained.network.eval()
    recent = graphs_of(training_set.recent)
    export_graphs(network, directory)
    write_bases(trained, directory)
    save_file(
        {name: weight.contiguous() for name, weight in network.state_dict().items()}, directory / "weights.safetensors"
    )
    parity = measure_parity(network, directory, recent)
    about: dict[str, Any] = {
        "metrics": dict(trained.metrics),
        "parity": {name: measured.record() for name, measured in parity.items()},
        "config": asdict(trained.config),
        "dimension": trained.config.dimension,
        "width": trained.config.width,
        "split": {name: value.isoformat() for name, value in asdict(training_set.split).items()},
        "training_set": training_set.fingerprint,
        "graph": _sizes(recent),
        "cold_row": "zeros: the base embedding of a node that training did not know",
    }
    write_json(directory / "metrics.json", about["metrics"])
    write_json(directory / "parity.json", about["parity"])
    write_json(directory / "config.json", about["config"])
    return about


def export_graphs(network: Dicer, directory: Path) -> None:
    """Write both graphs; every number of users, items, edges, friends and block size stays free."""
    d = network.config.width
    edges = [torch.zeros(2, count, dtype=torch.long) for count in (5, 6, 7, 8)]
    base = [torch.rand(count, network.config.dimension) for count in (3, 4)]
    free = {name: torch.export.Dim(name, min=0) for name in ("users", "items", *ENCODER_INPUTS[2:])}
    shapes = ({0: free["users"]}, {0: free["items"]}, *({1: free[name]} for name in ENCODER_INPUTS[2:]))
    _export(
        NightEncoder(network), (*base, *edges), shapes, ENCODER_INPUTS, ("user_rows", "item_rows"), directory / ENCODER
    )
    users, items, longest = (torch.export.Dim(name, min=1) for name in ("block_users", "block_items", "longest"))
    rows = (torch.rand(3, 5 * d), torch.rand(4, 5 * d), torch.rand(3, 5, 2 * d), torch.ones(3, 5, dtype=torch.bool))
    shapes = ({0: users}, {0: items}, {0: users, 1: longest}, {0: users, 1: longest})
    _export(NightScorer(network), rows, shapes, SCORER_INPUTS, ("scores",), directory / SCORER)


def write_bases(trained: TrainedDicer, directory: Path) -> None:
    """The trained base embeddings with the ids they belong to, so that a night finds the rows of its own nodes."""
    network = trained.network
    for name, ids, base in (
        (USER_BASES, trained.user_ids, network.user_base),
        (ITEM_BASES, trained.item_ids, network.item_base),
    ):
        flat = pa.array(base.detach().numpy().ravel())
        rows = pa.FixedSizeListArray.from_arrays(flat, base.shape[1])
        pq.write_table(pa.table({"id": ids, "base": rows}), directory / name)


def measure_parity(network: Dicer, directory: Path, graphs: Graphs) -> dict[str, Parity]:
    """Both graphs against torch: on the real graphs, and on every shape a night could meet."""
    worlds = {"the night's graph": _real(network, graphs), **adversarial_worlds(network.config.dimension)}
    encoder, scorer = NightEncoder(network), NightScorer(network)
    encoder_cases = [Case(name, world) for name, world in worlds.items()]
    scorer_cases = [
        case for name, world in worlds.items() for case in _scorer_cases(name, world, _reference(encoder, world))
    ]
    return {
        ENCODER: measure(directory / ENCODER, lambda arrays: _reference(encoder, arrays), encoder_cases),
        SCORER: measure(directory / SCORER, lambda arrays: _reference(scorer, arrays), scorer_cases),
    }


def adversarial_worlds(dimension: int, *, seed: int = 0) -> dict[str, dict[str, NDArray[Any]]]:
    """Encoder inputs by name: no edges, one node of each kind, sparse and dense graphs larger than the traced."""
    return {
        "no edges": _world(dimension, users=6, items=5, edges=0, seed=seed),
        "one user, one item": _world(dimension, users=1, items=1, edges=0, seed=seed),
        "one user who had the one item": _world(dimension, users=1, items=1, edges=1, seed=seed),
        "most nodes without an edge": _world(dimension, users=40, items=30, edges=8, seed=seed),
        "dense and large": _world(dimension, users=300, items=500, edges=6000, seed=seed),
    }


def _world(dimension: int, *, users: int, items: int, edges: int, seed: int) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)

    def pairs(first: int, second: int) -> NDArray[np.int64]:
        drawn = generator.integers(0, [[first], [second]], (2, edges))
        return np.unique(drawn[:, (drawn[0] != drawn[1]) | (first != second)], axis=1)

    interactions = np.unique(generator.integers(0, [[users], [items]], (2, edges)), axis=1)
    bases = [generator.uniform(-0.5, 0.5, (count, dimension)).astype(np.float32) for count in (users, items)]
    return {
        "user_base": bases[0],
        "item_base": bases[1],
        "friends": pairs(users, users),
        "similar_users": pairs(users, users),
        "similar_items": pairs(items, items),
        "interactions": interactions,
    }


def _real(network: Dicer, graphs: Graphs) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)

    def drawn(base: Tensor, count: int) -> NDArray[np.float32]:  # which trained row stands where does not matter here
        rows: NDArray[np.float32] = base.detach().numpy()[generator.integers(0, len(base), count)]
        return rows

    return encoder_inputs(graphs, drawn(network.user_base, graphs.users), drawn(network.item_base, graphs.items))


def _scorer_cases(name: str, world: Arrays, rows: Sequence[NDArray[Any]]) -> list[Case]:
    """Blocks of 1, 7 and up to 64 users of a world, beside as many and all of its first 700 items."""
    graphs = Graphs(
        user_ids=_numbered(len(world["user_base"])),
        item_ids=_numbered(len(world["item_base"])),
        friends=world["friends"],
        similar_users=world["similar_users"],
        similar_items=world["similar_items"],
        interactions=world["interactions"],
        dangling=0,
    )
    user_rows, item_rows = rows
    cases = []
    for size in sorted({1, min(7, graphs.users), min(64, graphs.users)}):
        for count in sorted({min(size, graphs.items), min(700, graphs.items)}):
            inputs = scorer_inputs(user_rows, item_rows[:count], graphs.heard_friends(), np.arange(size))
            cases.append(Case(f"{name}: {size} users x {count} items", inputs))
    return cases + _lonely_cases(name, graphs, user_rows, item_rows)


def _numbered(count: int) -> pa.StringArray:
    return pa.array([str(n) for n in range(count)], pa.string())


def _lonely_cases(name: str, graphs: Graphs, user_rows: NDArray[Any], item_rows: NDArray[Any]) -> list[Case]:
    friends = graphs.heard_friends()
    kinds = {
        "user without friends": friends.lengths == 0,
        "user with friends": friends.lengths > 0,
        "user without history": graphs.histories().lengths == 0,
    }
    silent = np.flatnonzero(graphs.audiences().lengths == 0)[:50]
    found = {kind: np.flatnonzero(mask)[:3] for kind, mask in kinds.items()}
    cases = [
        Case(f"{name}: {kind}", scorer_inputs(user_rows, item_rows[:50], friends, users))
        for kind, users in found.items()
        if len(users)
    ]
    if len(silent):
        inputs = scorer_inputs(user_rows, item_rows[silent], friends, np.arange(min(3, graphs.users)))
        cases.append(Case(f"{name}: item without audience", inputs))
    return cases


def _reference(module: nn.Module, arrays: Arrays) -> list[NDArray[Any]]:
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(array) for array in arrays.values()))
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    shapes: tuple[Mapping[int, Any], ...],
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    file: Path,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter deprecates within itself
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(names),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(file, external_data=False)
    onnx.checker.check_model(onnx.load(file))


def _sizes(graphs: Graphs) -> dict[str, int]:
    return {
        "users": graphs.users,
        "items": graphs.items,
        "interactions": graphs.interactions.shape[1],
        "friend_edges": graphs.friends.shape[1],
        "similar_user_edges": graphs.similar_users.shape[1],
        "similar_item_edges": graphs.similar_items.shape[1],
        "dangling": graphs.dangling,
    }

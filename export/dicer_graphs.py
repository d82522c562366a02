"""DICER as two ONNX graphs, with their parity to torch, and the artifact's other files.

`dicer_encoder.onnx` runs once a night: base embeddings and edge lists to the tables of every user and item.
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

from export.dicer_scoring import (
    ENCODER,
    ITEM_BASES,
    OF_ITEMS,
    OF_USERS,
    SCORER,
    USER_BASES,
    Tables,
    encoder_inputs,
    scorer_inputs,
)
from export.parity import Arrays, Case, Parity, measure
from features.files import write_json
from models.dicer.config import DicerConfig
from models.dicer.encoder import Edges
from models.dicer.figures import write_modulation_figure
from models.dicer.graphs import Graphs, Lists, graphs_of, rows_of
from models.dicer.modulation import Friends
from models.dicer.network import Dicer
from models.dicer.scoring import Rows, listens, score, tables
from models.dicer.training import TrainedDicer, cold_rows

if TYPE_CHECKING:
    from features.training_sets import TrainingSet

OPSET = 20
ENCODER_INPUTS = ("user_base", "item_base", "friends", "similar_users", "similar_items", "interactions")


class NightEncoder(nn.Module):
    """`models.dicer.scoring.tables` with tensors only in its signature."""

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
    ) -> tuple[Tensor, ...]:
        """The tables of users, then those of items."""
        edges = Edges(friends, similar_users, similar_items, interactions)
        user_rows, item_rows = tables(self.network, user_base, item_base, edges)
        return (*user_rows.parts.values(), *item_rows.parts.values())


class NightScorer(nn.Module):
    """`models.dicer.scoring.score` with tensors only in its signature: those called `names`, in their order."""

    def __init__(self, network: Dicer, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scores [users, items]."""
        named = dict(zip(self.names, inputs, strict=True))
        user_rows, item_rows = (
            Rows({name: part for name, part in named.items() if name.startswith(side)}) for side in (OF_USERS, OF_ITEMS)
        )
        friends = Friends(named["friend_ends"], named["friend_real"]) if "friend_ends" in named else None
        return score(self.network, user_rows, item_rows, friends)


def export_dicer(trained: TrainedDicer, training_set: TrainingSet, directory: Path) -> dict[str, Any]:
    """Fill an artifact's `directory`: graphs, bases with their ids, weights, parity and metrics; returns its `about`.

    Parity that fails is recorded here and refused by promotion.
    """
    network = trained.network.eval()
    recent = graphs_of(training_set.recent)
    export_graphs(network, directory)
    write_bases(trained, directory)
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, directory / "weights.safetensors")
    parity = measure_parity(network, directory, recent)
    bases = (
        cold_rows(network.user_base, rows_of(recent.user_ids, trained.user_ids)),
        cold_rows(network.item_base, rows_of(recent.item_ids, trained.item_ids)),
    )
    write_modulation_figure(network, recent, directory / "modulation.svg", bases=bases, seed=0)
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
    """Write both graphs; every number of users, items, edges, friends and block size stays free.

    Raises ConfigurationError for a network whose modulation has no tables.
    """
    base = [torch.rand(3, network.config.base_widths[0]), torch.rand(4, network.config.base_widths[1])]
    edges = [torch.zeros(2, count, dtype=torch.long) for count in (5, 6, 7, 8)]
    free = {name: torch.export.Dim(name, min=0) for name in ("users", "items", *ENCODER_INPUTS[2:])}
    shapes = ({0: free["users"]}, {0: free["items"]}, *({1: free[name]} for name in ENCODER_INPUTS[2:]))
    with torch.no_grad():
        user_rows, item_rows = tables(network, base[0], base[1], Edges(edges[0], edges[1], edges[2], edges[3]))
    made = {**user_rows.parts, **item_rows.parts}
    _export(NightEncoder(network), (*base, *edges), shapes, ENCODER_INPUTS, tuple(made), directory / ENCODER)
    users, items, longest = (torch.export.Dim(name, min=1) for name in ("block_users", "block_items", "longest"))
    axes: dict[str, Mapping[int, Any]] = {name: {0: users if name in user_rows.parts else items} for name in made}
    if listens(network):
        made |= {"friend_ends": torch.rand(3, 5, 2 * network.config.width), "friend_real": torch.ones(3, 5) > 0}
        axes |= {name: {0: users, 1: longest} for name in ("friend_ends", "friend_real")}
    scorer = NightScorer(network, tuple(made))
    _export(scorer, tuple(made.values()), (tuple(axes.values()),), tuple(made), ("scores",), directory / SCORER)


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
    worlds = {"the night's graph": _real(network, graphs), **adversarial_worlds(network.config)}
    encoder_cases = [Case(name, world) for name, world in worlds.items()]
    scorer_cases = [case for name, world in worlds.items() for case in _scorer_cases(name, world, network)]
    encoder, scorer = NightEncoder(network), NightScorer(network, tuple(scorer_cases[0].inputs))
    return {
        ENCODER: measure(directory / ENCODER, lambda arrays: _reference(encoder, arrays), encoder_cases),
        SCORER: measure(directory / SCORER, lambda arrays: _reference(scorer, arrays), scorer_cases),
    }


def adversarial_worlds(config: DicerConfig, *, seed: int = 0) -> dict[str, dict[str, NDArray[Any]]]:
    """Encoder inputs by name: no edges, one node of each kind, sparse and dense graphs larger than the traced."""
    return {
        "no edges": _world(config, users=6, items=5, edges=0, seed=seed),
        "one user, one item": _world(config, users=1, items=1, edges=0, seed=seed),
        "one user who had the one item": _world(config, users=1, items=1, edges=1, seed=seed),
        "most nodes without an edge": _world(config, users=40, items=30, edges=8, seed=seed),
        "dense and large": _world(config, users=300, items=500, edges=6000, seed=seed),
    }


def _world(config: DicerConfig, *, users: int, items: int, edges: int, seed: int) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)

    def pairs(first: int, second: int) -> NDArray[np.int64]:
        drawn = generator.integers(0, [[first], [second]], (2, edges))
        return np.unique(drawn[:, (drawn[0] != drawn[1]) | (first != second)], axis=1)

    interactions = np.unique(generator.integers(0, [[users], [items]], (2, edges)), axis=1)
    shapes = ((users, config.base_widths[0]), (items, config.base_widths[1]))
    bases = [generator.uniform(-0.5, 0.5, shape).astype(np.float32) for shape in shapes]
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


def _scorer_cases(name: str, world: Arrays, network: Dicer) -> list[Case]:
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
    with torch.no_grad():
        user_base, item_base, *edges = (torch.from_numpy(array) for array in world.values())
        rows = tables(network, user_base, item_base, Edges(edges[0], edges[1], edges[2], edges[3]))
    known = {name: part.numpy() for of in rows for name, part in of.parts.items()}
    friends = graphs.heard_friends() if listens(network) else None
    cases = []
    for size in sorted({1, min(7, graphs.users), min(64, graphs.users)}):
        for count in sorted({min(size, graphs.items), min(700, graphs.items)}):
            inputs = scorer_inputs(known, friends, np.arange(size), slice(count))
            cases.append(Case(f"{name}: {size} users x {count} items", inputs))
    return cases + _lonely_cases(name, graphs, known, friends)


def _numbered(count: int) -> pa.StringArray:
    return pa.array([str(n) for n in range(count)], pa.string())


def _lonely_cases(name: str, graphs: Graphs, known: Tables, friends: Lists | None) -> list[Case]:
    heard = graphs.heard_friends().lengths
    kinds = {
        "user without friends": heard == 0,
        "user with friends": heard > 0,
        "user without history": graphs.histories().lengths == 0,
    }
    silent = np.flatnonzero(graphs.audiences().lengths == 0)[:50]
    found = {kind: np.flatnonzero(mask)[:3] for kind, mask in kinds.items()}
    cases = [
        Case(f"{name}: {kind}", scorer_inputs(known, friends, users, slice(50)))
        for kind, users in found.items()
        if len(users)
    ]
    if len(silent):
        inputs = scorer_inputs(known, friends, np.arange(min(3, graphs.users)), silent)
        cases.append(Case(f"{name}: item without audience", inputs))
    return cases


def _reference(module: nn.Module, arrays: Arrays) -> list[NDArray[Any]]:
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(array) for array in arrays.values()))
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    shapes: tuple[Any, ...],
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

"""Scoring of DICER side by side: the literal definition, the factorised form in torch, and the night's ONNX path.

    python benchmarks/dicer_scoring.py --json
    python benchmarks/dicer_scoring.py --top-k 100

All are given the encoder's outputs and score the same users, each with exactly F friends, on the histories of Ciao's
5-core, with one thread a core. They take turns, beside products of matrices in torch and in ONNX Runtime, so that
whatever else the machine does falls on all alike; figures are medians over the turns. The literal form meets batches
of one user's pairs, padded only among them, with the padded lists made beforehand; the night's path makes its blocks
while it runs. "Unpadded" is a stronger opponent than the literal form: every maximum is still taken over whole
histories, but list by list, gathered once for all items of a batch, so that it neither pads nor repeats.

A pair counts as 8·D·F + 8·D² + 6·D·s operations: friends' logits and attended ends, two towers of two D x D layers,
three D x s layers. Elementwise work is not counted. The peak is the faster of both libraries' products.

With `--top-k` the function that the night uses ranks all unseen items for all users, with their real friends. The lists
of a sample are checked twice: `lists_identical` of them are a brute-force sort of the night's own scores of the whole
catalogue, and `lists_by_definition` are the best by scores that torch computes over whole histories, without ONNX and
without tables, where scores that differ by less than 1e-5 may stand in either order. `max_abs_diff` is the largest
difference between a listed score and that definition's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from ciao_core import CIAO, five_core
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.dicer_graphs import export_graphs
from export.dicer_scoring import ENCODER, SCORER, BlockScorer, encode, open_scorer, ranked_lists
from export.parity import open_session
from features.cores import usable_cores
from models.dicer.config import DicerConfig
from models.dicer.definition import PairLists, head_logits, pair_lists, pair_scores
from models.dicer.encoder import edges_of
from models.dicer.graphs import Graphs, Indices, Lists, user_blocks
from models.dicer.network import Dicer
from models.dicer.scoring import Rows, friend_ends, score
from models.dicer.similarity import graphs_from_arrays

PAIRS_PER_BATCH = 8  # of the literal form
BATCHES_PER_TURN = 8
SIDE = 512  # of the matrices that measure the peak: smaller and larger ones were slower or no faster
CHECKED = 20  # lists of --top-k
TOLERANCE = 1e-5  # of a score: what an exported graph may differ from its network
ITEMS_AT_ONCE = 64  # by the definition
Way = Callable[[ThreadPoolExecutor], Iterable[int]]
"""Starts a turn on all cores; what comes is how many pairs, or operations, each part of it did."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A random network on a world, its encoder's outputs, and the night's scorer over its tables."""

    world: str
    graphs: Graphs
    network: Dicer
    h: torch.Tensor
    z: torch.Tensor
    scorer: BlockScorer
    histories: Lists
    audiences: Lists


def main() -> None:
    """Set up, then compare the three ways or rank everything."""
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # each core has its own thread, as in the night
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        core = five_core(options.data, seed=options.seed)
        graphs = graphs_from_arrays(core.pairs, core.friends, core.users, core.items)
        bench = _bench(core.name, graphs, options, Path(folder))
        figures = _rank(bench, options) if options.top_k else _compare(bench, options)
    load = Path("/proc/loadavg")
    figures |= {"cores": usable_cores(), "load": load.read_text().split()[0] if load.exists() else None}
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join(f"{name:28} {_said(value)}" for name, value in figures.items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CIAO, help="folder with rating.mat and trustnetwork.mat")
    parser.add_argument("--friends", type=int, default=30, help="F, of each user in the comparison")
    parser.add_argument("--users", type=int, default=16, help="users in the comparison")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the comparison, after the set-up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top-k", type=int, default=0, help="rank all unseen items for all users instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.users < 1 or options.friends < 0:
        parser.error("expected at least one user and no fewer than 0 friends")
    return options


def _bench(world: str, graphs: Graphs, options: argparse.Namespace, folder: Path) -> Bench:
    config = DicerConfig(dimension=options.dimension, layers=options.layers, hidden=options.hidden)
    network = Dicer(config, graphs.users, graphs.items).eval()
    for layer in network.modules():  # zero, as they start, biases would be folded away
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.bias, std=0.05)
    for head in (network.own_head, network.interest_head, network.attraction_head):
        head.out.weight *= 20  # scores spread as a trained network's do; without, all are about 0.5
    export_graphs(network, folder)
    tables = encode(folder / ENCODER, graphs, network.user_base.numpy(), network.item_base.numpy())
    h, z = network.encode(network.user_base, network.item_base, edges_of(graphs))
    scorer = open_scorer(folder / SCORER, graphs, tables)
    return Bench(world, graphs, network, h, z, scorer, graphs.histories(), graphs.audiences())


def _compare(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    generator = np.random.default_rng(options.seed)
    users = np.sort(generator.choice(bench.graphs.users, min(options.users, bench.graphs.users), replace=False))
    friends = _exactly(bench.graphs, users, options.friends, generator)
    night = dataclasses.replace(bench.scorer, friends=friends)
    batches = _batches(bench, users, friends, generator)
    user_rows, item_rows = _torch_rows(bench)
    size = bench.scorer.block[1]
    known: dict[int, torch.Tensor] = {}

    @torch.inference_mode()
    def literal(number: int) -> int:
        known[number] = pair_scores(bench.network, bench.h, bench.z, batches[number])
        return PAIRS_PER_BATCH

    @torch.inference_mode()
    def unpadded(user: int) -> int:
        items = torch.from_numpy(np.arange(user, user + 2 * PAIRS_PER_BATCH) % bench.graphs.items)
        return _unpadded_scores(bench, friends, user, items).numel()

    @torch.inference_mode()
    def factorised(user: int) -> int:
        heard = friend_ends(user_rows, *(torch.from_numpy(array) for array in friends.padded(np.array([user]))))
        blocks = range(0, 4 * size, size)
        return sum(
            score(bench.network, user_rows[user : user + 1], item_rows[start : start + size], heard).numel()
            for start in blocks
        )

    def through_onnx(chosen: Indices) -> int:
        return night.scores(chosen).size

    def drawn() -> Iterator[int]:
        return iter(generator.choice(len(batches), min(BATCHES_PER_TURN, len(batches)), replace=False).tolist())

    ways: dict[str, Way] = {
        "literal": lambda pool: pool.map(literal, drawn()),
        "unpadded": lambda pool: pool.map(unpadded, users.tolist()),
        "torch": lambda pool: pool.map(factorised, users.tolist()),
        "onnx": lambda pool: pool.map(through_onnx, user_blocks(users, 4)),
        "torch_peak": _torch_product,
        "onnx_peak": _onnx_product(),
    }
    rates = _in_turn(ways, options.seconds)
    differences = _differences(bench, night, users, friends, {batches[number]: known[number] for number in known})
    return _figures(bench, options, rates) | differences


def _exactly(graphs: Graphs, users: Indices, count: int, generator: np.random.Generator) -> Lists:
    """Lists of all users, empty but for `users`, who have `count` friends with a history: their own, then any."""
    heard, speaking = graphs.heard_friends(), np.flatnonzero(graphs.histories().lengths)
    lists = []
    for user in users:
        own = generator.permutation(heard.of(user))
        others = generator.permutation(np.setdiff1d(speaking, [*own, user]))
        if len(own) + len(others) < count:
            raise SystemExit(f"--friends {count}: user {user} can have at most {len(own) + len(others)} of this world")
        lists.append(np.sort(np.concatenate([own, others])[:count]))
    lengths = np.zeros(graphs.users, np.int64)
    lengths[users] = [len(listed) for listed in lists]
    return Lists(np.concatenate([[0], lengths.cumsum()]), np.concatenate(lists))


def _batches(bench: Bench, users: Indices, friends: Lists, generator: np.random.Generator) -> list[PairLists]:
    return [
        pair_lists(bench.histories, friends, bench.audiences, np.full(PAIRS_PER_BATCH, user), items)
        for user in users
        for items in generator.choice(bench.graphs.items, (4, PAIRS_PER_BATCH), replace=False)
    ]


def _torch_rows(bench: Bench) -> tuple[Rows, Rows]:
    tables = {name: torch.from_numpy(table) for name, table in bench.scorer.tables.items()}
    user_rows, item_rows = (
        Rows({name: table for name, table in tables.items() if name.startswith(side)}) for side in ("user_", "item_")
    )
    return user_rows, item_rows


def _unpadded_scores(bench: Bench, friends: Lists, user: int, items: torch.Tensor) -> torch.Tensor:
    network, h, z = bench.network, bench.h, bench.z
    item, whole = z[items], h[user].expand(len(items), -1)

    def largest(rows: torch.Tensor, listed: Indices, target: torch.Tensor) -> torch.Tensor:
        return (rows[torch.from_numpy(listed)] * target[..., None, :]).amax(dim=-2).clamp(min=0)

    own = largest(z, bench.histories.of(user), item)
    interest, heard = own, friends.of(user).tolist()
    if heard:
        theirs = torch.stack([largest(z, bench.histories.of(friend), item) for friend in heard], dim=1)
        attention = torch.einsum("pd,pfd->pf", own, theirs).softmax(dim=1)
        interest = own + torch.einsum("pf,pfd->pd", attention, theirs)
    attraction = torch.stack([largest(h, bench.audiences.of(i), h[user]) for i in items.tolist()])
    sides = ((network.own_head, whole, item), (network.interest_head, interest, item))
    sides = (*sides, (network.attraction_head, whole, attraction))
    return network.head_weights @ torch.sigmoid(torch.stack([head_logits(*side) for side in sides]))


def _torch_product(pool: ThreadPoolExecutor) -> Iterable[int]:
    a, b = torch.rand(2, SIDE, SIDE)

    def product(_: int) -> int:
        torch.mm(a, b)
        return 2 * SIDE**3

    return pool.map(product, range(64))


def _onnx_product() -> Way:
    """Each core its own product of the same size, as it has its own blocks."""
    weights = numpy_helper.from_array(np.random.default_rng(0).random((SIDE, SIDE), np.float32), "b")
    a, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "ay")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", [a], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "product.onnx")
        session = open_session(Path(folder) / "product.onnx")
    rows = {"a": np.random.default_rng(1).random((SIDE, SIDE), np.float32)}

    def product(_: int) -> int:
        session.run(None, rows)
        return 2 * SIDE**3

    return lambda pool: pool.map(product, range(128))


def _in_turn(ways: dict[str, Way], seconds: float) -> dict[str, NDArray[np.float64]]:
    """What each way does in a second, [turns]; the first turn of each warms up and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for way in ways.values():
            sum(way(pool))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(rates["literal"]) < 3:
            for name, way in ways.items():
                began = time.perf_counter()
                done = sum(way(pool))
                rates[name].append(done / (time.perf_counter() - began))
    return {name: np.array(measured) for name, measured in rates.items()}


def _differences(
    bench: Bench, night: BlockScorer, users: Indices, friends: Lists, known: dict[PairLists, torch.Tensor]
) -> dict[str, float]:
    """Largest differences over every pair that the literal form scored."""
    scores = night.scores(users)
    user_rows, item_rows = _torch_rows(bench)
    worst, worst_of_torch, seen = 0.0, 0.0, []
    for lists, literal in known.items():
        user, items = lists.users[:1], lists.items
        ours = scores[np.searchsorted(users, int(user)), items.numpy()]
        heard = friend_ends(user_rows, *(torch.from_numpy(array) for array in friends.padded(user.numpy())))
        theirs = score(bench.network, user_rows[user], item_rows[items], heard)[0]
        worst = max(worst, float(np.abs(ours - literal.numpy()).max()))
        worst_of_torch = max(worst_of_torch, float((theirs - literal).abs().max()))
        seen.append(ours)
    spread = float(np.concatenate(seen).std())
    return {"max_abs_diff": worst, "max_abs_diff_torch": worst_of_torch, "deviation_of_scores": spread}


def _figures(bench: Bench, options: argparse.Namespace, rates: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    width, friends, hidden = bench.network.config.width, options.friends, options.hidden
    flop = 8 * width * friends + 8 * width**2 + 6 * width * hidden
    peak = np.maximum(rates["torch_peak"], rates["onnx_peak"])
    return {
        "world": bench.world,
        "users": bench.graphs.users,
        "items": bench.graphs.items,
        "interactions": bench.graphs.interactions.shape[1],
        "sizes": {"D": width, "F": friends, "s": hidden, "flop_per_pair": flop, "block": bench.scorer.block},
        "turns": len(peak),
        "pairs_per_second_literal": _median(rates["literal"]),
        "pairs_per_second_unpadded": _median(rates["unpadded"]),
        "pairs_per_second_torch": _median(rates["torch"]),
        "pairs_per_second": _median(rates["onnx"]),
        "ratio_vs_literal": _median(rates["onnx"] / rates["literal"]),
        "ratio_vs_unpadded": _median(rates["onnx"] / rates["unpadded"]),
        "ratio_vs_torch": _median(rates["onnx"] / rates["torch"]),
        "peak_gflops": _median(peak) / 1e9,
        "peak_gflops_torch": _median(rates["torch_peak"]) / 1e9,
        "gflops": _median(rates["onnx"]) * flop / 1e9,
        "share_of_peak": _median(rates["onnx"] * flop / peak),
        "share_of_peak_torch": _median(rates["onnx"] * flop / rates["torch_peak"]),
    }


def _rank(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The night's own ranking of everything, timed, and a sample of its lists against a sort and the definition."""
    generator = np.random.default_rng(options.seed)
    sample = set(generator.choice(bench.graphs.users, min(CHECKED, bench.graphs.users), replace=False).tolist())
    began, found, lists = time.perf_counter(), dict[int, tuple[list[int], NDArray[np.float32]]](), 0
    for user, items, scores in ranked_lists(bench.scorer, bench.graphs, top_k=options.top_k):
        lists += 1
        if user in sample:
            found[user] = items.tolist(), scores
    seconds = time.perf_counter() - began
    expected = dict(_sorted_lists(bench, np.array(sorted(sample)), options.top_k))
    pairs = bench.graphs.users * bench.graphs.items
    return {
        "world": bench.world,
        "users": bench.graphs.users,
        "items": bench.graphs.items,
        "lists": lists,
        "pairs": pairs,
        "seconds": seconds,
        "pairs_per_second": pairs / seconds,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "lists_checked": len(sample),
        "lists_identical": sum(
            found[user][0] == items if user in found else not items for user, items in expected.items()
        ),
        **_by_definition(bench, found, options.top_k),
    }


def _by_definition(bench: Bench, found: dict[int, tuple[list[int], NDArray[np.float32]]], top_k: int) -> dict[str, Any]:
    """How many lists are the best by the definition's scores, up to TOLERANCE; how far listed scores are from them."""
    friends, right, worst = bench.graphs.heard_friends(), 0, 0.0
    for user, (items, scores) in found.items():
        blocks = torch.arange(bench.graphs.items).split(ITEMS_AT_ONCE)
        row = torch.cat([_unpadded_scores(bench, friends, user, block) for block in blocks]).numpy()
        worst = max(worst, float(np.abs(scores - row[items]).max()))
        left = np.setdiff1d(np.arange(bench.graphs.items), bench.histories.of(user))
        best = -np.sort(-row[left])[:top_k]
        fair = len(set(items)) == len(items) == len(best) and set(items) <= set(left.tolist())
        right += fair and bool(np.abs(row[items] - best).max() <= TOLERANCE)
    return {"lists_by_definition": right, "max_abs_diff": worst}


def _sorted_lists(bench: Bench, users: Indices, top_k: int) -> Iterator[tuple[int, list[int]]]:
    """By score, then by item id; scored with the whole catalogue as one block."""
    whole = dataclasses.replace(bench.scorer, block=(1, bench.graphs.items))
    histories, ids = bench.histories, bench.graphs.item_ids.to_pylist()
    for user in users:
        row, had = whole.scores(user[None])[0], set(histories.of(user).tolist())
        left = [item for item in range(bench.graphs.items) if item not in had]
        yield int(user), sorted(left, key=lambda item: (-row[item], ids[item]))[:top_k]


def _median(values: NDArray[np.float64]) -> float:
    return statistics.median(values.tolist())


def _said(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    main()

"""KARMA's nightly encoder side by side with the usual way, over the users of Last.fm (HetRec 2011).

    python benchmarks/karma_encoding.py --json

The usual way is a model of transformers in float32 with eager attention, users in their own order in padded batches,
texts tokenised again in every history. Of compressed histories its items and queries are encoded again in every batch.
The night's ways are the functions that score a night: queries tokenised once, users by length in batches of a token
budget, the last layer read at one place, on ONNX Runtime in float32 and int8. Items are encoded beforehand, once, and
kept between nights; what that costs is `items_per_cpu_second`. The network is trained for a few steps, so that lists
are neither arbitrary nor those of a finished one; speed does not depend on weights.

Every way has one thread a core. Ways take turns, so that whatever else the machine does falls on all alike; a rate is
the median over the turns. CPU time counts all threads; `--seconds` of wall time are shared by all ways. Operations are
those of the network's definition over real tokens, 2 for each weight of a layer and 4·H for each pair of positions that
attention looks at; the peak is that of torch's product of matrices on one core.

The reference of each kind of history is its usual way: `min_cosine_fp32` is over the users that both encode,
`overlap_at_100` over their lists; above the paths the cosine is the smaller one of the ways in float32.
`ratio_vs_usual` is of users in a second of CPU, against the usual way over words whatever a way's histories are made
of; above the paths it is that of `night`. `ratio_vs_usual_same_history` is against the usual way of its own kind.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from export import stages
from export.initialisation import DEFAULTS
from export.karma_encoding import open_encoder
from export.karma_graphs import export_karma
from export.karma_quantisation import list_overlap, write_int8
from features.configuration import Configuration
from features.cores import usable_cores
from features.partitions import read_partition
from features.training_sets import LABELS, Split, TrainingSet
from models.karma import evaluation
from models.karma.batches import Sampler
from models.karma.compressed import SoftRows, query_inputs, used_rows, written_histories
from models.karma.config import KarmaConfig
from models.karma.network import Karma
from models.karma.pretraining import pretrain
from models.karma.text import (
    EMPTY,
    Catalogue,
    History,
    Preparation,
    Rows,
    Tokens,
    encode,
    history_sequence,
    length_batches,
    padded,
    read_catalogue,
    read_histories,
)
from models.karma.training import TrainedKarma, karma_loss, new_network, prepare, read_world
from models.training import LoopConfig, fit

LASTFM = Path(__file__).resolve().parents[2] / "shared" / "data" / "hetrec2011-lastfm-2k"
USUAL_BATCH = 32
SIDE = 512  # of the matrices that measure the peak
TURNS = 3  # at least
PRECISIONS: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")
Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Bench:
    """One kind of history: a network, its artifact, and the tables of a night."""

    network: Karma
    eager: Any  # its language model with eager attention
    preparation: Preparation
    directory: Path
    catalogue: Catalogue
    titles: list[str]
    row_of: Mapping[str, int]
    rows: pa.Table  # of user_history

    def histories(self, rows: pa.Table) -> list[History]:
        """Histories of rows of user_history."""
        return list(read_histories(rows, self.preparation, self.row_of).values())


@dataclass(frozen=True, eq=False)
class Way:
    """Encodes rows of user_history into interests [users, d]; the items [items, d] that they are compared with."""

    rows: pa.Table
    items: Vectors
    encode: Callable[[pa.Table], Vectors]
    batches: Callable[[Rows], Iterable[Rows]]  # of lengths: what is padded together


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both kinds of history for a few steps, export them, and let the ways take turns."""
    options = _options(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        items, rows, world = _tables(options, Path(folder))
        benches = {kind: _bench(kind, items, rows, options, Path(folder) / kind) for kind in ("tokens", "compressed")}
        with torch.no_grad():
            figures = _compare(benches, options)
    load = Path("/proc/loadavg")
    figures = {"world": world, "users": len(rows), "items": len(items), **figures}
    figures |= {"cores": usable_cores(), "load": load.read_text().split()[0] if load.exists() else None}
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        if name != "paths":
            print(f"{name:24} {value}")
    for path, measured in figures["paths"].items():
        print(f"\n{path}\n" + "\n".join(f"  {name:24} {value:.6g}" for name, value in measured.items()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=LASTFM, help="folder of Last.fm; a generated market without it")
    parser.add_argument("--users", type=int, default=None, help="of the generated market")
    parser.add_argument("--items", type=int, default=None, help="of the generated market")
    parser.add_argument("--history", choices=["tokens", "compressed"], default="tokens", help="what the night runs")
    parser.add_argument("--pretraining-steps", type=int, default=100)
    parser.add_argument("--compression-steps", type=int, default=KarmaConfig.compression_steps)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--layers", type=int, default=KarmaConfig.layers)
    parser.add_argument("--hidden", type=int, default=KarmaConfig.hidden)
    parser.add_argument("--usual-users", type=int, default=128, help="users that the usual ways encode in a turn")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the turns, after the set-up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _tables(options: argparse.Namespace, folder: Path) -> tuple[pa.Table, pa.Table, str]:
    """item_catalog and user_history of one night."""
    real = (options.data / "user_taggedartists.dat").is_file()
    sizes = {name: size for name in ("users", "items") if (size := getattr(options, name)) is not None}
    generated = {"kind": "synthetic", "seed": options.seed, **sizes}
    source = {"kind": "lastfm", "path": str(options.data)} if real else generated
    date = dt.date(2010, 12, 1) if real else dt.date(2026, 3, 2)
    sections = {"source": source, **DEFAULTS[str(source["kind"])]}
    configuration = Configuration(folder / "attractor.toml", folder / "state", sections)
    stages.land(configuration, date)
    stages.build(configuration, date)
    tables = [read_partition(configuration, view, date) for view in ("item_catalog", "user_history")]
    name = f"Last.fm of {options.data}, night of {date}"
    return tables[0], tables[1], name if real else f"GENERATED market, seed {options.seed}: no {options.data}"


def _bench(kind: str, items: pa.Table, rows: pa.Table, options: argparse.Namespace, directory: Path) -> Bench:
    config = KarmaConfig(
        history=kind,  # type: ignore[arg-type]
        layers=options.layers,
        hidden=options.hidden,
        feedforward=2 * options.hidden,
        pretraining_steps=options.pretraining_steps,
        compression_steps=options.compression_steps,
        steps=options.steps,
    )
    features = {"item_catalog": items, "user_history": rows}
    preparation = prepare(features, config)
    network = _trained(features, preparation, options.seed)
    day, no_labels = dt.date(2000, 1, 1), LABELS.empty_table()
    known = TrainingSet(Split(day, day, day), features, features, no_labels, no_labels, "benchmark")
    directory.mkdir()
    export_karma(TrainedKarma(network, preparation, {}), known, directory)
    write_int8(directory)
    eager = copy.deepcopy(network.backbone)
    eager.set_attn_implementation("eager")
    catalogue = read_catalogue(items, preparation)
    row_of = {item: row for row, item in enumerate(catalogue.ids)}
    titles = items.column(config.history_text).to_pylist()
    return Bench(network, eager, preparation, directory, catalogue, titles, row_of, rows)


def _trained(features: Mapping[str, pa.Table], preparation: Preparation, seed: int) -> Karma:
    config, world = preparation.config, read_world(features, preparation)
    torch.manual_seed(seed)
    network = new_network(preparation)
    pretrain(network, world.catalogue.tokens, world.catalogue, config, seed=seed, checkpoint=None)
    sampler = Sampler.of(world.catalogue, world.categories, world.event_count, world.histories, config)
    loop = LoopConfig(steps=config.steps, learning_rate=config.learning_rate, validate_every=config.steps)
    fit(
        network,
        lambda step, generator: karma_loss(network, sampler.draw(generator), config),
        lambda: 0.0,
        config=loop,
        seed=seed,
    )
    return network.eval()


def _usual(bench: Bench, users: int) -> Way:
    def encode_batch(rows: pa.Table) -> Vectors:
        histories = bench.histories(rows)
        write = _words if bench.preparation.config.history == "tokens" else _soft
        sequences, soft = write(bench, histories)
        ids, lengths = (torch.from_numpy(array) for array in padded(sequences))
        states = _read_eagerly(bench, bench.network.embed_history(ids, soft), lengths)
        vectors: Vectors = bench.network.to_interest(states[torch.arange(len(ids)), lengths - 1]).numpy()
        return vectors

    def encode_rows(rows: pa.Table) -> Vectors:
        return np.concatenate([encode_batch(rows.slice(s, USUAL_BATCH)) for s in range(0, len(rows), USUAL_BATCH)])

    def batches(lengths: Rows) -> list[Rows]:
        return np.split(np.arange(len(lengths)), range(USUAL_BATCH, len(lengths), USUAL_BATCH))

    items = evaluation.encode_catalogue(bench.network, bench.catalogue)
    return Way(bench.rows.slice(0, users), items, encode_rows, batches)


def _read_eagerly(bench: Bench, embeddings: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    padding = torch.arange(embeddings.shape[1]) < lengths[:, None]
    states: torch.Tensor = bench.eager(inputs_embeds=embeddings, attention_mask=padding.long()).last_hidden_state
    return states


def _words(bench: Bench, histories: Sequence[History]) -> tuple[list[Tokens], None]:
    """Sequences whose items' titles are tokenised for each event anew."""
    config = bench.preparation.config
    titles = [bench.titles[row] for past in histories for row in past.items.tolist()]
    words = encode(bench.preparation.tokenizer, titles, limit=config.history_item_tokens)
    written, start = [], 0
    for past in histories:
        own = [words[start + event] for event in range(len(past.items))]
        written.append(history_sequence(own, [*past.queries, EMPTY], limit=config.history_limit).tokens)
        start += len(own)
    return written, None


def _soft(bench: Bench, histories: Sequence[History]) -> tuple[list[Tokens], torch.Tensor]:
    """Sequences of soft tokens, and these, of the batch's own items and queries."""
    config, network = bench.preparation.config, bench.network
    queries = [query for past in histories for query in past.queries]
    rows = SoftRows.of(queries, items=len(bench.catalogue), width=config.soft_width)
    nothing, words = [EMPTY] * len(histories), bench.catalogue.history_tokens
    used = used_rows(written_histories(histories, nothing, words, rows, limit=config.history_limit), rows)
    tables = []
    for inputs in (
        bench.catalogue.inputs(used.items),
        query_inputs(used.queries, soft_tokens=config.soft_width, picture_width=bench.preparation.picture_width),
    ):
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        seen = torch.where(given["has_picture"][:, None], network.picture(given["picture"]), network.no_picture)
        embeddings = torch.cat([seen[:, None], network.embed(given["token_ids"])], dim=1)
        states = _read_eagerly(bench, embeddings, given["lengths"] + 1)
        closing = given["lengths"][:, None] + torch.arange(1 - config.soft_width, 1)
        tables.append(network.to_soft(states[torch.arange(len(states))[:, None], closing]).flatten(0, 1))
    return used.sequences, torch.cat([*tables, torch.zeros(1, network.width)])


def _night(bench: Bench, precision: Literal["fp32", "int8"]) -> tuple[Way, float]:
    """The night's way, and items encoded in a second of CPU."""
    encoder, began = open_encoder(bench.directory, precision=precision), time.process_time()
    made = encoder.items(bench.catalogue, np.arange(len(bench.catalogue)))
    rate = len(bench.catalogue) / (time.process_time() - began)

    def encode_rows(rows: pa.Table) -> Vectors:
        return encoder.users(bench.histories(rows), bench.catalogue.history_tokens, made.soft)

    def batches(lengths: Rows) -> Iterable[Rows]:
        return length_batches(lengths, tokens=encoder.batch_tokens)

    return Way(bench.rows, made.embeddings, encode_rows, batches), rate


def _compare(benches: Mapping[str, Bench], options: argparse.Namespace) -> dict[str, Any]:
    ways, item_rates = {}, {}
    for kind, bench in benches.items():
        ways[f"usual {kind}"] = _usual(bench, options.usual_users)
        for precision in PRECISIONS:
            name = f"onnx {precision} {kind}"
            ways[name], item_rates[name] = _night(bench, precision)
    cpu, wall, vectors = _in_turn(ways, options.seconds)
    peak = _peak()
    paths = {}
    for name, way in ways.items():
        kind = name.split()[-1]
        users = {"users_per_second": len(way.rows) / wall[name], "users_per_cpu_second": len(way.rows) / cpu[name]}
        ratios = {
            "ratio_vs_usual": _ratio(ways, cpu, name, "usual tokens"),
            "ratio_vs_usual_same_history": _ratio(ways, cpu, name, f"usual {kind}"),
        }
        agreement = _agreement(ways[f"usual {kind}"].items, vectors[f"usual {kind}"], way.items, vectors[name])
        paths[name] = {**users, **ratios, **agreement, **_work(benches[kind], way, cpu[name], peak)}
        if name in item_rates:
            paths[name]["items_per_cpu_second"] = item_rates[name]
    night = f"onnx fp32 {options.history}"
    return {
        "night": night,
        "ratio_vs_usual": paths[night]["ratio_vs_usual"],
        "ratio_vs_usual_same_history": paths[night]["ratio_vs_usual_same_history"],
        "min_cosine_fp32": min(paths[f"onnx fp32 {kind}"]["min_cosine_fp32"] for kind in benches),
        "overlap_at_100": paths[night]["overlap_at_100"],
        "peak_gflops": peak / 1e9,
        "paths": paths,
    }


def _ratio(ways: Mapping[str, Way], cpu: Mapping[str, float], name: str, usual: str) -> float:
    """How many times the users of `usual` a way encodes in a second of CPU."""
    return (len(ways[name].rows) / cpu[name]) / (len(ways[usual].rows) / cpu[usual])


def _in_turn(ways: Mapping[str, Way], seconds: float) -> tuple[dict[str, float], dict[str, float], dict[str, Vectors]]:
    """Median CPU and wall seconds of each way, and its vectors; the first turn warms up and does not count."""
    vectors = {name: way.encode(way.rows) for name, way in ways.items()}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(cpu["usual tokens"]) < TURNS:
        for name, way in ways.items():
            began, used = time.perf_counter(), time.process_time()
            way.encode(way.rows)
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
    middle = statistics.median
    return {n: middle(t) for n, t in cpu.items()}, {n: middle(t) for n, t in wall.items()}, vectors


def _work(bench: Bench, way: Way, seconds: float, peak: float) -> dict[str, float]:
    """Tokens, padding and operations of a way that took so many seconds of CPU."""
    config, histories = bench.preparation.config, bench.histories(way.rows)
    queries = [query for past in histories for query in past.queries]
    rows = SoftRows.of(queries, items=len(bench.catalogue), width=config.soft_width) if config.soft_width else None
    nothing, words = [EMPTY] * len(histories), bench.catalogue.history_tokens
    sequences = written_histories(histories, nothing, words, rows, limit=config.history_limit)
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    given = sum(int(lengths[part].max()) * len(part) for part in way.batches(lengths))
    weights = sum(value.numel() for value in bench.network.backbone.layers.parameters() if value.ndim == 2)
    pairs = (lengths * (lengths + 1)).sum() / 2
    operations = 2.0 * weights * lengths.sum() + 4.0 * config.hidden * config.layers * pairs
    return {
        "tokens_per_cpu_second": float(lengths.sum()) / seconds,
        "tokens_per_user": float(lengths.mean()),
        "share_of_padding": 1 - float(lengths.sum()) / given,
        "share_of_peak": operations / seconds / peak,
    }


def _agreement(items: Vectors, users: Vectors, other_items: Vectors, other_users: Vectors) -> dict[str, float]:
    """Of the users that the reference encoded, the first ones of all."""
    same = other_users[: len(users)]
    return {
        "min_cosine_fp32": float((users * same).sum(axis=1).min()),
        "overlap_at_100": list_overlap(items, users, other_items, same),
    }


def _peak() -> float:
    """Operations in a second of CPU: the fastest of some products of matrices."""
    a, b = torch.rand(2, SIDE, SIDE)
    best = 0.0
    for _ in range(20):
        began = time.process_time()
        for _ in range(8):
            torch.mm(a, b)
        best = max(best, 8 * 2 * SIDE**3 / (time.process_time() - began))
    return best


if __name__ == "__main__":
    main()

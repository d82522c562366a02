"""One epoch of DICER with the paper's sizes on Ciao's 5-core: seconds, and memory.

    python benchmarks/dicer_training.py
    python benchmarks/dicer_training.py --device cuda --precision bfloat16

80 % of the pairs are positives, each with 8 negatives; an epoch is as many drawn positives as there are. The authors'
program takes four hours an epoch on two cores here (70 samples a second; Fu et al., WWW 2021, code as published).
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ciao_core import CIAO, five_core

from features.cores import usable_cores
from models.dicer.config import paper
from models.dicer.encoder import edges_of
from models.dicer.network import Dicer
from models.dicer.pairs import step_loss
from models.dicer.similarity import graphs_from_arrays
from models.dicer.training import Sampler
from models.dicer.voices import Voices


def main() -> None:
    """Run the steps of one epoch, or `--steps` of them, and say what an epoch takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CIAO, help="folder with rating.mat and trustnetwork.mat")
    parser.add_argument("--steps", type=int, default=None, help="measure so many steps; a whole epoch by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(_epoch(parser.parse_args()), indent=2))


def _epoch(options: argparse.Namespace) -> dict[str, Any]:
    core = five_core(options.data, seed=options.seed)
    order = np.random.default_rng(options.seed).permutation(core.pairs.shape[1])
    train = core.pairs[:, order[: round(0.8 * len(order))]]
    graphs = graphs_from_arrays(train, core.friends, core.users, core.items)
    config = replace(paper(), device=options.device, precision=options.precision)
    torch.manual_seed(options.seed)
    network = Dicer(config, graphs.users, graphs.items).to(config.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    edges, sampler = edges_of(graphs, device=config.device), Sampler(graphs)
    voices = Voices(graphs, device=config.device)
    positives = config.users_per_step * config.positives_per_user
    whole = -(-train.shape[1] // positives)
    steps = options.steps or whole
    seconds: list[float] = []
    for step in range(steps + 1):  # the first step warms up
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(step)
        batch = sampler.draw(config, generator, order=voices.friends.lengths)
        loss = step_loss(network, edges, batch, voices, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())
        seconds.append(time.perf_counter() - started)
    step_seconds = sum(seconds[1:]) / steps
    load = Path("/proc/loadavg")
    return {
        "world": core.name,
        "positives": train.shape[1],
        "steps_of_an_epoch": whole,
        "steps_measured": steps,
        "seconds_per_step": round(step_seconds, 3),
        "seconds_per_epoch": round(step_seconds * whole, 1),
        "samples_per_second": round(positives * (1 + config.negatives) / step_seconds),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "cores": usable_cores(),
        "load": load.read_text().split()[0] if load.exists() else None,
    }


if __name__ == "__main__":
    main()

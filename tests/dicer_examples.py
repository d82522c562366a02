"""What DICER's forms must agree on: random small worlds, awkward ones by name, and networks with some of the parts."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import strategies as st
from torch import Tensor

from models.dicer import definition
from models.dicer.config import DicerConfig, dicer_tiny
from models.dicer.graphs import Graphs
from models.dicer.network import Dicer
from tests.dicer_worlds import World, random_world

WORLDS = st.builds(
    random_world,
    seed=st.integers(0, 10_000),
    users=st.integers(1, 7),
    items=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.15, 0.4, 0.9]),
)
AWKWARD = {
    "no friends at all": World([[], []], [[], []], [[], [], []], [[0, 1], [2]]),
    "no history at all": World([[1], [0]], [[], []], [[], []], [[], []]),
    "one-element lists": World([[1], [0]], [[1], [0]], [[1], [0]], [[0], [1]]),
    "friend named twice": World([[1, 1, 2], [0], [0]], [[], [], []], [[], []], [[0], [1], [0, 1]]),
    "silent friend": World([[1, 2], [0], [0]], [[], [], []], [[], []], [[0], [], [1]]),
    "one user, one item": World([[]], [[]], [[]], [[0]]),
}
VARIANTS = {
    "sum": dicer_tiny(),
    "mean": dataclasses.replace(dicer_tiny(), friend_fusion="mean"),
    "no user interest": dataclasses.replace(dicer_tiny(), user_interest=False),
    "no item attraction": dataclasses.replace(dicer_tiny(), item_attraction=False),
    "nothing social": dataclasses.replace(dicer_tiny(), social=False),
    "graph attention": dataclasses.replace(dicer_tiny(), encoder="gat"),
    "no GNN": dataclasses.replace(dicer_tiny(), layers=0),
    "collaborative": dataclasses.replace(dicer_tiny(), collaborative_layers=2, shared_negatives=3),
}


def network_of(world: World, config: DicerConfig, seed: int) -> Dicer:
    """A network with random weights, biases as well, that knows the world's nodes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Dicer(config, len(world.friends), world.items).eval()
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.3)
    return network


def likeness_in(network: Dicer, graphs: Graphs, bases: tuple[Tensor, Tensor]) -> Tensor | None:
    """The literal likeness of every pair, flat, where the network has one."""
    config, histories = network.config, graphs.histories()
    if config.collaborative_layers is None:
        return None
    taken = [histories.of(user).tolist() for user in range(graphs.users)]
    return definition.likeness_of(bases, taken, config.collaborative_layers, config.temperature).flatten()

"""The figure of the modulation: what is sampled is the definition, and every world and configuration can be drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from features.errors import ConfigurationError
from models.dicer import definition
from models.dicer.config import DicerConfig, dicer_tiny
from models.dicer.figures import Maxima, modulation_figure, sampled_pairs, spread_of, write_modulation_figure
from models.dicer.graphs import Graphs
from models.dicer.network import Dicer
from tests.dicer_worlds import World, random_world

BUSY = random_world(5, users=12, items=30, density=0.3)
QUIET = {
    "no friends": World([[], []], [[], []], [[], [], []], [[0, 1], [2]]),
    "no interactions": World([[1], [0]], [[], []], [[], []], [[], []]),
    "one friend each": World([[1], [0]], [[], []], [[], []], [[0], [1]]),
    "one user who had the one item": World([[]], [[]], [[]], [[0]]),
}


def network_of(graphs: Graphs, config: DicerConfig | None = None) -> Dicer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Dicer(config or dicer_tiny(), graphs.users, graphs.items).eval()


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for panel in figure.axes for text in panel.texts)


def test_what_is_sampled_is_the_definition() -> None:
    graphs = BUSY.graphs()
    h, z = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (graphs.users, graphs.items))
    pairs = sampled_pairs(graphs, 40, seed=1)
    spread = spread_of(dicer_tiny(), h, z, graphs, pairs)
    histories, audiences = [set(x) for x in BUSY.histories], BUSY.audiences()
    own = [definition.largest_product(z, z[i], histories[u]) for u, i in pairs.T if histories[u]]
    attraction = [definition.largest_product(h, h[u], audiences[i]) for u, i in pairs.T if audiences[i]]
    theirs = [
        definition.largest_product(z, z[i], histories[f])
        for u, i in pairs.T
        for f in sorted(BUSY.friends[u])
        if histories[f]
    ]
    for kind, expected in (("own", own), ("friends", theirs), ("audience", attraction)):
        np.testing.assert_allclose(spread.maxima[kind].values, torch.stack(expected).numpy(), rtol=1e-6)
        assert ((spread.maxima[kind].owners >= 0) == (spread.maxima[kind].values > 0)).all()
    for weights in spread.attention:
        assert not len(weights) or weights.sum() == pytest.approx(1)


def test_pairs_are_new_and_drawn_from_the_seed() -> None:
    graphs = BUSY.graphs()
    pairs = sampled_pairs(graphs, 200, seed=3)
    assert 100 < pairs.shape[1] <= 200
    assert all(item not in BUSY.histories[user] for user, item in pairs.T)
    np.testing.assert_array_equal(pairs, sampled_pairs(graphs, 200, seed=3))


def test_the_largest_owner_has_its_share_of_the_owned_dimensions() -> None:
    owners = np.array([[4, 4, -1, 7], [-1, -1, -1, -1], [2, 2, 2, 2]])
    maxima = Maxima(np.zeros((3, 4)), owners, np.array([9, 9, 9]))
    np.testing.assert_allclose(maxima.largest_owners, [2 / 3, np.nan, 1.0])


def test_every_panel_says_what_it_shows() -> None:
    graphs = BUSY.graphs()
    figure = modulation_figure(network_of(graphs), graphs, seed=0)
    assert len(figure.axes) == 4
    for panel in figure.axes:
        assert panel.get_title()
        assert panel.get_xlabel()
        assert panel.get_ylabel()
        assert panel.get_legend() is not None
    assert not words(figure)


@pytest.mark.parametrize("world", QUIET.values(), ids=QUIET.keys())
def test_quiet_worlds_are_drawn_and_say_so(world: World, tmp_path: Path) -> None:
    graphs = world.graphs()
    assert "no user in the sample hears two friends" in words(modulation_figure(network_of(graphs), graphs, seed=0))
    write_modulation_figure(network_of(graphs), graphs, tmp_path / "figure.svg", seed=0)
    assert (tmp_path / "figure.svg").stat().st_size > 1000


@pytest.mark.parametrize("off", ["user_interest", "item_attraction", "social"])
def test_what_the_model_does_without_is_not_drawn(off: str) -> None:
    graphs = BUSY.graphs()
    config = dataclasses.replace(dicer_tiny(), **{off: False})  # type: ignore[arg-type]
    figure = modulation_figure(network_of(graphs, config), graphs, seed=0)
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert len(labels) == {"user_interest": 1, "item_attraction": 2, "social": 2}[off]
    assert ("hears two friends" in words(figure)) == (off != "item_attraction")


def test_the_same_run_gives_the_same_bytes_and_leaves_no_setting_behind(tmp_path: Path) -> None:
    graphs, before = BUSY.graphs(), dict(matplotlib.rcParams)
    for name in ("one", "two"):
        write_modulation_figure(network_of(graphs), graphs, tmp_path / name, seed=0)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes().startswith(b"<?xml")
    assert dict(matplotlib.rcParams) == before


def test_bases_of_another_world_are_refused_and_given_ones_used() -> None:
    graphs, other = BUSY.graphs(), QUIET["no friends"].graphs()
    network = network_of(other)
    with pytest.raises(ValueError, match="base embedding for each of 12 users, got 2"):
        modulation_figure(network, graphs, seed=0)
    bases = torch.randn(graphs.users, 4), torch.randn(graphs.items, 4)
    assert len(modulation_figure(network, graphs, bases=bases, seed=0).axes) == 4


def test_attention_in_the_place_of_maxima_cannot_be_drawn() -> None:
    graphs = BUSY.graphs()
    network = network_of(graphs, dataclasses.replace(dicer_tiny(), modulation="attention"))
    with pytest.raises(ConfigurationError, match="'extremes' has owners"):
        modulation_figure(network, graphs, seed=0)

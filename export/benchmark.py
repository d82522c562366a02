"""`attractor benchmark`: the commands that measure models on public data."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from export.initialisation import configuration_text, initialise
from export.side_by_side import run_side_by_side
from features.configuration import FILE_NAME, Configuration, load
from features.files import sha256_of_json
from models.benchmark import Share

_SEEDS = click.option("--seeds", type=click.IntRange(1), default=None, help="How many, from 0 on; 3 by default.")
_SEED = click.option("--seed", "only_seeds", type=click.IntRange(0), multiple=True, help="Only this; may be repeated.")
_JOBS = click.option("--jobs", type=click.IntRange(1), default=1, help="Processes, which share the runs and the cores.")
_NO_PAGE = click.option("--no-page", is_flag=True, hidden=True, help="The process that started this writes the page.")
_USUAL_SEEDS = 3
_MARKET_SIZE = 6000  # users, and items
_RESULTS = Path("docs/results")


@click.group()
def benchmark() -> None:
    """Measure a model on public data, beside baselines and published numbers."""


@benchmark.command("dicer")
@click.option("--protocol", type=click.Choice(["paper", "full", "lastfm"]), default=None, help="How data is split.")
@_SEEDS
@_SEED
@click.option("--arms", default=None, help="Names with commas; by default every model, and for paper every ablation.")
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("../shared/data"), help="Folder of the data sets."
)
@click.option("--results", type=click.Path(path_type=Path), default=_RESULTS, help="Where results go.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".attractor/benchmark"), help="Unfinished runs.")
@click.option("--similar-cap", type=click.IntRange(1), default=None, help="Most similar nodes heard; all by default.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where models train.")
@_JOBS
@click.option("--page-only", is_flag=True, help="Write the page from finished runs, and run nothing.")
@_NO_PAGE
def benchmark_dicer(
    protocol: str | None,
    seeds: int | None,
    only_seeds: tuple[int, ...],
    arms: str | None,
    data: Path,
    results: Path,
    work: Path,
    similar_cap: int | None,
    device: str,
    jobs: int,
    page_only: bool,
    no_page: bool,
) -> None:
    """Train and judge DICER, its ablations and baselines; finished runs are re-used, killed ones continue.

    With several jobs every process holds its own copy of the data and of what it trains.
    """
    from models.dicer import benchmark as runs
    from models.dicer.protocols import PROTOCOLS
    from models.dicer.results_page import write_page

    page, files = results / "dicer.md", results / "dicer"
    written = _page_writer(write_page, files, page, no_page=no_page)
    if page_only == (protocol is not None):
        raise click.UsageError("give --protocol to run, or --page-only to write the page of what was run")
    if protocol is not None:
        known = runs.arms(protocol, similar_cap=similar_cap, device=device)
        chosen = [known[name] for name in _names(arms, known) or runs.usual_arms(protocol)]
        chosen_seeds = _seeds(seeds, only_seeds)
        places = runs.Places(data, work, files)
        if jobs > 1:  # what one process would refuse, before several start
            runs.require_trials(protocol, chosen, chosen_seeds, places)
        here = partial(runs.run_benchmark, PROTOCOLS[protocol], chosen, chosen_seeds, places=places)
        _run(here, runs.shares(chosen, chosen_seeds), jobs=jobs, written=written)
    if not no_page:
        written()
        click.echo(f"wrote {page}")


@benchmark.command("karma")
@click.option("--data", type=click.Choice(["synthetic", "lastfm"]), default=None, help="The data set.")
@_SEEDS
@_SEED
@click.option("--arms", default=None, help="Names with commas; by default all arms and baselines.")
@click.option("--users", type=click.IntRange(100), default=None, help="Of the synthetic market; 6,000 by default.")
@click.option("--items", type=click.IntRange(100), default=None, help="Of the synthetic market; 6,000 by default.")
@click.option("--backbone", default=None, help="The arms' language model: a directory or a hub id; else the built-in.")
@click.option("--adaptation", type=click.Choice(["full", "lora", "frozen"]), default=None, help="What of it learns.")
@click.option(
    "--data-folder", type=click.Path(path_type=Path), default=Path("../shared/data"), help="Folder of the data sets."
)
@click.option("--results", type=click.Path(path_type=Path), default=_RESULTS, help="Where results go.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".attractor/benchmark"), help="Unfinished runs.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where KARMA's arms train.")
@_JOBS
@click.option("--page-only", is_flag=True, help="Write the page from finished runs, and run nothing.")
@_NO_PAGE
def benchmark_karma(
    data: str | None,
    seeds: int | None,
    only_seeds: tuple[int, ...],
    arms: str | None,
    users: int | None,
    items: int | None,
    backbone: str | None,
    adaptation: Literal["full", "lora", "frozen"] | None,
    data_folder: Path,
    results: Path,
    work: Path,
    device: Literal["cpu", "cuda"],
    jobs: int,
    page_only: bool,
    no_page: bool,
) -> None:
    """Train and judge KARMA's arms and baselines; finished runs are re-used, killed ones continue.

    With several jobs every process holds its own copy of the data and of what it trains.
    """
    from export.karma_settings import name_of
    from models.karma import benchmark as runs
    from models.karma.results_page import write_page

    page, files = results / "karma.md", results / "karma"
    written = _page_writer(write_page, files, page, no_page=no_page)
    if page_only == (data is not None):
        raise click.UsageError("give --data to run, or --page-only to write the page of what was run")
    if data is not None:
        _require_sense(data, sizes=(users, items), backbone=backbone, adaptation=adaptation, results=results)
        settings = replace(runs.SETTINGS[data], device=device)
        if backbone:
            settings = replace(settings, backbone=name_of(backbone), adaptation=adaptation or "full")
        known = runs.arms(settings)
        work = work / "karma"
        sizes = {"users": users or _MARKET_SIZE, "items": items or _MARKET_SIZE}
        source = {"kind": data} | (sizes if data == "synthetic" else {"path": str(_lastfm(data_folder))})
        configuration = _configuration(source, work / data / "landed")
        chosen, chosen_seeds = {name: known[name] for name in _names(arms, known) or known}, _seeds(seeds, only_seeds)
        places = runs.Places(work, files)
        if jobs > 1:  # what one process would refuse or land, before several start
            runs.require_trials(data, chosen, chosen_seeds, places)
            runs.read_data(configuration, _NIGHTS[data])

        def here(**hooks: Any) -> None:
            exam = runs.read_exam(configuration, _NIGHTS[data], settings)
            runs.run_benchmark(data, exam, chosen, chosen_seeds, places=places, **hooks)

        _run(here, runs.shares(chosen, chosen_seeds), jobs=jobs, written=written)
    if not no_page:
        written()
        click.echo(f"wrote {page}")


def _require_sense(
    data: str, *, sizes: tuple[int | None, int | None], backbone: str | None, adaptation: str | None, results: Path
) -> None:
    """Raise UsageError for options that would be ignored, or would mix what must be kept apart."""
    if data != "synthetic" and any(sizes):
        raise click.UsageError(f"--users and --items are of the synthetic market, not of {data}")
    if adaptation and not backbone:
        raise click.UsageError("--adaptation goes with --backbone: all of the built-in language model learns")
    if backbone and results.resolve() == _RESULTS.resolve():
        raise click.UsageError(f"--backbone needs --results: those in {_RESULTS} are of the built-in language model")


def _page_writer(write: Callable[[Path, Path], None], files: Path, page: Path, *, no_page: bool) -> Callable[[], None]:
    """What writes the page of the results in `files`; it does nothing with `no_page`."""
    return (lambda: None) if no_page else partial(write, files, page)


def _run(here: Callable[..., None], shares: Sequence[Share], *, jobs: int, written: Callable[[], None]) -> None:
    """Do a command's runs: in this process by `here`, or with several jobs as `shares` in processes of their own."""
    if jobs > 1:
        run_side_by_side(_commands(shares), jobs=jobs, finished=written)
    else:
        here(clock=time.monotonic, announce=lambda line: click.echo(line, err=True), finished=written)


def _names(arms: str | None, known: Mapping[str, Any]) -> list[str]:
    """The arms that are asked for, once each; none if none are named. Raises UsageError for one that is not known."""
    names = [] if arms is None else list(dict.fromkeys(arms.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"--arms: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    return names


def _seeds(count: int | None, only: Sequence[int]) -> Sequence[int]:
    """The seeds that are asked for, rising. Raises UsageError if they are counted and named."""
    if count is not None and only:
        raise click.UsageError("give --seeds, how many, or --seed, which ones, not both")
    return sorted(set(only)) or range(count or _USUAL_SEEDS)


def _commands(shares: Sequence[Share]) -> list[list[str]]:
    """The command that is running, for each share alone."""
    context = click.get_current_context()
    told = {name: value for name, value in context.params.items() if name not in _OF_A_SHARE and value is not None}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
    return [
        ["benchmark", str(context.info_name), "--no-page", *options, f"--arms={','.join(share.arms)}"]
        + [f"--seed={seed}" for seed in share.seeds]
        for share in shares
    ]


_OF_A_SHARE = {"arms", "seeds", "only_seeds", "jobs", "page_only", "no_page"}
_NIGHTS = {"synthetic": dt.date(2026, 3, 2), "lastfm": dt.date(2010, 12, 1)}
"""The nights of models/LOG.md: all of the market, and Last.fm before its last months thin out."""


def _lastfm(folder: Path) -> Path:
    return (folder / "hetrec2011-lastfm-2k").resolve()


def _configuration(source: Mapping[str, Any], folder: Path) -> Configuration:
    """What `attractor init` would write for `source`, with its state below `folder`."""
    file = folder / sha256_of_json(dict(source))[:8] / FILE_NAME
    initialise(file, configuration_text(source, state="state"))
    return load(file)

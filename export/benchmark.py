"""`attractor benchmark`: the commands that measure models on public data."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from export.initialisation import configuration_text, initialise
from export.side_by_side import run_side_by_side
from features.configuration import FILE_NAME, Configuration, load
from features.files import sha256_of_json
from models.benchmark import Part

_SEEDS = click.option("--seeds", type=click.IntRange(1), default=3, help="How many; the first is 0.")
_SEED = click.option("--seed", "alone", type=click.IntRange(0), multiple=True, help="This one alone, or several such.")
_JOBS = click.option("--jobs", type=click.IntRange(1), default=1, help="Processes, which share the runs and the cores.")


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
@click.option("--results", type=click.Path(path_type=Path), default=Path("docs/results"), help="Where results go.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".attractor/benchmark"), help="Unfinished runs.")
@click.option("--similar-cap", type=click.IntRange(1), default=None, help="Most similar nodes heard; all by default.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where models train.")
@_JOBS
@click.option("--page-only", is_flag=True, help="Write the page from finished runs, and run nothing.")
def benchmark_dicer(
    protocol: str | None,
    seeds: int,
    alone: tuple[int, ...],
    arms: str | None,
    data: Path,
    results: Path,
    work: Path,
    similar_cap: int | None,
    device: str,
    jobs: int,
    page_only: bool,
) -> None:
    """Train and judge DICER, its ablations and baselines; finished runs are re-used, killed ones continue.

    With several jobs every process holds its own copy of the data and of what it trains.
    """
    from models.dicer import benchmark as runs
    from models.dicer.protocols import PROTOCOLS
    from models.dicer.results_page import write_page

    page, files = results / "dicer.md", results / "dicer"
    if page_only == (protocol is not None):
        raise click.UsageError("give --protocol to run, or --page-only to write the page of what was run")
    if protocol is not None:
        known = runs.arms(protocol, similar_cap=similar_cap, device=device)
        names = arms.split(",") if arms else runs.usual_arms(protocol)
        if unknown := [name for name in names if name not in known]:
            raise click.UsageError(f"--arms: expected some of {', '.join(known)}, got {', '.join(unknown)}")
        chosen, numbers = [known[name] for name in names], alone or range(seeds)
        if jobs > 1:
            run_side_by_side(_commands(runs.parts(chosen, numbers)), jobs=jobs)
        else:
            runs.run_benchmark(
                PROTOCOLS[protocol],
                chosen,
                numbers,
                places=runs.Places(data, work, files),
                clock=time.monotonic,
                announce=lambda line: click.echo(line, err=True),
                finished=lambda: write_page(files, page),
            )
    write_page(files, page)
    click.echo(f"wrote {page}")


@benchmark.command("karma")
@click.option("--data", type=click.Choice(["synthetic", "lastfm"]), default=None, help="The data set.")
@_SEEDS
@_SEED
@click.option("--arms", default=None, help="Names with commas; by default all arms and baselines.")
@click.option("--users", type=click.IntRange(100), default=6000, help="Of the synthetic market.")
@click.option("--items", type=click.IntRange(100), default=6000, help="Of the synthetic market.")
@click.option(
    "--data-folder", type=click.Path(path_type=Path), default=Path("../shared/data"), help="Folder of the data sets."
)
@click.option("--results", type=click.Path(path_type=Path), default=Path("docs/results"), help="Where results go.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".attractor/benchmark"), help="Unfinished runs.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where KARMA's arms train.")
@_JOBS
@click.option("--page-only", is_flag=True, help="Write the page from finished runs, and run nothing.")
def benchmark_karma(
    data: str | None,
    seeds: int,
    alone: tuple[int, ...],
    arms: str | None,
    users: int,
    items: int,
    data_folder: Path,
    results: Path,
    work: Path,
    device: Literal["cpu", "cuda"],
    jobs: int,
    page_only: bool,
) -> None:
    """Train and judge KARMA's arms and baselines; finished runs are re-used, killed ones continue.

    With several jobs every process holds its own copy of the data and of what it trains.
    """
    from models.karma import benchmark as runs
    from models.karma.results_page import write_page

    page, files = results / "karma.md", results / "karma"
    if page_only == (data is not None):
        raise click.UsageError("give --data to run, or --page-only to write the page of what was run")
    if data is not None:
        settings = replace(runs.SETTINGS[data], device=device)
        known = runs.arms(settings)
        names = arms.split(",") if arms else list(known)
        if unknown := [name for name in names if name not in known]:
            raise click.UsageError(f"--arms: expected some of {', '.join(known)}, got {', '.join(unknown)}")
        work = work / "karma"
        sizes = {"users": users, "items": items}
        source = {"kind": data} | (sizes if data == "synthetic" else {"path": str(_lastfm(data_folder))})
        exam = runs.read_exam(_configuration(source, work / data / "landed"), _NIGHTS[data], settings)
        chosen, numbers = {name: known[name] for name in names}, alone or range(seeds)
        if jobs > 1:  # which find the data landed
            run_side_by_side(_commands(runs.parts(chosen, numbers)), jobs=jobs)
        else:
            runs.run_benchmark(
                data,
                exam,
                chosen,
                numbers,
                places=runs.Places(work, files),
                clock=time.monotonic,
                announce=lambda line: click.echo(line, err=True),
                finished=lambda: write_page(files, page),
            )
    write_page(files, page)
    click.echo(f"wrote {page}")


def _commands(parts: Sequence[Part]) -> list[list[str]]:
    """The command that is running, for each part alone."""
    context = click.get_current_context()
    told = {name: value for name, value in context.params.items() if name not in _OF_A_PART and value is not None}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
    return [
        ["benchmark", str(context.info_name), *options, f"--arms={','.join(part.arms)}"]
        + [f"--seed={seed}" for seed in part.seeds]
        for part in parts
    ]


_OF_A_PART = {"arms", "seeds", "alone", "jobs", "page_only"}
_NIGHTS = {"synthetic": dt.date(2026, 3, 2), "lastfm": dt.date(2010, 12, 1)}
"""The nights of models/LOG.md: all of the market, and Last.fm before its last months thin out."""


def _lastfm(folder: Path) -> Path:
    return (folder / "hetrec2011-lastfm-2k").resolve()


def _configuration(source: Mapping[str, Any], folder: Path) -> Configuration:
    """What `attractor init` would write for `source`, with its state below `folder`."""
    file = folder / sha256_of_json(dict(source))[:8] / FILE_NAME
    initialise(file, configuration_text(source, state="state"))
    return load(file)

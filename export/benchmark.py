"""`attractor benchmark`: the commands that measure models on public data."""

from __future__ import annotations

import time
from pathlib import Path

import click


@click.group()
def benchmark() -> None:
    """Measure a model on public data, beside baselines and published numbers."""


@benchmark.command("dicer")
@click.option("--protocol", type=click.Choice(["paper", "full", "lastfm"]), default=None, help="How data is split.")
@click.option("--seeds", type=click.IntRange(1), default=3, help="How many; the first is 0.")
@click.option("--arms", default=None, help="Names with commas; by default every model, and for paper every ablation.")
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("../shared/data"), help="Folder of the data sets."
)
@click.option("--results", type=click.Path(path_type=Path), default=Path("docs/results"), help="Where results go.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".attractor/benchmark"), help="Unfinished runs.")
@click.option("--similar-cap", type=click.IntRange(1), default=None, help="Most similar nodes heard; all by default.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where models train.")
@click.option("--page-only", is_flag=True, help="Write the page from finished runs, and run nothing.")
def benchmark_dicer(
    protocol: str | None,
    seeds: int,
    arms: str | None,
    data: Path,
    results: Path,
    work: Path,
    similar_cap: int | None,
    device: str,
    page_only: bool,
) -> None:
    """Train and judge DICER, its ablations and baselines; finished runs are re-used, killed ones continue."""
    from models.dicer import benchmark as runs
    from models.dicer.protocols import PROTOCOLS
    from models.dicer.results_page import write_page

    page, files = results / "dicer.md", results / "dicer"
    if page_only == (protocol is not None):
        raise click.UsageError("give --protocol to run, or --page-only to write the page of what was run")
    if protocol is not None:
        known = runs.arms(similar_cap=similar_cap, device=device)
        names = arms.split(",") if arms else runs.usual_arms(protocol)
        if unknown := [name for name in names if name not in known]:
            raise click.UsageError(f"--arms: expected some of {', '.join(known)}, got {', '.join(unknown)}")
        runs.run_benchmark(
            PROTOCOLS[protocol],
            [known[name] for name in names],
            seeds,
            places=runs.Places(data, work, files),
            clock=time.monotonic,
            announce=lambda line: click.echo(line, err=True),
            finished=lambda: write_page(files, page),
        )
    write_page(files, page)
    click.echo(f"wrote {page}")

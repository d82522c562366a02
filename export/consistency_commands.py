"""The command `consistency`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from export.command_options import say, shared_options
from export.consistency import ConsistencyConfig, compare
from features.configuration import load
from features.errors import GateFailed


@click.command()
@shared_options
@click.option("--sample", type=click.IntRange(1), default=None, help="Rows of each view; by default as configured.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another one draws other rows.")
def consistency(file: Path | None, as_json: bool, sample: int | None, seed: int) -> None:
    """Compare sampled rows as Feast serves them with the offline store; exit code 3 if more differ than may."""
    configuration = load(file)
    config = configuration.section("consistency", ConsistencyConfig)
    config = replace(config, sample=sample) if sample else config
    compared = compare(configuration, sample=config.sample, seed=seed)
    say(compared.record(), as_json, [compared.sentence])
    if refused := compared.refused(config):
        raise GateFailed(f"online/offline consistency of {compared.release_id}", refused)

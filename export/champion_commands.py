"""The commands of champions: promote, demote, history."""

from __future__ import annotations

from pathlib import Path

import click

from export import champions
from export.champions import MODELS
from export.command_options import model_option, now, reason_given, say, shared_options
from features.configuration import load


@click.command()
@shared_options
@click.argument("version")
def promote(file: Path | None, as_json: bool, version: str) -> None:
    """Make an artifact the champion of its model, if its gates allow."""
    from export import stages

    figures = stages.promote(load(file), version, promoted_at=now())
    say(figures, as_json, [f"{gate['gate']}: {gate['decision']}, {gate['sentence']}" for gate in figures["gates"]])


@click.command()
@shared_options
@click.option("--model", type=click.Choice(MODELS), required=True)
@click.option("--reason", required=True, callback=reason_given, help="Why; recorded in the model's history.")
def demote(file: Path | None, as_json: bool, model: str, reason: str) -> None:
    """Make the champion before the present one of a model champion again."""
    move = champions.demote(load(file), model, at=now(), reason=reason)
    say(move, as_json, [f"{move['version']} is champion again instead of {move['replaced']}: {reason}"])


@click.command()
@shared_options
@model_option
def history(file: Path | None, as_json: bool, model: str | None) -> None:
    """Show every promotion and demotion, oldest first, with its gates."""
    configuration = load(file)
    told = {name: champions.moves(configuration, name) for name in ([model] if model else MODELS)}
    lines = [
        line
        for made in told.values()
        for move in made
        for line in (
            f"{move['at']}  {move['action']:<8} {move['version']} instead of {move['replaced'] or 'none'}"
            + (f": {move['reason']}" if move["reason"] else ""),
            *(f"    {gate['decision']:<8} {gate['sentence']}" for gate in move["gates"]),
        )
    ]
    say(told, as_json, lines or ["no champion yet; run `attractor train --date YYYY-MM-DD`"])

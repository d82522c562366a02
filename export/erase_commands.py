"""The command that forgets a user."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click

from export.command_options import say, shared_options, user_option
from export.ledger import open_ledger
from export.ledger_models import State
from features.configuration import Configuration, load
from features.erased_users import SALT_BYTES
from features.mirror_records import MIRRORS


@click.command()
@shared_options
@user_option
@click.option("--dry-run", is_flag=True, help="Search every place and change nothing.")
def erase(file: Path | None, as_json: bool, user: str, dry_run: bool) -> None:
    """Remove a user from every table, training set, model and release, for good; exit with 1 if something is left."""
    from export import erasure

    configuration = load(file)
    if dry_run:
        found = erasure.look_for(configuration, user)
    else:
        _refuse_while_a_stage_runs(configuration)
        found = erasure.erase(configuration, user, salt=secrets.token_bytes(SALT_BYTES))
    lines = [f"{place.before:>9,} → {place.after:<9,} {place.name}" for place in found.places]
    lines += [f"{old} is {new} now" for old, new in {**found.artifacts, **found.releases}.items()]
    say(found.record() | {"user": user, "dry_run": dry_run}, as_json, ["   before → after    place", *lines])
    if found.left and not dry_run:
        for target in found.mirrors:
            click.echo(f"a mirror has the user: run `attractor mirror --to {target}`, then this again", err=True)
        if any(place.after for place in found.places if place.name != MIRRORS):
            click.echo("something is left: a stage ran meanwhile; run it again when none does", err=True)
        sys.exit(1)


def _refuse_while_a_stage_runs(configuration: Configuration) -> None:
    """A stage that has read its inputs would write the user again."""
    ledger = open_ledger(configuration)
    now = ledger.now()
    busy = [run for run in ledger.runs(state=State.RUNNING) if not ledger.is_abandoned(run, now)]
    if busy:
        names = ", ".join(f"{run.stage} {run.subject}" for run in busy)
        raise click.ClickException(f"{names}: running; erase when no stage runs, nothing was changed")

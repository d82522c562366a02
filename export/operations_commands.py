"""The commands of operation: runs, ledger, plan, doctor."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from export.command_options import NightDate, date_option, now, say, shared_options
from export.ledger import Ledger, open_ledger
from export.ledger_database import connect, ledger_url, upgrade
from export.ledger_models import StageRun, State
from features.configuration import load

_MB = 2**20


@click.command()
@shared_options
@click.option("--date", type=NightDate(), default=None, help="Runs of one night.")
@click.option("--stage", default=None, help="Runs of one stage.")
@click.option("--state", type=click.Choice([state.value for state in State]), default=None)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The latest ones.")
def runs(
    file: Path | None, as_json: bool, date: dt.date | None, stage: str | None, state: str | None, limit: int
) -> None:
    """Show every attempt at a stage, the latest first: why it ran, how it ended, what it cost and what it made."""
    ledger = open_ledger(load(file))
    found = ledger.runs(date=date, stage=stage, state=State(state) if state else None, limit=limit)
    told = [_run(ledger, run) for run in found]
    say(told, as_json, [line for run in told for line in _run_lines(run)] or ["no run yet"])


@click.group()
def ledger() -> None:
    """The database of stage runs."""


@ledger.command("upgrade")
@shared_options
def upgrade_ledger(file: Path | None, as_json: bool) -> None:
    """Bring the ledger's schema to this version; every command does so by itself."""
    url = ledger_url(load(file))
    revision = upgrade(connect(url))
    say({"ledger": str(url), "revision": revision}, as_json, [f"{url} is at revision {revision}"])


@click.command()
@shared_options
@date_option
def plan(file: Path | None, as_json: bool, date: dt.date) -> None:
    """Say what a night will cost before it starts: rows, bytes, minutes and memory, by earlier nights."""
    from export.plan import plan as planned

    told = planned(load(file), date).record()
    say(told, as_json, _plan_lines(told))


@click.command()
@shared_options
def doctor(file: Path | None, as_json: bool) -> None:
    """Find what will hurt, say why and how to mend it; exit code 1 if a finding is an error."""
    from export.doctor import diagnose
    from export.doctor_setup import examine

    told = diagnose(examine(load(file), now=now()))
    lines = [
        line
        for finding in told["findings"]
        for line in (
            f"{finding['severity']:<8} {finding['what']}",
            f"         where  {finding['where']}",
            f"         why    {finding['why']}",
            f"         fix    {finding['fix']}",
        )
    ]
    say(
        told,
        as_json,
        [*lines, f"{len(told['checks'])} checks, {len(told['findings'])} findings, {told['errors']} errors"],
    )
    if told["errors"]:
        sys.exit(1)


def _run(ledger: Ledger, run: StageRun) -> dict[str, Any]:
    hidden = {"scope", "process", "window_start", "window_end"}
    told = {column.name: getattr(run, column.name) for column in run.__table__.columns if column.name not in hidden}
    window = run.window
    return {
        **{name: value.isoformat() if isinstance(value, dt.datetime) else value for name, value in told.items()},
        "window": [window.start.isoformat(), window.end.isoformat()] if window else None,
        "abandoned": run.state is State.RUNNING and ledger.is_abandoned(run, ledger.now()),
    }


def _run_lines(run: Mapping[str, Any]) -> list[str]:
    state = "killed" if run["abandoned"] else run["state"]
    cost = f"{run['seconds']:8.1f} s {run['peak_memory_mb']:6,} MB" if run["seconds"] is not None else " " * 20
    lines = [
        f"{run['id']:>5}  {run['started_at'][:19]}  {state:<8} {run['stage']:<13} {run['subject']:<28} "
        f"#{run['attempt']:<3}{cost}  {run['reason']}"
    ]
    return lines + ([f"{'':7}{run['error']}"] if run["error"] else [])


def _plan_lines(told: Mapping[str, Any]) -> list[str]:
    lines = [f"The night of {told['date']}; source {told['source']}", ""]
    lines += [f"{'stage':<16}{'rows':>12}{'MB':>10}{'minutes':>10}{'memory MB':>11}  why, and by what"]
    for stage in told["stages"]:
        known = stage["minutes"] is not None
        cells = (
            (stage["rows"], "{:,}", 12),
            (stage["output_bytes"] / _MB if known else None, "{:,.1f}", 10),
            (stage["minutes"], "{:,.1f}", 10),
            (stage["memory_mb"], "{:,}", 11),
        )
        lines.append(
            f"{stage['stage']:<16}"
            + "".join(_amount(value, form, otherwise="" if known else "unknown").rjust(w) for value, form, w in cells)
            + f"  {stage['why']}; {stage['basis']}"
        )
    in_all = (
        f"in all {told['minutes']:,.1f} minutes, {told['output_bytes'] / _MB:,.1f} MB of "
        f"{told['free_disk_bytes'] / _MB:,.0f} MB free on disk, "
        f"{_amount(told['memory_mb'], '{:,}', otherwise='unknown')} MB of memory of {told['memory_mb_here']:,} MB"
    )
    return [*lines, "", in_all + (f"; without {', '.join(told['unknown'])}, unknown" if told["unknown"] else "")]


def _amount(value: float | None, form: str, *, otherwise: str) -> str:
    return otherwise if value is None else form.format(value)

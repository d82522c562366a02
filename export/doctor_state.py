"""The doctor on the state: partitions, runs, the disk, and the clocks that dated them."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from pathlib import Path

from export import jobs
from export.doctor_setup import Finding, Setup
from export.ledger import Ledger, open_ledger
from export.ledger_models import State
from export.plan import night_bytes
from features.contracts import FEATURES, PUBLISHED
from features.errors import ArtifactCorrupt, MissingInput
from features.files import sha256_of_file
from features.partitions import partition_path
from features.releases import read_pointer
from features.windows import DAY, parse_date

_MB = 2**20


def clocks(setup: Setup) -> list[Finding]:
    """Clocks that differ, and what was dated by one that ran ahead."""
    allowed = dt.timedelta(seconds=setup.config.max_clock_skew_seconds)
    ledger, findings = open_ledger(setup.configuration), []
    skew = ledger.now() - setup.now
    if abs(skew) > allowed:
        findings.append(
            Finding(
                "error",
                f"the ledger's clock is {skew.total_seconds():+.0f} s from this machine's",
                str(ledger.engine.url),
                "leases and ages are told by the one, publications are dated by the other",
                "let both machines follow one time server (chrony, ntpd)",
            )
        )
    dated = {}
    try:
        if pointer := read_pointer(setup.configuration.releases):
            dated["the live release went live"] = pointer.published_at
    except ArtifactCorrupt as error:
        why = "readers refuse it, and serve nothing or what they hold"
        fix = "move the file away, then `attractor publish` the newest sound one of `attractor releases`"
        findings.append(Finding("error", str(error), str(setup.configuration.releases), why, fix))
    dated |= {f"run {run.id}, {run.stage}, began": run.started_at for run in ledger.runs(limit=1)}
    for what, at in dated.items():
        if at > setup.now + allowed:
            why = "a clock ran ahead when it was written: until then ages are negative and everything looks fresh"
            fix = "set the clock right and publish again"
            findings.append(Finding("error", f"{what} in the future", at.isoformat(), why, fix))
    return findings


def gapped_partitions(setup: Setup) -> list[Finding]:
    """Nights that are built in part, and nights that are missing between two that were served."""
    configuration, findings = setup.configuration, []
    built = _dates({view: configuration.features / view for view in FEATURES})
    building = {run.subject for run in open_ledger(configuration).runs(stage="build", state=State.RUNNING)}
    for date in sorted(set().union(*built.values()) if built else set()):
        missing = [view for view, dates in built.items() if date not in dates]
        if missing and date.isoformat() not in building:
            why = "a build was killed, or a file removed: a training set of this date joins what is there with nothing"
            told, where = f"{date} has no {', '.join(missing)}", str(configuration.features)
            findings.append(Finding("error", told, where, why, f"`attractor build --date {date}`"))
    published = _dates({view: configuration.published / view for view in PUBLISHED})
    served = sorted(set().union(*published.values()))[-setup.config.nights :]
    for before, after in itertools.pairwise(served):
        if after - before > DAY:
            first, last = before + DAY, after - DAY
            why = "rows hold for one night: a point-in-time join finds nothing served on these dates"
            fix = f"`attractor night --date {first}` and on to {last}, or `airflow backfill create`"
            told, where = f"no night was served from {first} to {last}", str(configuration.published)
            findings.append(Finding("warning", told, where, why, fix))
    return findings


def stale_partitions(setup: Setup) -> list[Finding]:
    """Nights whose inputs changed after they were built or scored: late rows, an erased user, other settings."""
    configuration, ledger, findings = setup.configuration, open_ledger(setup.configuration), []
    nights = sorted({run.subject for run in ledger.runs(stage="build", state=State.DONE)})
    for subject in nights[-setup.config.stale_nights :]:
        date = parse_date(subject)
        for stage, reason in _stale(setup, ledger, date):
            why = "what is served and learned from is not what the source, the settings and the code say now"
            fix = f"`attractor night --date {date}`: it runs what is stale, and no other stage"
            told, where = f"{stage} of {date} is stale: {reason}", str(configuration.state)
            findings.append(Finding("warning" if reason == "other code" else "error", told, where, why, fix))
    return findings


def killed_runs(setup: Setup) -> list[Finding]:
    """Runs whose owner is gone or silent, and which nobody took over."""
    ledger = open_ledger(setup.configuration)
    now = ledger.now()
    return [
        Finding(
            "warning",
            f"{run.stage} {run.subject} was begun by process {run.pid} on {run.host}, last heard of {run.heartbeat_at}",
            f"run {run.id}",
            "it was killed, or its machine is gone; what is served did not change",
            "run the stage again: it takes over",
        )
        for run in ledger.runs(state=State.RUNNING)
        if ledger.is_abandoned(run, now)
    ]


def disk_of_the_next_night(setup: Setup) -> list[Finding]:
    """A disk that will not hold a night of the size of the last one; nothing before there is one."""
    needed = night_bytes(open_ledger(setup.configuration), setup.now.date() + DAY)
    if needed is None or needed * setup.config.disk_factor <= setup.free_bytes:
        return []
    return [
        Finding(
            "error",
            f"{setup.free_bytes / _MB:,.0f} MB are free, the next night needs {needed / _MB:,.0f} MB, "
            f"{setup.config.disk_factor:g} times over while it is written",
            str(setup.configuration.state),
            "the night fails on a full disk; what is served stays, and grows old",
            "`attractor gc`, more disk, or another `state`",
        )
    ]


def _stale(setup: Setup, ledger: Ledger, date: dt.date) -> list[tuple[str, str]]:
    configuration, found = setup.configuration, []
    try:
        build = ledger.why_again(jobs.build(configuration, date))
    except MissingInput as gone:
        build = str(gone)
    if build is not None and not build.endswith(State.RUNNING):
        found.append(("build", build))
    partitions = {view: partition_path(configuration, view, date) for view in FEATURES}
    scored = next(iter(ledger.runs(date=date, stage="score", state=State.DONE)), None)
    if scored is not None and all(path.is_file() for path in partitions.values()):
        now = {view: sha256_of_file(path) for view, path in partitions.items()}
        if changed := [view for view in now if now[view] != scored.inputs["partitions"].get(view)]:
            found.append(("score", f"other inputs: {', '.join(changed)}"))
    return found


def _dates(folders: Mapping[str, Path]) -> dict[str, set[dt.date]]:
    return {
        view: {parse_date(path.stem.removeprefix("date=")) for path in folder.glob("date=*.parquet")}
        for view, folder in folders.items()
    }

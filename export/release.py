"""The release writer: publish, roll back, retire, list; `export/staging.py` stages and `export/audit.py` judges.

Publication is a row of steps, each durable before the next begins, and each of them is skipped if it stands. A process
that is killed anywhere leaves the release before it live; running `publish` again completes what was begun.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export import history
from export.audit import AuditReport, audit_held, standing_report
from export.drafts import exclusive_store, move
from export.release_report import render
from export.remote import Remote, described, point, remote_of
from export.retention import KEEP_RELEASES, retire, superfluous
from export.staging import directory_of, is_known, is_released, stage
from features.configuration import Configuration
from features.contracts import PUBLISHED
from features.errors import GateFailed, MissingInput
from features.files import read_sealed_json, sha256_of_file, write_json, write_sealed_json, write_text
from features.releases import (
    AUDIT,
    MANIFEST,
    READY,
    RELEASES,
    REPORT,
    Pointer,
    open_release,
    open_releases,
    read_object,
    read_pointer,
)

__all__ = ["Publication", "is_known", "publish", "releases", "rollback", "stage", "status"]

KEEP_HISTORY = 400
"""Entries of the pointer's history: more than a year of nights."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """What a publication or a rollback came to."""

    release_id: str
    live: bool  # whether `release_id` is what is served now
    published_at: str  # since when the live release is live
    previous: str | None  # what a rollback would serve
    sentence: str
    force_reason: str | None = None


def publish(
    configuration: Configuration,
    release_id: str,
    *,
    published_at: dt.datetime,
    force_reason: str | None = None,
) -> Publication:
    """Put a staged release live, if its audit passes or `force_reason` says why to serve it all the same.

    A release older than the live one is kept but not served, as is one that was rolled back, unless forced.
    Publishing what is live changes nothing. Raises GateFailed; what is served then stays and the release stays staged.
    Raises ValueError for a reason that says nothing.
    """
    if force_reason is not None and not force_reason.strip():
        raise ValueError("expected a reason to publish what a gate refused, got an empty one")
    store = configuration.releases
    with exclusive_store(store):
        remote = remote_of(configuration)
        if remote is not None:
            remote.pull()
        if is_released(store, release_id):
            open_releases(store).open(release_id)  # whole still, or it is not served
        else:
            _admit(configuration, release_id, published_at=published_at, force_reason=force_reason)
        if remote is not None:
            remote.upload(release_id)
        pointer = read_pointer(store)
        refusal = _why_not_live(pointer, release_id, force_reason)
        if refusal is None and (pointer is None or pointer.release_id != release_id):
            pointer = _moved(pointer, release_id, "publish", published_at=published_at, reason=force_reason)
            point(store, pointer, remote)
        assert pointer is not None
        history.complete(configuration, pointer)
        retire(store, pointer, now=published_at, spared=release_id, keep=KEEP_RELEASES)
        if remote is not None:
            kept = (pointer.release_id, pointer.previous, release_id)
            remote.delete_if_possible(pointer, superfluous(remote.release_ids(), keep=KEEP_RELEASES, spared=kept))
    sentence = refusal or f"{release_id} is live since {pointer.published_at.isoformat()}"
    return _publication(release_id, pointer, sentence, force_reason)


def rollback(
    configuration: Configuration, *, published_at: dt.datetime, to: str | None = None, dry_run: bool = False
) -> Publication:
    """Serve the release before the live one again, or the one named `to`; nothing is copied or recomputed.

    What is rolled back does not come live again by publishing the same release, only by `force_reason` or `to`.
    A dry run reads the release whole and says what would be.
    Raises MissingInput if there is nothing to go back to, ArtifactCorrupt if it cannot be read.
    """
    store = configuration.releases
    with exclusive_store(store):
        remote = remote_of(configuration)
        if remote is not None:
            remote.pull(fetch=False)
        pointer = read_pointer(store)
        if pointer is None:
            raise MissingInput(f"no release is published in {remote or store}: nothing to roll back")
        target = pointer.previous if to is None else to
        if target is None:
            raise MissingInput(f"no release before {pointer.release_id} is kept in {store}; name one of `releases`")
        if remote is not None:
            remote.fetch(target)
        open_releases(store).open(target)
        if target == pointer.release_id:
            return _publication(target, pointer, f"{target} is live already", None)
        left = pointer.release_id
        if dry_run:
            return _publication(target, pointer, f"{target} is whole and would be live again instead of {left}", None)
        pointer = _moved(pointer, target, "rollback", published_at=published_at, reason=None)
        pointer = replace(pointer, previous=_before(store, pointer, target, remote))
        point(store, pointer, remote)
    return _publication(target, pointer, f"{target} is live again instead of {left}", None)


def releases(configuration: Configuration) -> list[dict[str, Any]]:
    """Every release on disk, newest night first: id, date, state, rows by table, the audit's decision, when it served.

    The state is `live`, `previous`, `kept`, `staged` or `refused`.
    """
    return _looked_at(configuration)[1]


def status(configuration: Configuration) -> dict[str, Any]:
    """What is served now, since when, what a rollback would serve, what waits; `live` is None at first."""
    pointer, listed = _looked_at(configuration)
    live = next((entry for entry in listed if entry["state"] == "live"), None)
    return {
        "live": live,
        "published_at": pointer.published_at.isoformat() if pointer else None,
        "previous": pointer.previous if pointer else None,
        "kept": sum(entry["state"] in {"live", "previous", "kept"} for entry in listed),
        "waiting": [entry["release_id"] for entry in listed if entry["state"] in {"staged", "refused"}],
        "last": dict(pointer.history[-1]) if pointer else None,
    }


def _looked_at(configuration: Configuration) -> tuple[Pointer | None, list[dict[str, Any]]]:
    with described(configuration) as (pointer, directories):
        listed = [_listed(directory, pointer) for directory in directories]
    return pointer, sorted(listed, key=lambda entry: str(entry["release_id"]), reverse=True)


def _admit(
    configuration: Configuration,
    release_id: str,
    *,
    published_at: dt.datetime,
    force_reason: str | None,
) -> None:
    """Audit, report, move out of staging, mark ready."""
    store = configuration.releases
    directory = directory_of(store, release_id)
    open_release(directory)
    report = standing_report(configuration, release_id) or audit_held(configuration, release_id)
    if report.refused and not force_reason:
        raise GateFailed(f"release {release_id}", report.refused)
    manifest = _recorded(directory, report, force_reason)
    write_text(directory / REPORT, render(manifest, report, force_reason=force_reason))
    released = store / RELEASES / release_id
    if directory != released:
        move(directory, released)
    write_sealed_json(released / READY, _ready(released, report, published_at, force_reason))


def _recorded(directory: Path, report: AuditReport, force_reason: str | None) -> dict[str, Any]:
    """The manifest with why a refused release is served all the same; its address does not depend on that."""
    manifest = read_object(directory / MANIFEST)
    forced = {"reason": force_reason, "refused": report.refused} if report.refused else None
    if manifest.get("forced") != forced:
        manifest = {name: told for name, told in manifest.items() if name != "forced"}
        manifest |= {"forced": forced} if forced else {}
        write_json(directory / MANIFEST, manifest)
    return manifest


def _ready(released: Path, report: AuditReport, admitted_at: dt.datetime, force_reason: str | None) -> dict[str, Any]:
    return {
        "manifest_sha256": sha256_of_file(released / MANIFEST),
        "audit_sha256": sha256_of_file(released / AUDIT),
        "report_sha256": sha256_of_file(released / REPORT),
        "refused_gates": report.refused,
        "force_reason": force_reason,
        "admitted_at": admitted_at.isoformat(),
    }


def _why_not_live(pointer: Pointer | None, release_id: str, force_reason: str | None) -> str | None:
    if pointer is None or pointer.release_id == release_id:
        return None
    if release_id[:10] < pointer.release_id[:10]:
        return f"{release_id} is kept but not served: the live release {pointer.release_id} is of a later night"
    if release_id in pointer.withdrawn and not force_reason:
        return f"{release_id} was rolled back and stays so: roll back to it by name, or publish it with a reason"
    return None


def _moved(
    pointer: Pointer | None, release_id: str, action: str, *, published_at: dt.datetime, reason: str | None
) -> Pointer:
    """The pointer at `release_id`, with the move in its history and what the move took back in `withdrawn`."""
    before = pointer.history if pointer else ()
    replaced = pointer.release_id if pointer else None
    entry = {
        "release_id": release_id,
        "action": action,
        "at": published_at.isoformat(),
        "replaced": replaced,
        "reason": reason,
    }
    withdrawn = set(pointer.withdrawn if pointer else ())
    if action == "rollback":
        names = [str(past["release_id"]) for past in before]
        since = len(names) - names[::-1].index(release_id) if release_id in names else len(names) - 1
        withdrawn |= set(names[since:])
    entries = (*before, entry)[-KEEP_HISTORY:]
    return Pointer(release_id, published_at, replaced, entries, tuple(sorted(withdrawn - {release_id})))


def _before(store: Path, pointer: Pointer, release_id: str, remote: Remote | None) -> str | None:
    """What served before `release_id` was first put live, if it is still kept: where a second rollback goes."""
    replaced = {str(entry["release_id"]): entry["replaced"] for entry in reversed(pointer.history)}
    before = replaced[release_id]
    if before is None or before == release_id:
        return None
    kept = is_released(store, before) or (remote is not None and before in remote.release_ids())
    return before if kept else None


def _listed(directory: Path, pointer: Pointer | None) -> dict[str, Any]:
    manifest = read_object(directory / MANIFEST)
    name = manifest["release_id"]
    decision = read_object(directory / AUDIT)["decision"] if (directory / AUDIT).is_file() else None
    ready = read_sealed_json(directory / READY) if (directory / READY).is_file() else None
    if ready is None:
        state = "refused" if decision == "refused" else "staged"
    elif pointer is not None and name in (pointer.release_id, pointer.previous):
        state = "live" if name == pointer.release_id else "previous"
    else:
        state = "kept"
    return {
        "release_id": name,
        "date": manifest["date"],
        "state": state,
        "rows": {view: manifest["views"][view]["rows"] for view in PUBLISHED},
        "audit": decision,
        "force_reason": ready["force_reason"] if ready else None,
        "standing": manifest.get("standing"),
        "served": [dict(entry) for entry in pointer.history if entry["release_id"] == name] if pointer else [],
    }


def _publication(release_id: str, pointer: Pointer, sentence: str, force_reason: str | None) -> Publication:
    live = pointer.release_id == release_id
    return Publication(release_id, live, pointer.published_at.isoformat(), pointer.previous, sentence, force_reason)

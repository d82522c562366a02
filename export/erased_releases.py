"""Releases without one user, published and staged: other releases, by their content, which take the places of the old.

Everything but the tables of users is linked, not copied. Under the store's lock the new ones are laid out whole, then
one write of the pointer calls what is live, what was before and the history by the new names, and the old are removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from export import history
from export.audit import AuditReport
from export.audit_subjects import EXPECTED
from export.drafts import DRAFTS, discard, exclusive_store, move
from export.release_report import render
from export.remote import Remote, point, remote_of
from export.renaming import Names, renamed
from export.staging import is_released, standing
from features.configuration import Configuration
from features.erased_users import naming, without
from features.files import (
    fsync_tree,
    make_directory,
    read_sealed_json,
    sha256_of_file,
    write_json,
    write_sealed_json,
    write_text,
)
from features.key_index import key_hashes, write_index
from features.release_table import BATCH_ROWS, INDEX_FOLDER, ROWS_FILE, ReleasedTable
from features.releases import (
    AUDIT,
    MANIFEST,
    READY,
    RELEASES,
    REPORT,
    STAGING,
    Pointer,
    Release,
    open_release,
    read_object,
    read_pointer,
    release_id_of,
)


@dataclass(frozen=True)
class _Draft:
    """A release laid out without the user: where it was, where it is being made, and its manifest so far."""

    old: Path
    directory: Path
    manifest: Mapping[str, Any]

    @property
    def release_id(self) -> str:
        return str(self.manifest["release_id"])


def erase_from_releases(configuration: Configuration, user: str, artifacts: Names) -> dict[str, str]:
    """Put releases without the user in the places of those that hold it or name one of the old `artifacts`.

    Returns new release ids by old ones. Raises ArtifactCorrupt if a release is not what was written.
    """
    store = configuration.releases
    with exclusive_store(store):
        remote = remote_of(configuration)
        if remote is not None:
            remote.pull()  # what the bucket alone has is erased here, and taken back there
        served = read_pointer(store)  # before anything is laid out: one that cannot be read stops it here
        make_directory(store / DRAFTS)
        drafts = []
        for folder in (RELEASES, STAGING):
            for name in standing(store / folder, MANIFEST):
                release = open_release(store / folder / name)
                if artifacts.keys() & set(release.manifest["models"].values()) or _views_naming(release, user):
                    drafts.append(_drafted(store, release, user, artifacts))
        names = {draft.old.name: draft.release_id for draft in drafts}
        for draft in drafts:
            _finish(draft, {**names, **artifacts})
            target = draft.old.parent / draft.release_id
            if target.exists():  # an erasure that was killed has put it there
                shutil.rmtree(draft.directory)
            else:
                move(draft.directory, target)
            if remote is not None and is_released(store, draft.release_id):
                remote.upload(draft.release_id)
        _rename_served(configuration, served, names, remote)
        for draft in drafts:
            discard(store, draft.old)
    return names


def _rename_served(configuration: Configuration, before: Pointer | None, names: Names, remote: Remote | None) -> None:
    """Let the pointer and the history of what was served go by the new names; a bucket then has the old no more."""
    store = configuration.releases
    if before is None:
        return
    pointer = Pointer.of(renamed(before.record(), names))
    if pointer != before:
        point(store, pointer, remote)
    history.complete(configuration, pointer)
    if remote is not None:
        remote.delete(pointer, list(names))


def _views_naming(release: Release, user: str) -> list[str]:
    """The views of a release with a row that names the user."""
    return [
        view
        for view, table in release.tables.items()
        if any(bool(naming(batch, user).any()) for batch in table.batches)
    ]


def _drafted(store: Path, release: Release, user: str, artifacts: Names) -> _Draft:
    """The files of a release without the user, and its manifest but for the names of other releases."""
    manifest, draft = dict(release.manifest), store / DRAFTS / f"erased-{release.release_id}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    rows = {view: _write_without(release.tables[view], user, draft) for view in _views_naming(release, user)}
    files = {}
    for name, recorded in manifest["files"].items():
        path = draft / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(release.directory / name, path)
            files[name] = recorded
        else:
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    views = {view: told | {"rows": rows.get(view, told["rows"])} for view, told in manifest["views"].items()}
    manifest |= {
        "files": files,
        "models": {model: artifacts.get(version, version) for model, version in manifest["models"].items()},
        "figures": _fewer(manifest, rows),
        "views": views,
    }
    return _Draft(release.directory, draft, manifest | {"release_id": release_id_of(manifest)})


def _write_without(table: ReleasedTable, user: str, draft: Path) -> int:
    """Write a table and its index without the user, in batches of the size that readers expect; its rows."""
    schema, name = table.batches[0].schema, table.table.name
    # batches without the user stay mapped, so that memory holds one of them
    named = [naming(batch, user).any() for batch in table.batches]
    batches = [without(one, user) if named_in else one for one, named_in in zip(table.batches, named, strict=True)]
    kept = pa.Table.from_batches(batches, schema)
    (draft / name).mkdir()
    hashes = [np.empty(0, np.uint64)]
    with pa.OSFile(str(draft / name / ROWS_FILE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for first in range(0, max(len(kept), 1), BATCH_ROWS):
            rows = kept.slice(first, BATCH_ROWS).combine_chunks().to_batches()
            batch = rows[0] if rows else pa.RecordBatch.from_pylist([], schema=schema)
            writer.write_batch(batch)
            hashes.append(key_hashes([batch.column(key) for key in table.table.key]))
    write_index(draft / INDEX_FOLDER, name, np.concatenate(hashes))
    return len(kept)


def _fewer(manifest: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
    """The night's figures with as many rows fewer expected as there are fewer."""
    figures = dict(manifest["figures"])
    for view, left in rows.items():
        gone = manifest["views"][view]["rows"] - left
        of_lists = ("users_known",) if view == "dicer_user_attraction" else ()
        for figure in (*of_lists, *([EXPECTED[view]] if view in EXPECTED else [])):
            if isinstance(figures.get(figure), int):
                figures[figure] -= gone
    return figures


def _finish(draft: _Draft, names: Names) -> None:
    """Write what stands beside the files: manifest, audit, report and seal, by the names that releases have now."""
    lineage = [*draft.manifest.get("erased_from", []), draft.old.name]
    manifest = renamed(draft.manifest, names) | {"erased_from": lineage}
    write_json(draft.directory / MANIFEST, manifest)
    audit = renamed(read_object(draft.old / AUDIT), names) if (draft.old / AUDIT).is_file() else None
    if audit is not None:
        write_json(draft.directory / AUDIT, audit)
    if audit is not None and (draft.old / READY).is_file():
        ready = renamed(read_sealed_json(draft.old / READY), names)
        report = render(manifest, AuditReport.of(audit), force_reason=ready["force_reason"])
        write_text(draft.directory / REPORT, report)
        seals = {f"{file.split('.')[0]}_sha256": file for file in (MANIFEST, AUDIT, REPORT)}
        ready |= {name: sha256_of_file(draft.directory / file) for name, file in seals.items() if name in ready}
        write_sealed_json(draft.directory / READY, ready)
    fsync_tree(draft.directory)

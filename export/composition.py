"""When one model's part of a night is refused: a release of the other's new part and the live release's standing part.

Its manifest says which part stands in, of which night it is, and what was refused; it is audited like any other.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.audit import AuditReport, live_before
from export.audit_subjects import EXPECTED
from export.drafts import drafting, settle
from export.gates import DICER, KARMA, PARTS
from export.staging import directory_of, is_released
from features.configuration import Configuration
from features.files import disk_errors, fsync_tree, write_json
from features.release_table import INDEX_FOLDER
from features.releases import MANIFEST, read_object, release_id_of

Manifest = Mapping[str, Any]


def compose(configuration: Configuration, report: AuditReport) -> str | None:
    """Stage what `report` lets through beside what is live of the rest, and return its id.

    None if the configuration forbids it, no part or each part was refused, nothing is live to stand in, or the release
    was published all the same. The same content gives the same id and changes nothing.
    """
    store, sound = configuration.releases, report.sound_parts
    live = live_before(store, report.release_id)
    if not report.config.compose or len(sound) != 1 or live is None or is_released(store, report.release_id):
        return None
    new = directory_of(store, report.release_id)
    sources = {part: new if part in sound else live for part in PARTS}
    with drafting(store) as draft:
        manifest = _manifest({part: read_object(source / MANIFEST) for part, source in sources.items()}, report)
        for name in manifest["files"]:
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(target):
                shutil.copyfile(_source(sources, new, name) / name, target)
        write_json(draft / MANIFEST, manifest)
        fsync_tree(draft)
        return settle(store, draft, manifest["release_id"])


def _manifest(manifests: Mapping[str, Manifest], report: AuditReport) -> dict[str, Any]:
    """The new part's manifest with what concerns the standing part taken from the live one."""
    (sound,) = report.sound_parts
    (stands,) = (part for part in PARTS if part != sound)
    new, live = manifests[sound], manifests[stands]
    foreign = set(PARTS[stands])
    manifest = {
        **new,
        "models": {part: manifests[part]["models"][part] for part in PARTS},
        "space_id": manifests[KARMA]["space_id"],
        "files": {
            name: recorded
            for source, wanted in ((new, False), (live, True))
            for name, recorded in source["files"].items()
            if (_view_of(name) in foreign) == wanted
        },
        "views": new["views"] | {view: live["views"][view] for view in foreign},
        "figures": new["figures"] | _figures(live, stands),
        "standing": _origin(live, stands),
        "refused": {"release_id": report.release_id, "why": report.refused},
    }
    for about in ("metrics", "evidence"):
        manifest[about] = {part: told[about][part] for part, told in manifests.items() if part in told[about]}
    return manifest | {"release_id": release_id_of(manifest)}


def _figures(live: Manifest, part: str) -> dict[str, Any]:
    """How many rows the standing part should have: as many as it should have had on its own night."""
    names = {EXPECTED[view] for view in PARTS[part]} | ({"users_known"} if part == DICER else set())
    return {name: live["figures"][name] for name in sorted(names) if name in live["figures"]}


def _origin(live: Manifest, part: str) -> dict[str, Any]:
    """The night that a part is of, which is not the live one's if it stood in there too."""
    before = live.get("standing")
    if before is not None and before["part"] == part:
        return dict(before)
    return {"part": part, "views": list(PARTS[part]), "release_id": live["release_id"], "date": live["date"]}


def _source(sources: Mapping[str, Path], new: Path, name: str) -> Path:
    """The release that a file is taken from; what belongs to neither part is the night's."""
    return next((sources[part] for part, views in PARTS.items() if _view_of(name) in views), new)


def _view_of(name: str) -> str:
    """The view of `<view>/rows.arrow` or `index/<view>.<array>.npy`."""
    folder, file = name.split("/", 1)
    return file.split(".")[0] if folder == INDEX_FOLDER else folder

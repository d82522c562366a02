"""Champions: the artifact of each model that the night uses, how it came to be it, and the way back.

`champions/<model>.json` names the champion and every move that led there, oldest first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.artifacts import Artifact, load
from export.renaming import Names, renamed
from features.configuration import Configuration
from features.errors import MissingInput
from features.files import disk_errors, read_json, remove_temporaries, write_json
from features.locks import exclusive

MODELS = ("karma", "dicer")
LOCK = ".lock"


def champion(configuration: Configuration, model: str) -> Artifact:
    """The verified champion of `model`. Raises MissingInput if none was promoted."""
    version = champion_version(configuration, model)
    if version is None:
        raise MissingInput(f"no champion for {model} in {configuration.champions}; run `attractor train` and promote")
    return load(configuration.artifacts, version)


def champion_version(configuration: Configuration, model: str) -> str | None:
    """The version of the champion of `model`, None if none was promoted."""
    pointer = _pointer(configuration, model)
    return str(read_json(pointer)["version"]) if pointer.is_file() else None


def missing_champions(configuration: Configuration) -> list[str]:
    """Models without a champion, in a fixed order."""
    return [model for model in MODELS if champion_version(configuration, model) is None]


def moves(configuration: Configuration, model: str) -> list[dict[str, Any]]:
    """Every promotion and demotion of `model`, oldest first: version, action, at, replaced, reason, gates, quality."""
    pointer = _pointer(configuration, model)
    # a pointer that was written before moves were kept has none
    return list(read_json(pointer).get("moves", [])) if pointer.is_file() else []


def crown(
    configuration: Configuration,
    artifact: Artifact,
    *,
    at: dt.datetime,
    gates: Sequence[Mapping[str, Any]],
    quality: Mapping[str, Any] | None,
) -> None:
    """Make `artifact` the champion of its model; whether it may be is for `export/promotion.py` to say."""
    with _exclusive(configuration.champions):
        replaced = champion_version(configuration, artifact.model)
        if replaced != artifact.version:
            made = {"gates": [dict(gate) for gate in gates], "quality": dict(quality) if quality else None}
            _move(configuration, artifact.model, artifact.version, "promote", at=at, reason=None, **made)


def demote(configuration: Configuration, model: str, *, at: dt.datetime, reason: str) -> dict[str, Any]:
    """Make the champion before the present one champion again; the move that says so.

    Raises MissingInput if there is no champion or none before it, ArtifactCorrupt if that one cannot be read.
    """
    with _exclusive(configuration.champions):
        now = champion(configuration, model).version
        replaced = {move["version"]: move["replaced"] for move in reversed(moves(configuration, model))}
        before = replaced.get(now)
        if before is None:
            raise MissingInput(f"no champion of {model} before {now}: promote another artifact instead")
        load(configuration.artifacts, before)
        return _move(configuration, model, before, "demote", at=at, reason=reason, gates=[], quality=None)


def rename(configuration: Configuration, versions: Names) -> None:
    """Call artifacts by other versions in every champion's record: they were stored again with other content."""
    with _exclusive(configuration.champions):
        for pointer in (_pointer(configuration, model) for model in MODELS):
            if pointer.is_file() and (record := read_json(pointer)) != (told := renamed(record, versions)):
                write_json(pointer, told)


def evidence(configuration: Configuration, artifact: Artifact) -> dict[str, Any]:
    """What a release's manifest keeps of a model: parity by graph, the change of its quality, and its alignment.

    The quality is that of its last promotion: None for the first champion of a model. The alignment says whether
    KARMA's vectors are in the space of the artifact before it, and what that lost; it is there if it was tried.
    """
    promotions = [
        move
        for move in moves(configuration, artifact.model)
        if move["version"] == artifact.version and move["action"] == "promote"
    ]
    about = artifact.manifest["about"]
    return {
        "parity": {
            graph: {name: record[name] for name in ("worst", "tolerance", "holds")}
            for graph, record in about["parity"].items()
        },
        "quality": promotions[-1]["quality"] if promotions else None,
        **({"alignment": about["alignment"]} if "alignment" in about else {}),
    }


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    with disk_errors(folder), exclusive(folder / LOCK):
        remove_temporaries(folder)
        yield


def _move(
    configuration: Configuration,
    model: str,
    version: str,
    action: str,
    *,
    at: dt.datetime,
    **told: Any,
) -> dict[str, Any]:
    replaced = champion_version(configuration, model)
    move = {"version": version, "action": action, "at": at.isoformat(), "replaced": replaced, **told}
    known = moves(configuration, model)
    write_json(_pointer(configuration, model), {"version": version, "moves": [*known, move]})
    return move


def _pointer(configuration: Configuration, model: str) -> Path:
    return configuration.champions / f"{model}.json"

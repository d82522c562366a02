"""Forgetting one user: out of everything below the state directory, then looked for again.

Every step can be killed and run again: a file is replaced in one step, an artifact or a release is removed only when
nothing names it any more, and what is there already is not made twice. The user is first put on the list that landing
leaves out, so that nothing brings its rows back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.erased_artifacts import erase_from_artifacts, remove_artifacts
from export.erased_files import files_naming, recount, remove, rewrite, unfinished
from export.erased_releases import erase_from_releases
from features.configuration import Configuration
from features.erased_users import read_erased, remember
from features.errors import MissingInput
from features.landing import RECORD
from features.locks import exclusive
from features.mirror_records import MIRRORS, target_of

LOCK = "erasures.lock"
STORE, CHECKPOINTS, UNFINISHED = "store", "checkpoints of dicer", "unfinished writes"


@dataclass(frozen=True)
class Place:
    """Rows that name the user in one place, before and after; of checkpoints and unfinished writes, how many stand."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Erasure:
    """What an erasure came to: every place that was searched, and what has another name since."""

    places: tuple[Place, ...]
    releases: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    mirrors: tuple[
        str, ...
    ] = ()  # the feature_store.yaml of each that has rows of the user, until it is mirrored again

    @property
    def left(self) -> int:
        """What is still there."""
        return sum(place.after for place in self.places)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "places": {place.name: {"before": place.before, "after": place.after} for place in self.places},
            "releases": dict(self.releases),
            "artifacts": dict(self.artifacts),
            "mirrors": list(self.mirrors),
            "left": self.left,
        }


def look_for(configuration: Configuration, user: str) -> Erasure:
    """Where the user is, changing nothing. Raises MissingInput for one who is nowhere and was never erased."""
    found = _search(configuration, user)
    _known(configuration, user, found)
    places = tuple(Place(name, count, count) for name, count in found.items())
    return Erasure(places, mirrors=_mirrors(configuration, user))


def erase(configuration: Configuration, user: str, *, salt: bytes) -> Erasure:
    """Remove the user from every place and search them all again.

    `salt` are 32 random bytes, used by the first erasure of a state directory. Raises MissingInput for a user who is
    nowhere and was never erased, ArtifactCorrupt if a release or an artifact is not what was written.
    """
    state = configuration.state
    with exclusive(state / LOCK):
        before = _search(configuration, user)
        _known(configuration, user, before)
        remember(state, user, salt=salt)
        for path in unfinished(state):
            remove(path)
        with exclusive(configuration.raw / ".lock"):
            _rewrite(configuration.raw, user)
            for record in configuration.raw.rglob(RECORD):
                recount(record.parent)
        for folder in (configuration.features, configuration.training_sets, configuration.published):
            _rewrite(folder, user)
        for run in _runs(configuration):
            remove(run)
        for copy in _copies(configuration, user):
            remove(copy)
        artifacts = erase_from_artifacts(configuration, user)
        for night in _scored(configuration, user, artifacts):
            remove(night)
        releases = erase_from_releases(configuration, user, artifacts)
        remove_artifacts(configuration, artifacts)
        after = _search(configuration, user)
    places = tuple(Place(name, before.get(name, 0), after.get(name, 0)) for name in sorted({*before, *after}))
    return Erasure(places, releases, artifacts, _mirrors(configuration, user))


def _search(configuration: Configuration, user: str) -> dict[str, int]:
    state = configuration.state
    names = [path.name for path in state.iterdir() if path.is_dir()] if state.is_dir() else []
    found = Counter({name: 0 for name in names if name != STORE})
    found.update({f"{STORE}/{path.name}": 0 for path in state.glob(f"{STORE}/*") if path.is_dir()})
    for file, rows in files_naming(state, user):
        parts = file.relative_to(state).parts
        found["/".join(parts[: 2 if parts[0] == STORE else 1])] += rows
    found[CHECKPOINTS] = len(_runs(configuration))
    found[UNFINISHED] = len(unfinished(state))
    return dict(sorted(found.items()))


def _known(configuration: Configuration, user: str, found: Mapping[str, int]) -> None:
    rows = sum(count for name, count in found.items() if name not in (CHECKPOINTS, UNFINISHED))
    if not rows and user not in read_erased(configuration.state):
        raise MissingInput(
            f"expected a user of {configuration.state}, got {user!r}, whom no table there names; nothing was changed"
        )


def _rewrite(folder: Path, user: str) -> None:
    for file in [file for file, _ in files_naming(folder, user)]:
        rewrite(file, user)


def _runs(configuration: Configuration) -> list[Path]:
    """Trainings of DICER, finished or not: their weights have a row a user, by place, so that none can be found."""
    return sorted((configuration.checkpoints / "dicer").glob("*"))


def _copies(configuration: Configuration, user: str) -> list[Path]:
    """Releases of a bucket that readers on this machine keep a copy of: `<bucket>/releases/<id>`, fetched anew."""
    copies = configuration.copies
    return sorted({copies.joinpath(*file.relative_to(copies).parts[:3]) for file, _ in files_naming(copies, user)})


def _mirrors(configuration: Configuration, user: str) -> tuple[str, ...]:
    """Where rows of the user were mirrored to. They stay listed, or the next mirror would not know to remove them."""
    folders = {file.parent for file, _ in files_naming(configuration.state / MIRRORS, user)}
    return tuple(sorted(target_of(folder) for folder in folders))


def _scored(configuration: Configuration, user: str, artifacts: Mapping[str, str]) -> list[Path]:
    """Scored nights that hold the user, or that name an artifact which is no more: they are computed again if asked."""
    naming = {file.relative_to(configuration.scored).parts[0] for file, _ in files_naming(configuration.scored, user)}
    told = {
        about.parent.name
        for about in configuration.scored.glob("*/scored.json")
        if any(version in about.read_text(encoding="utf-8") for version in artifacts)
    }
    return [configuration.scored / name for name in sorted(naming | told)]

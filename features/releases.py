"""Reading releases: one pointer names the live one, and a release is mapped into memory once.

For ranking systems:

    store = open_releases()
    release = store.current()                     # once per request: everything below is of one night
    vectors, found = release.embeddings("karma_user_interest", "interest_embedding", user_ids)

Neither feast nor torch is imported. The layout below `<state>/store` is

    current.json                                   the pointer
    releases/<id>/{manifest.json, READY, audit.json, report.html, <view>/rows.arrow, index/<view>.*.npy}
    releases/<id>/popularity/items.json            the items most acted on: what to show where no list may be used
    staging/<id>/                                  the same without READY, not yet or never served
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.contracts import PUBLISHED, Table
from features.errors import ArtifactCorrupt, MissingInput
from features.files import read_json, read_sealed_json, sha256_of_file, sha256_of_json
from features.release_ids import night_of_release
from features.release_table import ReleasedTable, check_comparable, open_table, stored_names, table_of_contract
from features.stored_files import stored_files
from features.windows import midnight, parse_date

POINTER, MANIFEST, READY, AUDIT, REPORT = "current.json", "manifest.json", "READY", "audit.json", "report.html"
RELEASES, STAGING = "releases", "staging"
POPULAR = "popularity/items.json"
IDENTITY = ("date", "contracts", "files", "models", "space_id")
"""What a release is addressed by; the manifest's other entries describe it."""

Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Pointer:
    """What is live, since when, what served before it, and how that came about, oldest first."""

    release_id: str
    published_at: dt.datetime
    previous: str | None
    history: tuple[Mapping[str, Any], ...]
    withdrawn: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Pointer:
        """From the JSON of `current.json`. Raises KeyError, TypeError or ValueError for one that is not a pointer."""
        withdrawn, previous = tuple(record["withdrawn"]), record["previous"]
        for name in (record["release_id"], *withdrawn, *([] if previous is None else [previous])):
            night_of_release(name)
        published_at = dt.datetime.fromisoformat(record["published_at"])
        if published_at.utcoffset() is None:
            raise ValueError(f"expected an instant with a time zone, got {record['published_at']!r}")
        history = tuple(dict(entry) for entry in record["history"])
        return cls(record["release_id"], published_at, previous, history, withdrawn)

    def record(self) -> dict[str, Any]:
        """As the JSON of `current.json`."""
        return {
            "release_id": self.release_id,
            "published_at": self.published_at.isoformat(),
            "previous": self.previous,
            "history": [dict(entry) for entry in self.history],
            "withdrawn": list(self.withdrawn),
        }


@dataclass(frozen=True)
class Release:
    """One night, open for reading. It stays readable after its files are deleted, for as long as it is held."""

    directory: Path
    manifest: Mapping[str, Any]
    published_at: dt.datetime | None
    tables: Mapping[str, ReleasedTable]
    admitted_at: dt.datetime | None = None  # when it first passed publication; publishing it again does not move it
    popular_items: tuple[str, ...] = ()  # the items most acted on before the night, best first

    @property
    def release_id(self) -> str:
        """`YYYY-MM-DD-<12 hex>`, the address of the content."""
        return str(self.manifest["release_id"])

    @cached_property
    def date(self) -> dt.date:
        """The night: everything in it was known strictly before this date began, UTC."""
        return parse_date(self.manifest["date"])

    @cached_property
    def as_of(self) -> dt.datetime:
        """The event timestamp of every row that the night made."""
        return midnight(self.date)

    def as_of_view(self, view: str) -> dt.datetime:
        """The event timestamp of a view's rows: an earlier night's where they stand in for a part that was refused."""
        standing = self.manifest.get("standing")
        return midnight(parse_date(standing["date"])) if standing and view in standing["views"] else self.as_of

    @property
    def space_id(self) -> str:
        """The embedding space of every vector of the release."""
        return str(self.manifest["space_id"])

    def embeddings(
        self,
        view: str,
        column: str,
        ids: Sequence[str] | Sequence[int] | NDArray[Any] | pa.Array,
        *,
        space_id: str | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors [ids, d] in the order of `ids` and which of them exist; a vector that does not is all zeros.

        Raises ValueError if `space_id` is given and is not the release's: such vectors must not be compared, and
        for ids that cannot be keys; KeyError if there is no such view or column.
        """
        if space_id is not None and space_id != self.space_id:
            raise ValueError(f"expected vectors of space {space_id}, release {self.release_id} is of {self.space_id}")
        table = self.tables[view]
        dimension = table.dimension(column)
        rows = table.locate([_as_array(ids, table.table)])
        found = rows >= 0
        if found.all():
            return table.vectors(column, rows), found
        block = np.zeros((len(rows), dimension), np.float32)
        block[found] = table.vectors(column, rows[found])
        return block, found

    @cached_property
    def provenance(self) -> Mapping[str, str | dt.datetime | None]:
        """The release's one value of every column of `contracts.PROVENANCE`."""
        models = self.manifest["models"]
        return {
            "space_id": self.space_id,
            "item_space_id": self.space_id,
            "item_release_id": self.release_id,
            "item_published_at": self.published_at,
            "model_version": models["karma"],
            "attraction_model_version": models["dicer"],
            "release_id": self.release_id,
            "attraction_release_id": self.release_id,
            "attraction_published_at": self.published_at,
            "release_date": self.as_of_view("karma_user_interest").date().isoformat(),
            "published_at": self.published_at,
        }


class Origin(Protocol):
    """Where a store's releases come from, if not from this disk."""

    def follow(self) -> None:
        """Bring the store's pointer up to date, if it is time to look. Raises only while there is nothing to serve."""

    def fetch(self, release_id: str) -> None:
        """Have a release in the store. Raises MissingInput if there is none of that id."""

    def unheard(self) -> str | None:
        """Why the store may be behind where it comes from; None if it is not known to be."""


class ReleaseStore:
    """The releases below one folder; safe to share between threads and to keep for the life of a process.

    With an `origin` the folder is a verified copy of what is there, see `features/release_cache.py`.
    """

    def __init__(self, root: Path, *, origin: Origin | None = None) -> None:
        self.root, self.origin = root, origin
        self._pointer = str(root / POINTER)
        self._live: tuple[Signature, Release] | None = None
        self._damaged: tuple[object, str] | None = None  # what was found damaged, in which state of the disk
        self._opening = threading.Lock()

    def current(self) -> Release:
        """The live release; the pointer costs one `stat` while it stands still.

        Where it moved, the release that it names is read whole before it is served, by one thread; the others are
        given the one before meanwhile. Raises MissingInput if nothing was published yet, ArtifactCorrupt if what is
        live is not what was written.
        """
        if self.origin is not None:
            self.origin.follow()
        live = self._live
        if live is not None and live[0] == self._signature():
            return live[1]
        if not self._opening.acquire(blocking=live is None):
            assert live is not None
            return live[1]
        try:
            return self._moved_on()
        finally:
            self._opening.release()

    def _moved_on(self) -> Release:
        while True:
            signature, live = self._signature(), self._live
            if live is not None and live[0] == signature:
                return live[1]
            pointer = read_pointer(self.root)
            if pointer is None:
                raise ArtifactCorrupt(f"{self.root / POINTER}: expected a file")
            state = signature, _state(self.root / RELEASES / pointer.release_id)
            if self._damaged is not None and self._damaged[0] == state:
                raise ArtifactCorrupt(self._damaged[1])  # known: to read it all again at each request would be a load
            try:
                release = self._opened(pointer, live[1] if live else None)
            except (ArtifactCorrupt, MissingInput) as error:
                if self._signature() != signature:
                    continue  # the pointer moved on and what it named was retired meanwhile
                self._damaged = state, str(error)
                raise
            self._live = (signature, release)
            return release

    def _opened(self, pointer: Pointer, before: Release | None) -> Release:
        if before is not None and before.release_id == pointer.release_id:
            return replace(before, published_at=pointer.published_at)
        return replace(self.open(pointer.release_id), published_at=pointer.published_at)

    def open(self, release_id: str) -> Release:
        """A release by name, live or not. Raises MissingInput if it is not there, ArtifactCorrupt if it is broken."""
        try:
            night_of_release(release_id)
        except ValueError as error:
            raise MissingInput(str(error)) from error
        directory = self.root / RELEASES / release_id
        if self.origin is not None and not (directory / READY).is_file():
            self.origin.fetch(release_id)
        if not (directory / READY).is_file():
            if self._names(release_id):
                raise ArtifactCorrupt(f"{directory} is named live by {self.root / POINTER} but is not ready")
            raise MissingInput(f"no release {release_id} in {self.root}; `attractor releases` lists them")
        release = open_release(directory)
        if release.release_id != release_id:
            raise ArtifactCorrupt(f"{directory} holds release {release.release_id}")
        return release

    def _names(self, release_id: str) -> bool:
        pointer = read_pointer(self.root)
        return pointer is not None and pointer.release_id == release_id

    def _signature(self) -> Signature:
        try:
            stat = os.stat(self._pointer)
        except FileNotFoundError as error:
            raise MissingInput(
                f"no release is published in {self.root}; run `attractor night --date YYYY-MM-DD`"
            ) from error
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def open_releases(store: Path | None = None) -> ReleaseStore:
    """The release store at `store`, else the one of the configuration that `configuration.load` finds."""
    if store is not None:
        return ReleaseStore(store)
    from features.configuration import load  # pydantic: not needed by a reader that names its store
    from features.release_storage import open_configured

    return open_configured(load())


def open_release(directory: Path) -> Release:
    """Map a release or a staged one into memory after reading every byte of it once, a second or so for a gigabyte.

    Raises ArtifactCorrupt naming the file that is not what was written.
    """
    admitted_at = _admitted_at(directory)
    manifest = read_object(directory / MANIFEST)
    try:
        if release_id_of(manifest) != manifest["release_id"]:
            raise ArtifactCorrupt(f"{directory / MANIFEST} does not hash to {manifest['release_id']}")
        _check_told(manifest)
        tables = _contracted(directory, manifest["contracts"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{directory / MANIFEST} lacks what a manifest has: {error!r}") from error
    files = stored_files(directory / MANIFEST, manifest["files"])
    for name in stored_names(tables):
        if name not in files:
            raise ArtifactCorrupt(f"{directory / MANIFEST} names no {name}")
    for file in files.values():
        file.verify()  # before Arrow and NumPy look into it
    opened = {table.name: open_table(directory, table) for table in tables}
    check_comparable(directory, opened["karma_user_interest"], opened["karma_item_embedding"])
    return Release(directory, manifest, None, opened, admitted_at, _popular_items(directory, manifest))


def _admitted_at(directory: Path) -> dt.datetime | None:
    """When the release passed publication, None if it did not; READY names the manifest that did."""
    if not (directory / READY).is_file():
        return None
    ready = read_sealed_json(directory / READY)
    try:
        if ready["manifest_sha256"] != sha256_of_file(directory / MANIFEST):
            raise ArtifactCorrupt(f"{directory / MANIFEST} is not the manifest that {directory / READY} names")
        at = dt.datetime.fromisoformat(ready["admitted_at"])
    except OSError as error:
        raise ArtifactCorrupt(f"{directory / MANIFEST} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{directory / READY} lacks when the release was admitted: {error!r}") from error
    if at.utcoffset() is None:
        raise ArtifactCorrupt(f"{directory / READY}: expected an instant with a time zone, got {at.isoformat()}")
    return at


def _popular_items(directory: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The release's popularity list; none in releases that were staged before lists were carried."""
    if POPULAR not in manifest["files"]:
        return ()
    items = read_object(directory / POPULAR).get("item_ids")
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ArtifactCorrupt(f"{directory / POPULAR}: expected item_ids as a list of texts")
    return tuple(items)


def _check_told(manifest: Mapping[str, Any]) -> None:
    """That what every read tells of its release is there. Raises KeyError, TypeError or ValueError if not."""
    told = [manifest["space_id"], *(manifest["models"][model] for model in ("karma", "dicer"))]
    if not all(isinstance(value, str) and value for value in told):
        raise ValueError(f"expected texts as space_id and models, got {told}")
    parse_date(manifest["date"])
    standing = manifest.get("standing")
    if standing is not None:
        parse_date(standing["date"])
        if not set(standing["views"]) <= set(PUBLISHED):
            raise ValueError(f"expected views of a part that stands in, got {standing['views']}")


def _contracted(directory: Path, contracts: Mapping[str, Any]) -> list[Table]:
    """Attractor's own tables, whose contracts must be this version's, then what was staged with them."""
    for view, table in PUBLISHED.items():
        if contracts[view] != contract_of(table):
            raise ArtifactCorrupt(f"{directory / MANIFEST}: {view} has another contract than this version reads")
    others = [table_of_contract(view, contract) for view, contract in contracts.items() if view not in PUBLISHED]
    return [*PUBLISHED.values(), *others]


def _state(directory: Path) -> object:
    """What tells whether anything in `directory` changed, without reading it: each file's size and time."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def verify(release: Release) -> None:
    """Read every file again and compare its SHA-256. Raises ArtifactCorrupt naming the first that differs."""
    for file in stored_files(release.directory / MANIFEST, release.manifest["files"]).values():
        file.verify()


def release_id_of(manifest: Mapping[str, Any]) -> str:
    """The address of a manifest's content: its date and the hash of what IDENTITY names."""
    return f"{manifest['date']}-{sha256_of_json({name: manifest[name] for name in IDENTITY})[:12]}"


def contract_of(table: Table) -> dict[str, Any]:
    """A table's contract as JSON: key, and name, type and nullability of each column in order."""
    columns = [[column.name, str(column.type), column.nullable] for column in table.columns]
    return {"key": list(table.key), "columns": columns}


def read_pointer(store: Path) -> Pointer | None:
    """The pointer, or None before the first publication. Raises ArtifactCorrupt if it cannot be read."""
    if not (store / POINTER).is_file():
        return None
    try:
        return Pointer.of(read_sealed_json(store / POINTER))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{store / POINTER} lacks what a pointer has: {error!r}") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of the store. Raises ArtifactCorrupt if it is missing or malformed."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{path} cannot be read: {error}") from error


def _as_array(ids: Sequence[str] | Sequence[int] | NDArray[Any] | pa.Array, table: Table) -> pa.Array:
    if len(table.key) != 1:
        raise ValueError(f"expected a table with one key column, {table.name} has {', '.join(table.key)}")
    kind = table.column(table.key[0]).type
    array = ids if isinstance(ids, pa.Array) else pa.array(ids, kind)
    return array.cast(kind)

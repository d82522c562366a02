"""`attractor.toml`: where the state lives, which source to read, and the settings of each part.

A section is read into the frozen dataclass that stands beside what it configures; an unknown
section or setting is an error, never silently ignored.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from features.errors import ConfigurationError

Section = TypeVar("Section")
FILE_NAME = "attractor.toml"
SECTIONS = (
    "source",
    "social",
    "features",
    "training",
    "karma",
    "encoding",
    "alignment",
    "dicer",
    "score",
    "further",
    "gates",
    "audit",
    "freshness",
    "releases",
    "ledger",
    "registry",
    "doctor",
    "consistency",
    "alerts",
    "logging",
    "metrics",
    "lineage",
    "tracking",
)


@dataclass(frozen=True)
class Configuration:
    """One parsed `attractor.toml`; relative paths in it are relative to the file."""

    file: Path
    state: Path
    sections: Mapping[str, Mapping[str, Any]]

    def section(
        self, name: str, kind: type[Section], *, named: Mapping[str, Callable[[], Section]] | None = None
    ) -> Section:
        """Section `name` as the dataclass `kind`; settings that are left out take its defaults.

        With `named`, a setting of that name chooses whose values they take instead. Raises ConfigurationError naming
        file, section, setting, what was expected and what came.
        """
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"{kind} is not a dataclass")
        given = dict(self.sections.get(name, {}))
        start = self._start(name, given.pop("named", None), named) if named is not None else {}
        known = [field.name for field in dataclasses.fields(kind)]
        for setting in given:
            if setting not in known:
                raise ConfigurationError(f"{self.file}: [{name}] has no setting {setting!r}; it has {', '.join(known)}")
        try:
            return TypeAdapter(kind).validate_python({**start, **given})
        except (ValidationError, ValueError) as error:
            raise ConfigurationError(f"{self.file}: [{name}] {error}") from error

    def _start(self, name: str, chosen: object, named: Mapping[str, Callable[[], Section]]) -> dict[str, Any]:
        if chosen is None:
            return {}
        if not isinstance(chosen, str) or chosen not in named:
            raise ConfigurationError(f"{self.file}: [{name}] named {chosen!r}: it may be {', '.join(sorted(named))}")
        return dataclasses.asdict(named[chosen]())  # type: ignore[call-overload,no-any-return]

    @property
    def raw(self) -> Path:
        """Landed raw tables."""
        return self.state / "raw"

    @property
    def features(self) -> Path:
        """Feature tables, one Parquet partition per date: `<view>/date=YYYY-MM-DD.parquet`."""
        return self.state / "features"

    @property
    def training_sets(self) -> Path:
        """Point-in-time training sets, one directory per date and service."""
        return self.state / "training_sets"

    @property
    def checkpoints(self) -> Path:
        """Training runs in progress, resumable."""
        return self.state / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """Content-addressed model artifacts."""
        return self.state / "artifacts"

    @property
    def champions(self) -> Path:
        """One pointer a model: the artifact that the night uses."""
        return self.state / "champions"

    @property
    def scored(self) -> Path:
        """What a night computed, before it is staged."""
        return self.state / "scored"

    @property
    def published(self) -> Path:
        """Published rows as Parquet: the offline history of the released views."""
        return self.state / "published"

    @property
    def releases(self) -> Path:
        """The release store: `current.json`, `releases/`, `staging/`."""
        return self.state / "store"

    @property
    def copies(self) -> Path:
        """Verified copies of the releases that a bucket serves, one folder a bucket."""
        return self.state / "copies"

    @property
    def registry(self) -> Path:
        """Feast's registry file, where [registry] names no database."""
        return self.state / "registry.db"

    @property
    def ledger(self) -> Path:
        """The ledger of stage runs, where [ledger] names no other database."""
        return self.state / "ledger.db"


def find(file: Path | None = None) -> Path:
    """The configuration file: `file`, else `$ATTRACTOR_CONFIG`, else `attractor.toml` here, above, or in the clone.

    Raises ConfigurationError if there is none.
    """
    named = file or (Path(os.environ["ATTRACTOR_CONFIG"]) if os.environ.get("ATTRACTOR_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"configuration file {named} does not exist; `attractor init` writes one")
        return named.resolve()
    here, clone = Path.cwd(), Path(__file__).resolve().parents[1]
    for folder in (here, *here.parents, clone):
        if (folder / FILE_NAME).is_file():
            return (folder / FILE_NAME).resolve()
    raise ConfigurationError(f"no {FILE_NAME} in {here}, above it, or in {clone}; `attractor init` writes one")


def load(file: Path | None = None) -> Configuration:
    """Read the configuration that `find` finds. Raises ConfigurationError if it cannot be used."""
    path = find(file)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    state = document.pop("state", None)
    if not isinstance(state, str):
        raise ConfigurationError(f'{path}: expected `state = "<directory>"` at the top, got {state!r}')
    for name, section in document.items():
        if name not in SECTIONS or not isinstance(section, dict):
            raise ConfigurationError(f"{path}: expected one of the sections {', '.join(SECTIONS)}, got {name!r}")
    return Configuration(path, (path.parent / state).resolve(), document)

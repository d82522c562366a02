"""Where raw tables come from: an embedded market, Last.fm and Ciao as distributed, or a user's own Parquet files."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from features.errors import ConfigurationError
from features.sources.source import Rows, Source

__all__ = ["Rows", "Source", "SourceConfig", "open_source"]

Violations = Literal["refuse", "quarantine"]


@dataclass(frozen=True)
class SourceConfig:
    """What to read, and what becomes of rows that break the contract."""

    kind: Literal["synthetic", "lastfm", "ciao", "parquet"]
    path: str = ""  # directory of lastfm, ciao or parquet, relative to attractor.toml
    on_violation: Violations | None = None  # left out: refuse for parquet, quarantine for the others
    users: int = 1500  # synthetic: size of the market
    items: int | None = None  # synthetic; left out: 23·√users
    days: int = 60  # synthetic: days of events
    start: dt.date = dt.date(2026, 1, 1)  # synthetic: first day of events
    seed: int = 7  # synthetic: everything random follows from it

    def __post_init__(self) -> None:
        if (self.kind == "synthetic") == bool(self.path):
            raise ValueError(
                f"`path` goes with lastfm, ciao and parquet, which need it; got kind {self.kind!r}, {self.path!r}"
            )
        for name, least, value in (("users", 2, self.users), ("items", 1, self.items), ("days", 1, self.days)):
            if value is not None and value < least:
                raise ValueError(f"expected {name} >= {least}, got {value}")
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}")

    @property
    def violations(self) -> Violations:
        """Whether a row that breaks the contract stops the landing or is set aside."""
        return self.on_violation or ("refuse" if self.kind == "parquet" else "quarantine")


def open_source(config: SourceConfig, base: Path) -> Source:
    """The configured source; a relative path is relative to `base`.

    Raises ConfigurationError naming the file or directory that is missing.
    """
    if config.kind == "synthetic":
        from features.sources.market import Market
        from features.sources.synthetic import SyntheticSource

        items = config.items if config.items is not None else round(23 * config.users**0.5)
        return SyntheticSource(Market(config.users, items, config.days, config.start, config.seed))
    directory = (base / config.path).resolve()
    if not directory.is_dir():
        raise ConfigurationError(f"[source] path: directory {directory} does not exist")
    if config.kind == "lastfm":
        from features.sources.lastfm import LastfmSource

        return LastfmSource(directory)
    if config.kind == "ciao":
        from features.sources.ciao import CiaoSource

        return CiaoSource(directory)
    from features.sources.parquet import ParquetSource

    return ParquetSource(directory)

"""Where raw tables come from: an embedded market, Last.fm and Ciao as distributed, one's own Parquet or warehouse."""

from __future__ import annotations

import datetime as dt
import os
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from features.contracts import RAW
from features.errors import ConfigurationError
from features.sources.source import Reader, Rows, Source
from features.sources.sql_mapping import TableMapping

__all__ = ["Reader", "Rows", "Source", "SourceConfig", "open_source", "provide_url"]

Violations = Literal["refuse", "quarantine"]
OWN = ("parquet", "sql", "custom")
"""Kinds that read one's own data, which may be mended at their source."""


@dataclass(frozen=True)
class SourceConfig:
    """What to read, and what becomes of rows that break the contract."""

    # An embedded market, public data as distributed, Parquet files, a database, or a source of your own
    kind: Literal["synthetic", "lastfm", "ciao", "parquet", "sql", "custom"]
    path: str = ""  # directory of lastfm, ciao or parquet, relative to attractor.toml
    on_violation: Violations | None = None  # left out: quarantine where the data are nobody's own, else refuse
    lateness: str = ""  # parquet, sql, custom: how long after its own time an event may still arrive: 3d, 36h
    url_variable: str = ""  # sql: the environment variable that holds the warehouse's URL
    connection: str = ""  # sql, instead: the Airflow connection that does
    isolation: str = ""  # sql: the level to read at; left out, a snapshot where that is known how (PostgreSQL, SQLite)
    tables: Mapping[str, TableMapping] = field(default_factory=dict)  # sql: where each raw table lies
    factory: str = ""  # custom: package.module:callable that gives a Source, called with attractor.toml's directory
    options: Mapping[str, Any] = field(default_factory=dict)  # custom: and with these, by name
    users: int = 1500  # synthetic: size of the market
    items: int | None = None  # synthetic; left out: 23·√users
    days: int = 60  # synthetic: days of events
    start: dt.date = dt.date(2026, 1, 1)  # synthetic: first day of events
    seed: int = 7  # synthetic: everything random follows from it

    def __post_init__(self) -> None:
        if (self.kind in ("synthetic", "sql", "custom")) == bool(self.path):
            raise ValueError(
                f"`path` goes with lastfm, ciao and parquet, which need it; got kind {self.kind!r}, {self.path!r}"
            )
        if (self.kind == "sql") != bool(self.variable) or (self.url_variable and self.connection):
            raise ValueError("expected either `url_variable` or `connection` for kind sql, and for no other")
        if (self.kind == "custom") != bool(self.factory) or (self.options and not self.factory):
            raise ValueError(f"`factory` and `options` go with kind custom, got {self.kind!r}, {self.factory!r}")
        if self.tables and self.kind != "sql":
            raise ValueError(f"`tables` goes with kind sql, got kind {self.kind!r}")
        if unknown := set(self.tables) - set(RAW):
            raise ValueError(f"expected tables {', '.join(RAW)}, got {', '.join(sorted(unknown))}")
        if self.late_by and self.kind not in OWN:
            raise ValueError(f"`lateness` goes with {', '.join(OWN)}, got kind {self.kind!r}")
        for name, least, value in (("users", 2, self.users), ("items", 1, self.items), ("days", 1, self.days)):
            if value is not None and value < least:
                raise ValueError(f"expected {name} >= {least}, got {value}")
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}")

    @property
    def violations(self) -> Violations:
        """Whether a row that breaks the contract stops the landing or is set aside."""
        return self.on_violation or ("refuse" if self.kind in OWN else "quarantine")

    @property
    def late_by(self) -> dt.timedelta:
        """`lateness` as a duration; none where it is left out."""
        if not self.lateness:
            return dt.timedelta()
        if (parts := re.fullmatch(r"([1-9]\d{0,3})([dh])", self.lateness)) is None:
            raise ValueError(f"expected lateness as days or hours, such as 3d or 36h, got {self.lateness!r}")
        return int(parts[1]) * dt.timedelta(**{"d": {"days": 1}, "h": {"hours": 1}}[parts[2]])

    @property
    def variable(self) -> str:
        """The environment variable of the warehouse's URL: the one named, else Airflow's for the connection."""
        return self.url_variable or (f"AIRFLOW_CONN_{self.connection.upper()}" if self.connection else "")


def provide_url(config: SourceConfig, uri_of: Callable[[str], str]) -> None:
    """Put the URI of the connection that `config` names where its source looks for it, unless one is there."""
    if config.connection and config.variable not in os.environ:
        os.environ[config.variable] = uri_of(config.connection)


def open_source(config: SourceConfig, base: Path) -> Source:
    """The configured source; a relative path is relative to `base`.

    Raises ConfigurationError naming the file, directory or environment variable that is missing.
    """
    if config.kind == "synthetic":
        from features.sources.market import Market
        from features.sources.synthetic import SyntheticSource

        items = config.items if config.items is not None else round(23 * config.users**0.5)
        return SyntheticSource(Market(config.users, items, config.days, config.start, config.seed))
    if config.kind == "sql":
        from features.sources.sql import SqlSource
        from features.sources.sql_connection import warehouse_url

        return SqlSource(warehouse_url(config.variable), config.tables, isolation=config.isolation)
    if config.kind == "custom":
        return _custom(config, base)
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


def _custom(config: SourceConfig, base: Path) -> Source:
    where = f"[source] factory = {config.factory!r}"
    try:
        source = pkgutil.resolve_name(config.factory)(base, **config.options)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if not isinstance(source, Source):
        raise ConfigurationError(f"{where}: expected a Source as in features/sources/source.py, got {source!r}")
    return source

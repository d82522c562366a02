"""Views of one's own in every release: what a third model computes, or a feature that is to be read online."""

from __future__ import annotations

import datetime as dt
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from features.configuration import Configuration
from features.contracts import FEATURES, PUBLISHED, RAW, Table
from features.errors import ConfigurationError
from features.partitions import write_rows
from features.source_code import code_hash


@dataclass(frozen=True)
class FurtherConfig:
    """What a release carries beside Attractor's own tables."""

    views: tuple[str, ...] = ()  # package.module:class of each, made without arguments; docs/extending.md


@runtime_checkable
class FurtherView(Protocol):
    """A table that is computed with each night, published in its release and registered in Feast."""

    @property
    def table(self) -> Table:
        """Its contract: a name of its own, one key of a user or an item, and columns."""

    def rows(self, configuration: Configuration, date: dt.date) -> Iterable[pa.RecordBatch]:
        """The rows of the night of `date`, in the contract's columns, sorted by key."""


def further_views(configuration: Configuration) -> list[FurtherView]:
    """The configured views, in order. Raises ConfigurationError naming one that cannot be had or be published."""
    found: dict[str, FurtherView] = {}
    for named in configuration.section("further", FurtherConfig).views:
        where = f"{configuration.file}: [further] views: {named!r}"
        try:
            view = pkgutil.resolve_name(named)()
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{where}: {error}") from error
        if not isinstance(view, FurtherView):
            raise ConfigurationError(f"{where}: expected `table` and `rows` as of FurtherView, got {view!r}")
        if view.table.name in {*RAW, *FEATURES, *PUBLISHED, *found}:
            raise ConfigurationError(f"{where}: expected a table of another name than {view.table.name}")
        if view.table.key not in (("user_id",), ("item_id",)):
            raise ConfigurationError(f"{where}: expected the key user_id or item_id, got {view.table.key}")
        found[view.table.name] = view
    return list(found.values())


def further_code(configuration: Configuration) -> dict[str, str]:
    """The hash of each view's code by its name, where it is the project's; else what it is called."""
    names = configuration.section("further", FurtherConfig).views
    hashes = {}
    for named in names:
        try:
            hashes[named] = code_hash(named.partition(":")[0])
        except ModuleNotFoundError:  # an installed package: its version is not known here
            hashes[named] = named
    return hashes


def write_further(configuration: Configuration, date: dt.date, out: Path) -> dict[str, int]:
    """Write `<table>.parquet` of each view into `out`; the number of rows of each.

    Raises ContractViolation if a row breaks the view's contract, or keys are not unique and rising.
    """
    return {
        view.table.name: write_rows(out / f"{view.table.name}.parquet", view.table, view.rows(configuration, date))
        for view in further_views(configuration)
    }

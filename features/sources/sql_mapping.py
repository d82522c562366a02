"""The part of `attractor.toml` that says where in a warehouse each column of the raw tables lies."""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from features.contracts import Table

Unit = Literal["s", "ms", "us", "ns"]
PER_SECOND: Mapping[Unit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class ColumnMapping:
    """Where one column of a contract comes from: a column of the warehouse's table, or SQL of your own.

    `zone` is the time zone of timestamps that carry none, `unit` what numbers since 1970 count.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    column: str = ""  # a column of the table
    sql: str = ""  # instead: an expression of your own
    zone: str = ""  # of timestamps that carry none, such as Europe/Vienna
    unit: Unit | None = None  # of whole numbers that count since 1970

    def __post_init__(self) -> None:
        if bool(self.column) == bool(self.sql):
            raise ValueError(f"expected either `column` or `sql`, got column {self.column!r} and sql {self.sql!r}")
        if self.zone and self.unit:
            raise ValueError("expected `zone` or `unit`, not both: numbers since 1970 are in UTC")
        if self.zone:
            try:
                zoneinfo.ZoneInfo(self.zone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
                raise ValueError(f"expected a time zone such as Europe/Vienna, got {self.zone!r}") from error

    def __str__(self) -> str:
        return self.column or self.sql


@dataclass(frozen=True)
class TableMapping:
    """Where one table of a contract comes from; what is left out is named there as it is in the contract.

    `where` is SQL of your own that the rows keep. A nullable column mapped to the empty text stays null.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    table: str = ""  # name in the warehouse; left out: as the raw table is called
    schema: str = ""  # where it lies; left out: where the database looks by itself
    where: str = ""  # SQL of your own that the rows keep
    # By the contract's name: a column, an expression, or "" for one that stays null
    columns: Mapping[str, str | ColumnMapping] = field(default_factory=dict)

    def place(self, contract: Table) -> str:
        """The table's name in the warehouse, with its schema where one is given."""
        return ".".join(filter(None, (self.schema, self.table or contract.name)))

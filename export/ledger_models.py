"""The ledger's table, typed; `export/migrations` makes it."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    Enum,
    Index,
    Integer,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from features.windows import Window

Figures = dict[str, Any]
"""What a stage tells of itself, as JSON values; a number that is not finite is stored as null."""


class State(enum.StrEnum):
    """How a run stands."""

    RUNNING = "running"  # an owner holds the claim
    DONE = "done"
    REFUSED = "refused"  # a gate said no: an answer, not a fault
    FAILED = "failed"  # it raised; `error` says what
    LOST = "lost"  # its owner was killed or stopped answering, and another run took over


VERSION_TABLE = "ledger_version"
"""Alembic's own name for it is taken where the database is Airflow's or MLflow's too."""

_RUNNING = text("state = 'running'")


class UtcDateTime(TypeDecorator[dt.datetime]):
    """Instants with their zone, in databases that keep zones (PostgreSQL) and in those that do not (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is not None and value.utcoffset() is None:
            raise ValueError(f"expected an instant with a time zone, got {value.isoformat()}")
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class Base(DeclarativeBase):
    """The metadata that migrations are compared with."""

    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads a plain class attribute
        Figures: JSON(),
        dt.datetime: UtcDateTime(),
        str: Text(),
        State: Enum(State, native_enum=False, length=8, values_callable=lambda states: [s.value for s in states]),
    }


class StageRun(Base):
    """One attempt at one stage of one subject, whatever became of it.

    The subject is a night's date, with the model where there is one, or the release or artifact that is judged.
    Attempts of a subject count from 1. At most one of them runs: the index over running rows is the claim.
    """

    __tablename__ = "ledger_runs"
    __table_args__ = (
        UniqueConstraint("scope", "stage", "subject", "attempt", name="one_row_an_attempt"),
        Index(
            "one_running_attempt",
            *("scope", "stage", "subject"),
            unique=True,
            sqlite_where=_RUNNING,
            postgresql_where=_RUNNING,
        ),
        Index("ledger_runs_by_window", "scope", "window_end"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    scope: Mapped[str]  # whose state directory: several may share one database
    stage: Mapped[str]
    subject: Mapped[str]
    window_start: Mapped[dt.datetime | None]  # none where a stage belongs to no night
    window_end: Mapped[dt.datetime | None]
    inputs: Mapped[Figures]  # what it was made of, by content hash
    inputs_sha256: Mapped[str]
    code_sha256: Mapped[str]
    attempt: Mapped[int]
    reason: Mapped[str]  # why it ran and was not re-used
    state: Mapped[State]
    host: Mapped[str]
    pid: Mapped[int]
    process: Mapped[str]  # tells the owner from a later process of the same number
    started_at: Mapped[dt.datetime]
    heartbeat_at: Mapped[dt.datetime]
    ended_at: Mapped[dt.datetime | None]
    seconds: Mapped[float | None] = mapped_column(Double)
    peak_memory_mb: Mapped[int | None]
    output_bytes: Mapped[int | None] = mapped_column(BigInteger)
    artifact: Mapped[str | None]  # where what it made lies, or its content address
    figures: Mapped[Figures | None]
    error: Mapped[str | None]

    @property
    def window(self) -> Window | None:
        """The night's window, if the stage belongs to one."""
        if self.window_start is None or self.window_end is None:
            return None
        return Window(self.window_start, self.window_end)

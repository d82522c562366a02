"""What a warehouse holds: its tables and views, those of the database's own housekeeping apart."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import URL
from sqlalchemy.engine.reflection import Inspector

from features.sources.sql_connection import transaction, translated

_HOUSEKEEPING = {"information_schema", "pg_catalog", "sys", "mysql", "performance_schema"}


def table_names(inspector: Inspector) -> Iterator[tuple[str | None, str]]:
    """Schema and name of every table and view, the default schema's first and without a schema."""
    default = inspector.default_schema_name
    others = set(inspector.get_schema_names()) - _HOUSEKEEPING - {default, "main"}
    for schema in (None, *sorted(others)):
        for name in sorted({*inspector.get_table_names(schema), *inspector.get_view_names(schema)}):
            yield schema, name


def described_tables(url: URL, *, most: int) -> list[str]:
    """One line for each of the first `most` tables and views: its place, and its columns with their types.

    Raises SourceLost where the warehouse cannot be reached.
    """
    with transaction(url) as (connection, _), translated("the catalogue of the warehouse", url):
        inspector = sa.inspect(connection)
        names = list(table_names(inspector))
        lines = [_described(inspector, schema, name) for schema, name in names[:most]]
    return lines + ([f"and {len(names) - most} more"] if len(names) > most else [])


def _described(inspector: Inspector, schema: str | None, name: str) -> str:
    columns = (f"{column['name']} {_type(column['type'])}" for column in inspector.get_columns(name, schema=schema))
    return f"{'.'.join(filter(None, (schema, name)))}: {', '.join(columns)}"


def _type(kind: sa.types.TypeEngine[object]) -> str:
    naive = isinstance(kind, sa.DateTime) and not kind.timezone
    return str(kind) + (" without a zone" if naive else "")

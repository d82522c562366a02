"""A market as a shop's database would hold it: with names, types and times of its own, and the mapping to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, REAL, TIMESTAMP

from features.configuration import Configuration
from features.contracts import RAW

VARIABLE = "TEST_WAREHOUSE_URL"

POSTGRESQL: Mapping[str, Any] = {
    "users": {
        "table": "customers",
        "schema": "shop",
        "columns": {"user_id": {"sql": "'u' || lpad(number::text, 7, '0')"}, "created_at": "registered"},
    },
    "items": {
        "table": "products",
        "schema": "shop",
        "columns": {
            "item_id": "sku",
            "title": "name",
            "category": "kind",
            "attributes": "tags",
            "picture": "vector",
            "created_at": "listed",
        },
    },
    "events": {
        "table": "clicks",
        "schema": "shop",
        "where": "NOT is_test",
        "columns": {
            "user_id": {"sql": "'u' || lpad(customer::text, 7, '0')"},
            "item_id": "sku",
            "event_at": "clicked",
            "query": "phrase",
        },
    },
    "social_edges": {
        "table": "follows",
        "schema": "shop",
        "columns": {"user_id": "who", "friend_id": "whom", "created_at": "since"},
    },
}
SQLITE: Mapping[str, Any] = {
    "users": {
        "table": "customers",
        "columns": {"user_id": {"sql": "printf('u%07d', number)"}, "created_at": {"column": "registered", "unit": "s"}},
    },
    "items": {
        "table": "products",
        "columns": {
            **POSTGRESQL["items"]["columns"],
            "created_at": {"column": "listed", "unit": "s"},
        },
    },
    "events": {
        "table": "clicks",
        "where": "NOT is_test",
        "columns": {
            "user_id": {"sql": "printf('u%07d', customer)"},
            "item_id": "sku",
            "event_at": {"column": "clicked", "zone": "UTC"},
            "query": "phrase",
        },
    },
    "social_edges": {
        "table": "follows",
        "columns": {"user_id": "who", "friend_id": "whom", "created_at": {"column": "since", "unit": "s"}},
    },
}


def fill(url: sa.URL, market: Path) -> dict[str, Any]:
    """Create the shop's tables with the rows of the Parquet directory `market`; the mapping that reads them back."""
    postgresql = url.get_backend_name() == "postgresql"
    engine = sa.create_engine(url)
    tables = _tables(postgresql)
    rows = {name: pq.read_table(market / f"{name}.parquet") for name in RAW}
    with engine.begin() as connection:
        if postgresql:
            connection.execute(sa.schema.CreateSchema("shop"))
        tables["events"].metadata.create_all(connection)
        for name, table in tables.items():
            values = [_row(name, row, postgresql) for row in rows[name].to_pylist()]
            connection.execute(table.insert(), values)
    engine.dispose()
    return dict(POSTGRESQL if postgresql else SQLITE)


def configured(directory: Path, tables: Mapping[str, Any], **source: Any) -> Configuration:
    """A configuration of the warehouse that the environment variable VARIABLE names."""
    section = {"kind": "sql", "url_variable": VARIABLE, "tables": tables, **source}
    return Configuration(directory / "attractor.toml", directory / "state", {"source": section})


def sorted_rows(*files: Path) -> list[dict[str, Any]]:
    """Rows of Parquet files whatever their order."""
    rows: list[dict[str, Any]] = pa.concat_tables(pq.read_table(file) for file in files).to_pylist()
    return sorted(rows, key=lambda row: json.dumps(row, default=str))


def _tables(postgresql: bool) -> dict[str, sa.Table]:
    metadata = sa.MetaData(schema="shop" if postgresql else None)
    moment: Any = TIMESTAMP(timezone=True) if postgresql else sa.Integer()
    text: Any = sa.Text()
    return {
        "users": sa.Table("customers", metadata, sa.Column("number", sa.Integer), sa.Column("registered", moment)),
        "items": sa.Table(
            "products",
            metadata,
            *(sa.Column(name, text) for name in ("sku", "name", "kind")),
            sa.Column("tags", ARRAY(sa.Text()) if postgresql else text),
            sa.Column("vector", ARRAY(REAL()) if postgresql else text),
            sa.Column("listed", moment),
        ),
        "events": sa.Table(
            "clicks",
            metadata,
            sa.Column("customer", sa.Integer),
            sa.Column("sku", text),
            sa.Column("clicked", moment if postgresql else sa.DateTime(), index=True),
            sa.Column("phrase", text),
            sa.Column("is_test", sa.Boolean, default=False),
        ),
        "social_edges": sa.Table(
            "follows", metadata, sa.Column("who", text), sa.Column("whom", text), sa.Column("since", moment)
        ),
    }


def _row(name: str, row: Mapping[str, Any], postgresql: bool) -> dict[str, Any]:
    def moment(value: Any) -> Any:
        return value if postgresql or value is None else int(value.timestamp())

    if name == "users":
        return {"number": int(row["user_id"][1:]), "registered": moment(row["created_at"])}
    if name == "events":
        clicked = row["event_at"] if postgresql else row["event_at"].replace(tzinfo=None)
        return {
            "customer": int(row["user_id"][1:]),
            "sku": row["item_id"],
            "clicked": clicked,
            "phrase": row["query"],
        }
    if name == "social_edges":
        return {"who": row["user_id"], "whom": row["friend_id"], "since": moment(row["created_at"])}
    lists = {"tags": row["attributes"], "vector": row["picture"]}
    return {
        "sku": row["item_id"],
        "name": row["title"],
        "kind": row["category"],
        "listed": moment(row["created_at"]),
        **(
            lists if postgresql else {key: None if value is None else json.dumps(value) for key, value in lists.items()}
        ),
    }

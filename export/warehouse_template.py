"""What `attractor init --source sql` writes: a configuration to fill in, each line of it with its meaning."""

from __future__ import annotations

import os
from collections.abc import Sequence

from features.files import sha256_of_json

MOST_TABLES = 200
"""Tables that are listed at the end of the file."""

_TEMPLATE = """\
# Written by `attractor init`. Paths are relative to this file. A setting left out keeps its default.
# docs/sql-source.md says more about every line of [source].
state = "{state}"

[source]  # the warehouse; nothing in this file is secret
kind = "sql"
url_variable = "{variable}"  # this environment variable holds dialect://user:password@host:port/database
# connection = "warehouse"       # instead of url_variable: the Airflow connection of this name
lateness = "2d"                  # an event may arrive this long after its own time: such days are read again
# on_violation = "quarantine"    # set bad rows aside instead of landing nothing
# isolation = "SNAPSHOT"         # neither PostgreSQL nor SQLite: a level at which a transaction sees one state

# One section a table. Left side: the name here. Right side, one of:
#   "column"                                  a column of the table, checked and quoted
#   {{ sql = "expression" }}                    SQL of your own, sent as it is written
#   {{ column = "clicked", zone = "UTC" }}      timestamps without a time zone, and the zone they are in
#   {{ column = "clicked", unit = "ms" }}       whole numbers since 1970 in s, ms, us or ns
#   ""                                        nothing: the column stays null, where it may
# A column left out is read from one of the same name; where there is none and it may be null, it is null.

[source.tables.users]  # one row per user
table = "users"
# schema = "shop"
# where = "deleted_at IS NULL"

[source.tables.users.columns]
user_id = "user_id"        # text, whole number or UUID; unique
created_at = "created_at"  # when the user joined; may be null: always known

[source.tables.items]  # one row per item
table = "items"

[source.tables.items.columns]
item_id = "item_id"        # text, whole number or UUID; unique
title = "title"            # may be null, as all below
category = "category"
attributes = ""            # list of text: an array, JSON, or text that holds JSON
picture = ""               # list of numbers, of one length: a vector that you computed
created_at = "created_at"

[source.tables.events]  # one row per action of a user on an item
table = "events"

[source.tables.events.columns]
user_id = "user_id"        # one of users
item_id = "item_id"        # one of items
event_at = "event_at"      # when; an index on this column keeps a night's window cheap
query = ""                 # the search that led there

[source.tables.social_edges]  # one row per pair of friends, either direction or both; a view without rows if none
table = "social_edges"

[source.tables.social_edges.columns]
user_id = "user_id"        # one of users
friend_id = "friend_id"    # another of users
created_at = ""            # when they connected; null: always known

[training]  # held-out days before the date: features/training_sets.py, SplitConfig
validation_days = 7
test_days = 7
"""


def warehouse_template(variable: str, *, state: str | None = None, holds: Sequence[str] = ()) -> str:
    """The TOML text, for a URL in the environment variable `variable`; by default the state is named by it.

    `holds` are lines that say what tables the warehouse has; they follow as comments.
    """
    text = _TEMPLATE.format(variable=variable, state=state or f".attractor/sql-{sha256_of_json(variable)[:8]}")
    found = "".join(f"#   {line}\n" for line in holds)
    return text + (f"\n# Tables that the warehouse had when this was written:\n{found}" if found else "")


def warehouse_text(variable: str, *, state: str | None = None) -> str:
    """The same, with what the warehouse holds where `variable` is set. Raises SourceLost if it cannot be reached."""
    holds: Sequence[str] = ()
    if os.environ.get(variable):
        from features.sources.sql_catalogue import described_tables
        from features.sources.sql_connection import warehouse_url

        holds = described_tables(warehouse_url(variable), most=MOST_TABLES)
    return warehouse_template(variable, state=state, holds=holds)

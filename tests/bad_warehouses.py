"""Mappings and rows of a warehouse that do not fit, and what is said of each."""

from __future__ import annotations

from typing import Any

BAD_MAPPINGS: list[tuple[dict[str, Any], str]] = [
    ({"event_at": "clickd"}, r"\[source\.tables\.events\] shop\.clicks has no column 'clickd', .*it has clicked, "),
    ({"event_at": "phrase"}, r"column phrase is TEXT, but event_at needs timestamps"),
    ({"event_at": "customer"}, r"column customer is INTEGER, but event_at needs timestamps, or whole numbers"),
    ({"item_id": "clicked"}, r"column clicked is TIMESTAMP, but item_id needs text, whole numbers or UUIDs"),
    ({"item_id": ""}, r"shop\.clicks: item_id must come from a column or an expression"),
    ({"item": "sku"}, r"\[source\.tables\.events\] has no column 'item'; it has user_id, item_id, event_at, query"),
    ({"item_id": {"sql": "skuu"}}, r'table shop\.clicks: .*column "skuu" does not exist'),
    ({"item_id": {"sql": "sku::int"}}, r"table shop\.clicks: invalid input syntax for type integer"),
    ({"query": {"column": "phrase", "zone": "UTC"}}, r"query is not a timestamp"),
]

BAD_ROWS: list[tuple[str, dict[str, Any], str]] = [
    (
        "ALTER TABLE shop.clicks ALTER clicked TYPE timestamp",
        {},
        r"table 'events', column 'event_at', row 0: expected a timestamp with a time zone, or the zone it is in, "
        r"as zone = \"UTC\", in clicked of shop\.clicks, got datetime.*; the row: user_id u00000\d\d, item_id i0000",
    ),
    (
        "INSERT INTO shop.clicks VALUES (NULL, 'i000001', '2026-01-05 12:00Z', NULL, false)",
        {},
        r"table 'events', column 'user_id', row \d+: expected a value, not null, got None; "
        r"the row: user_id None, item_id i000001, event_at 2026-01-05 12:00:00",
    ),
    (
        "INSERT INTO shop.clicks VALUES (1, 'i000001', NULL, NULL, false)",
        {},
        r"table 'events', column 'event_at', row \d+: expected a value, not null, got None; the row: user_id u0000001",
    ),
    (
        "INSERT INTO shop.clicks VALUES (77777, 'i000001', '2026-01-05 12:00Z', NULL, false)",
        {},
        r"table 'events', column 'user_id', row \d+: expected one of users\.user_id, got 'u0077777'; the row: ",
    ),
    (
        "INSERT INTO shop.customers VALUES (NULL, now())",
        {},
        r"table 'users', column 'user_id', row 60: expected a value, not null",
    ),
    (
        "INSERT INTO shop.customers SELECT * FROM shop.customers",
        {},
        r"table 'users', column 'user_id', row 60: expected a key that no earlier row has, got 'u",
    ),
    (
        "INSERT INTO shop.follows VALUES (NULL, 'u0000001')",
        {},
        r"table 'social_edges', column 'user_id', row \d+: expected a value, not null",
    ),
    (
        "SELECT 1",
        {"event_at": {"sql": "clicked::text"}},
        r"table shop\.clicks: operator does not exist: text < timestamp with time zone",
    ),
    (
        "SELECT 1",
        {"event_at": {"column": "clicked", "zone": "Europe/Vienna"}},
        r"expected timestamps without a time zone, because `zone` names one, in clicked of shop\.clicks",
    ),
    (
        "ALTER TABLE shop.clicks ALTER clicked TYPE timestamp; "
        "INSERT INTO shop.clicks VALUES (1, 'i000001', '2025-10-26 02:30', NULL, false)",
        {"event_at": {"column": "clicked", "zone": "Europe/Vienna"}},
        r"expected times that Europe/Vienna has once; `sql` can say which is meant, .*02:30:00.* is ambiguous",
    ),
    ("SELECT 1", {"query": {"sql": "customer"}}, r"column 'query', all rows: expected type string, got 'type int64'"),
    (
        "UPDATE shop.clicks SET clicked = '-infinity' WHERE sku = (SELECT min(sku) FROM shop.clicks)",
        {},
        r"table shop\.clicks, after \d+ rows: .*infinity",
    ),
]

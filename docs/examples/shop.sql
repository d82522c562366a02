-- A shop to try docs/getting-started.md on, with names and types of its own. PostgreSQL:
--   psql "$WAREHOUSE_URL" -f docs/examples/shop.sql
-- Customers click and order mostly in two departments that they like, and follow people who like the same.
\set ON_ERROR_STOP on
\if :{?customers} \else \set customers 1000 \endif
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0; -- with the seed: the same shop every time
DO $$ BEGIN PERFORM setseed(0.42); END $$;
CREATE SCHEMA shop;

CREATE TABLE shop.customers (
    customer_no bigint PRIMARY KEY,
    signed_up timestamptz NOT NULL,
    is_staff boolean NOT NULL
);
INSERT INTO shop.customers
SELECT n, timestamptz '2025-01-01 00:00Z' + random() * interval '365 days', n % 100 = 0
FROM generate_series(1, :customers) AS n;

CREATE TABLE shop.products (
    sku text PRIMARY KEY,
    name text NOT NULL,
    department text NOT NULL,
    details jsonb NOT NULL, -- {"materials": ["linen", …]}
    listed_at timestamptz NOT NULL
);
INSERT INTO shop.products
SELECT
    'P-' || lpad(n::text, 5, '0'),
    initcap(colour || ' ' || material || ' ' || things[1 + n % 3]),
    department,
    jsonb_build_object('materials', jsonb_build_array(material), 'colour', colour),
    timestamptz '2025-06-01 00:00Z' + random() * interval '180 days'
FROM generate_series(1, 200 + :customers / 5) AS n
CROSS JOIN LATERAL (SELECT 1 + n % 6 AS d, 1 + (random() * 4 + n * 0)::int AS c, 1 + (random() * 4 + n * 0)::int AS m) AS drawn
CROSS JOIN LATERAL (
    SELECT
        (ARRAY['garden', 'kitchen', 'running', 'reading', 'music', 'baby'])[d] AS department,
        (ARRAY['red', 'blue', 'green', 'black', 'white'])[c] AS colour,
        (ARRAY['wood', 'steel', 'linen', 'wool', 'cork'])[m] AS material,
        (ARRAY[
            ['hose', 'rake', 'pot'], ['pan', 'knife', 'bowl'], ['shoe', 'belt', 'cap'],
            ['lamp', 'shelf', 'stand'], ['drum', 'case', 'strap'], ['cot', 'toy', 'blanket']
        ])[d:d][:] AS thing
) AS named
CROSS JOIN LATERAL (SELECT ARRAY(SELECT unnest(thing)) AS things) AS flat;

CREATE TABLE shop.clicks (
    customer_no bigint NOT NULL REFERENCES shop.customers,
    sku text NOT NULL REFERENCES shop.products,
    clicked_at timestamp NOT NULL, -- UTC, without saying so
    phrase text NOT NULL -- what was searched for; '' where nothing was
);
INSERT INTO shop.clicks
SELECT
    customer_no,
    sku,
    timestamp '2026-01-01' + random() * interval '60 days',
    CASE WHEN random() < 0.4 THEN lower(split_part(name, ' ', 2) || ' ' || department) ELSE '' END
FROM (
    SELECT
        customer_no,
        -- the department: the first or the second of two in eight cases of ten, else any
        CASE WHEN random() < 0.8 THEN (customer_no + (random() < 0.25)::int) % 6 ELSE floor(random() * 6) END AS liked,
        -- the place in it: the first ones far more often than the last
        floor(power(random(), 2) * ((200 + :customers / 5) / 6))::int AS place
    FROM shop.customers, generate_series(1, 24)
) AS visit
JOIN shop.products ON sku = 'P-' || lpad((1 + place * 6 + liked)::int::text, 5, '0');
CREATE INDEX ON shop.clicks (clicked_at);

CREATE TABLE shop.orders (
    order_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_no bigint NOT NULL REFERENCES shop.customers,
    sku text NOT NULL REFERENCES shop.products,
    ordered_at timestamptz NOT NULL
);
INSERT INTO shop.orders (customer_no, sku, ordered_at)
SELECT customer_no, sku, (clicked_at AT TIME ZONE 'UTC') + interval '7 minutes' FROM shop.clicks WHERE random() < 0.1;
CREATE INDEX ON shop.orders (ordered_at);

CREATE TABLE shop.follows (
    follower bigint NOT NULL REFERENCES shop.customers,
    followed bigint NOT NULL REFERENCES shop.customers,
    since timestamptz NOT NULL,
    PRIMARY KEY (follower, followed)
);
INSERT INTO shop.follows
SELECT follower, followed, timestamptz '2025-12-01 00:00Z' + random() * interval '60 days'
FROM (
    SELECT
        customer_no AS follower,
        -- eight of ten like the same first department
        CASE
            WHEN random() < 0.8 THEN 1 + (customer_no - 1) % 6 + 6 * floor(random() * (:customers / 6))::int
            ELSE 1 + floor(random() * :customers)::int
        END AS followed
    FROM shop.customers, generate_series(1, 6)
) AS drawn
WHERE follower <> followed
ON CONFLICT DO NOTHING;
COMMIT;
ANALYZE shop.clicks, shop.orders, shop.follows;

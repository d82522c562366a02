-- What the social-alignment check reads, as known strictly before $as_of: users and items as numbers, friendships
-- once, and histories only of users that are asked about. A hash draws, so that no order of rows or threads shows.
CREATE TEMP TABLE nodes AS
SELECT user_id, row_number() OVER (ORDER BY user_id) - 1 AS node FROM read_parquet($users)
WHERE created_at IS NULL OR created_at < $as_of;

CREATE TEMP TABLE things AS
SELECT item_id, row_number() OVER (ORDER BY item_id) - 1 AS thing FROM read_parquet($items)
WHERE created_at IS NULL OR created_at < $as_of;

CREATE TEMP TABLE friendships AS
SELECT DISTINCT least(a.node, b.node) AS one, greatest(a.node, b.node) AS other
FROM read_parquet($social_edges) AS edges
JOIN nodes AS a ON a.user_id = edges.user_id
JOIN nodes AS b ON b.user_id = edges.friend_id
WHERE a.node <> b.node AND (created_at IS NULL OR created_at < $as_of);

CREATE TEMP TABLE degrees AS
SELECT node, count(*) AS degree FROM (SELECT one AS node FROM friendships UNION ALL SELECT other FROM friendships)
GROUP BY node;

-- Distinct first, and joined with the few items that are not known rather than with all that are.
CREATE TEMP TABLE active AS
WITH actors AS (
    SELECT DISTINCT user_id FROM read_parquet($events)
    ANTI JOIN (SELECT item_id FROM read_parquet($items) WHERE created_at >= $as_of) USING (item_id)
    WHERE event_at < $as_of
)
SELECT node FROM actors JOIN nodes USING (user_id);

CREATE TEMP TABLE drawn_pairs AS
FROM friendships ORDER BY hash(one, other, $seed), one, other LIMIT $most_pairs;

CREATE TEMP TABLE drawn_users AS
SELECT node, degree FROM degrees SEMI JOIN active USING (node)
ORDER BY hash(node, $seed), node LIMIT $most_users;

CREATE TEMP TABLE asked AS
SELECT node, user_id FROM nodes
SEMI JOIN (SELECT one AS node FROM drawn_pairs UNION SELECT other FROM drawn_pairs UNION SELECT node FROM drawn_users)
USING (node);

CREATE TEMP TABLE interactions AS
SELECT DISTINCT node, thing FROM read_parquet($events)
JOIN asked USING (user_id) JOIN things USING (item_id)
WHERE event_at < $as_of;

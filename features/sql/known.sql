-- Everything as it was known strictly before $as_of. What a row refers to must be known too.

CREATE TEMP TABLE users AS
SELECT user_id FROM read_parquet($users)
WHERE created_at IS NULL OR created_at < $as_of;

CREATE TEMP TABLE items AS
SELECT item_id, title, category, attributes, picture FROM read_parquet($items)
WHERE created_at IS NULL OR created_at < $as_of;

-- `tie` orders events of one instant: a hash of the pair, so that no order of ids or of files shows in a history.
CREATE TEMP TABLE events AS
SELECT user_id, item_id, event_at, coalesce(query, '') AS query, md5_number_lower(user_id || chr(10) || item_id) AS tie
FROM read_parquet($events)
SEMI JOIN users USING (user_id)
SEMI JOIN items USING (item_id)
WHERE event_at < $as_of;

CREATE TEMP TABLE interactions AS
SELECT DISTINCT user_id, item_id FROM events;

CREATE TEMP TABLE friendships AS
WITH edges AS (
    SELECT user_id, friend_id FROM read_parquet($social_edges)
    WHERE created_at IS NULL OR created_at < $as_of
),
both_ways AS (
    SELECT user_id, friend_id FROM edges
    UNION
    SELECT friend_id, user_id FROM edges
)
SELECT user_id, friend_id FROM both_ways
SEMI JOIN users USING (user_id)
SEMI JOIN (SELECT user_id AS friend_id FROM users) USING (friend_id)
WHERE user_id <> friend_id;

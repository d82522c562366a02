-- The first action of each user on each item from $start on, in the order that histories have.
SELECT user_id, item_id, query, event_at FROM events
WHERE event_at >= $start AND event_at < $end
QUALIFY row_number() OVER (PARTITION BY user_id, item_id ORDER BY event_at, query) = 1
ORDER BY user_id, event_at, tie, item_id

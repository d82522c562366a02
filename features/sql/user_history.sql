WITH numbered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY user_id ORDER BY event_at DESC, tie DESC, item_id DESC, query DESC) AS age,
        count(*) OVER (PARTITION BY user_id) AS user_event_count
    FROM events
)
SELECT
    user_id,
    $as_of AS event_timestamp,
    list(item_id ORDER BY age DESC) AS item_ids,
    list(query ORDER BY age DESC) AS queries,
    list(event_at ORDER BY age DESC) AS event_times,
    count(*) AS history_length,
    max(user_event_count) AS user_event_count
FROM numbered
WHERE age <= $history_length
GROUP BY user_id
ORDER BY user_id

-- Lists are sorted as values: an aggregate's own ORDER BY another column takes about 40 KB a group, and cannot spill.
WITH numbered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY user_id ORDER BY event_at DESC, tie DESC, item_id DESC, query DESC) AS age,
        count(*) OVER (PARTITION BY user_id) AS user_event_count
    FROM events
),
listed AS (
    SELECT
        user_id,
        list_sort(list({'at': -age, 'item_id': item_id, 'query': query, 'event_at': event_at})) AS history,
        max(user_event_count) AS user_event_count
    FROM numbered
    WHERE age <= $history_length
    GROUP BY user_id
)
SELECT
    user_id,
    $as_of AS event_timestamp,
    list_transform(history, lambda event: event.item_id) AS item_ids,
    list_transform(history, lambda event: event.query) AS queries,
    list_transform(history, lambda event: event.event_at) AS event_times,
    len(history) AS history_length,
    user_event_count
FROM listed
ORDER BY user_id

-- Lists are sorted as values: an aggregate's own ORDER BY another column takes about 40 KB a group, and cannot spill.
WITH consumer_lists AS (
    SELECT item_id, list(user_id ORDER BY user_id) AS consumer_ids FROM interactions GROUP BY item_id
),
similar_lists AS (
    SELECT
        node AS item_id,
        list_transform(list_sort(list({'far': -similarity, 'other': other})), lambda near: near.other) AS similar_item_ids
    FROM similar_items GROUP BY node
)
SELECT
    item_id,
    $as_of AS event_timestamp,
    coalesce(consumer_ids, []) AS consumer_ids,
    coalesce(similar_item_ids, []) AS similar_item_ids,
    coalesce(len(consumer_ids), 0) AS consumer_count,
    coalesce(len(similar_item_ids), 0) AS similar_item_count
FROM items
LEFT JOIN consumer_lists USING (item_id)
LEFT JOIN similar_lists USING (item_id)
ORDER BY item_id

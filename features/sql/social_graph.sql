-- Lists are sorted as values: an aggregate's own ORDER BY another column takes about 40 KB a group, and cannot spill.
WITH friend_lists AS (
    SELECT user_id, list(friend_id ORDER BY friend_id) AS friend_ids FROM friendships GROUP BY user_id
),
similar_lists AS (
    SELECT
        node AS user_id,
        list_transform(list_sort(list({'far': -similarity, 'other': other})), lambda near: near.other) AS similar_user_ids
    FROM similar_users GROUP BY node
)
SELECT
    user_id,
    $as_of AS event_timestamp,
    coalesce(friend_ids, []) AS friend_ids,
    coalesce(similar_user_ids, []) AS similar_user_ids,
    coalesce(len(friend_ids), 0) AS friend_count,
    coalesce(len(similar_user_ids), 0) AS similar_user_count
FROM users
LEFT JOIN friend_lists USING (user_id)
LEFT JOIN similar_lists USING (user_id)
ORDER BY user_id

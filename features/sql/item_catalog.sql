-- Lists are sorted as values: an aggregate's own ORDER BY another column takes about 40 KB a group, and cannot spill.
WITH counted AS (
    SELECT item_id, count(*) AS item_event_count FROM events GROUP BY item_id
),
tags_given AS (
    SELECT item_id, query AS tag, count(*) AS uses FROM events
    WHERE $tags_from_queries AND query <> ''
    GROUP BY item_id, query
    QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY uses DESC, tag) <= $tags_per_item
),
tags_listed AS (
    SELECT item_id, list_transform(list_sort(list({'rare': -uses, 'tag': tag})), lambda given: given.tag) AS tags
    FROM tags_given GROUP BY item_id
),
described AS (
    SELECT
        item_id,
        coalesce(title, '') AS title,
        coalesce(category, '') AS category,
        coalesce(attributes, []) AS attributes,
        list_filter(coalesce(tags, []), lambda tag: NOT list_contains(coalesce(attributes, []), tag)) AS other_tags,
        picture,
        coalesce(item_event_count, 0) AS item_event_count
    FROM items
    LEFT JOIN counted USING (item_id)
    LEFT JOIN tags_listed USING (item_id)
)
SELECT
    item_id,
    $as_of AS event_timestamp,
    title,
    category,
    attributes || other_tags AS tags,
    concat_ws('; ', nullif(category, ''), nullif(array_to_string(attributes || other_tags, ', '), ''), nullif(title, '')) AS text,
    picture,
    item_event_count
FROM described
ORDER BY item_id

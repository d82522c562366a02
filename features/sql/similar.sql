-- DICER eq. 1 by self join on what two nodes share: sim(a, b) = |R(a) ∩ R(b)| / sqrt(|R(a)| · |R(b)|) >= threshold.
-- What more than max_degree nodes share stays out of the intersection, because it costs the square of their number.
CREATE TEMP MACRO similar_nodes(memberships, threshold, top_k, max_degree) AS TABLE
WITH sizes AS (
    SELECT node, count(*) AS size FROM query_table(memberships) GROUP BY node
),
joinable AS (
    SELECT node, shared FROM query_table(memberships)
    QUALIFY count(*) OVER (PARTITION BY shared) <= max_degree
),
pairs AS (
    SELECT a.node, b.node AS other, count(*) AS overlap
    FROM joinable AS a JOIN joinable AS b ON a.shared = b.shared AND a.node <> b.node
    GROUP BY a.node, b.node
),
similarities AS (
    SELECT o.node, o.other, o.overlap / sqrt(s.size * t.size) AS similarity
    FROM pairs AS o
    JOIN sizes AS s ON s.node = o.node
    JOIN sizes AS t ON t.node = o.other
)
SELECT node, other, similarity FROM similarities
WHERE similarity >= threshold
QUALIFY row_number() OVER (PARTITION BY node ORDER BY similarity DESC, other) <= top_k;

CREATE TEMP VIEW user_items AS SELECT user_id AS node, item_id AS shared FROM interactions;
CREATE TEMP VIEW item_users AS SELECT item_id AS node, user_id AS shared FROM interactions;

CREATE TEMP TABLE similar_users AS FROM similar_nodes('user_items', $threshold, $top_k, $max_degree);
CREATE TEMP TABLE similar_items AS FROM similar_nodes('item_users', $threshold, $top_k, $max_degree);

-- DICER eq. 1 by self join on what two nodes share: sim(a, b) = |R(a) ∩ R(b)| / sqrt(|R(a)| · |R(b)|) >= threshold.
-- What more than max_degree nodes share stays out of the intersection, because it costs the square of their number.
-- Nodes are numbered for the join, where a pair costs its width.
CREATE TEMP MACRO similar_nodes(memberships, threshold, top_k, max_degree) AS TABLE
WITH nodes AS (
    SELECT node, row_number() OVER (ORDER BY node)::INTEGER AS number, count(*) AS size FROM query_table(memberships) GROUP BY node
),
joinable AS (
    SELECT number, shared FROM query_table(memberships) JOIN nodes USING (node)
    QUALIFY count(*) OVER (PARTITION BY shared) <= max_degree
),
pairs AS (
    SELECT a.number AS one, b.number AS other, count(*) AS overlap
    FROM joinable AS a JOIN joinable AS b ON a.shared = b.shared AND a.number < b.number
    GROUP BY one, other
),
similarities AS (
    SELECT a.node AS one, b.node AS other, overlap / sqrt(a.size * b.size) AS similarity
    FROM pairs
    JOIN nodes AS a ON a.number = pairs.one
    JOIN nodes AS b ON b.number = pairs.other
    WHERE similarity >= threshold
)
SELECT one AS node, other, similarity FROM (FROM similarities UNION ALL SELECT other, one, similarity FROM similarities)
QUALIFY row_number() OVER (PARTITION BY node ORDER BY similarity DESC, other) <= top_k;

CREATE TEMP VIEW user_items AS SELECT user_id AS node, item_id AS shared FROM interactions;
CREATE TEMP VIEW item_users AS SELECT item_id AS node, user_id AS shared FROM interactions;

CREATE TEMP TABLE similar_users AS FROM similar_nodes('user_items', $threshold, $top_k, $max_degree);
CREATE TEMP TABLE similar_items AS FROM similar_nodes('item_users', $threshold, $top_k, $max_degree);

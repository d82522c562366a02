-- How many items and users `similar.sql` leaves out of intersections.
WITH audiences AS (SELECT count(*) AS degree FROM interactions GROUP BY item_id),
histories AS (SELECT count(*) AS degree FROM interactions GROUP BY user_id)
SELECT
    (SELECT count(*) FROM audiences WHERE degree > $max_degree) AS items,
    (SELECT count(*) FROM histories WHERE degree > $max_degree) AS users

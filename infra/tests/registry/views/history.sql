-- Stand-in for a view of two tables.

-- Not part of the description.
SELECT environment FROM ${events} UNION ALL SELECT environment FROM ${models}

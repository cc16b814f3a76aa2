-- Every registered version of every environment, with what became of it: the aliases that point to it now (is it in use?),
-- who promoted it when, and since when it is retired.
WITH named AS (
  SELECT environment, model_name, model_version, ARRAY_AGG(alias ORDER BY alias) AS aliases
  FROM (
    SELECT environment, model_name, model_version, alias
    FROM ${events}
    WHERE sequence IS NOT NULL
    QUALIFY sequence = MAX(sequence) OVER (PARTITION BY environment, model_name, alias) AND model_version IS NOT NULL
  )
  GROUP BY environment, model_name, model_version
), fate AS (
  SELECT
    environment,
    model_name,
    model_version,
    MAX(IF(event_type = 'promoted', event_timestamp, NULL)) AS promoted_timestamp,
    MAX(IF(event_type = 'promoted', actor, NULL)) AS promoted_by,
    MAX(IF(event_type = 'retired', event_timestamp, NULL)) AS retired,
    MAX(IF(event_type = 'reinstated', event_timestamp, NULL)) AS reinstated
  FROM ${events}
  WHERE sequence IS NULL
  GROUP BY environment, model_name, model_version
)
SELECT
  version.*,
  IFNULL(named.aliases, ARRAY<STRING>[]) AS aliases,
  fate.promoted_timestamp,
  fate.promoted_by,
  IF(fate.reinstated > fate.retired, NULL, fate.retired) AS retired_timestamp
FROM ${models} AS version
LEFT JOIN named
ON version.environment = named.environment AND version.model_name = named.model_name AND version.model_version = named.model_version
LEFT JOIN fate
ON version.environment = fate.environment AND version.model_name = fate.model_name AND version.model_version = fate.model_version

-- What each alias points to now, one row per environment, model and alias: since when (valid_from), by whom and why.
SELECT
  environment,
  model_name,
  alias,
  model_version,
  event_timestamp AS valid_from,
  event_type,
  previous_version,
  actor,
  reason,
  sequence
FROM ${events}
WHERE sequence IS NOT NULL
QUALIFY sequence = MAX(sequence) OVER (PARTITION BY environment, model_name, alias) AND model_version IS NOT NULL

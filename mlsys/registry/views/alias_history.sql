-- What each alias pointed to at any moment, one row per assignment. Which version was champion at moment T:
-- WHERE alias = 'champion' AND valid_from <= T AND (valid_to > T OR valid_to IS NULL). The current ones have no valid_to.
SELECT
  environment,
  model_name,
  alias,
  model_version,
  event_timestamp AS valid_from,
  LEAD(event_timestamp) OVER (PARTITION BY environment, model_name, alias ORDER BY sequence) AS valid_to,
  event_type,
  previous_version,
  actor,
  reason,
  sequence
FROM ${events}
WHERE sequence IS NOT NULL
QUALIFY model_version IS NOT NULL

-- Everything that happened to the models of every environment, one row per event: the table events, and a registration
-- (event_type registered) for each row of the table models.

-- A registration is no row of events: it would be a second statement beside the MERGE into models, and a function that
-- dies between the two would leave one without the other. Made from models, it is there exactly once, and is never late.
SELECT
  event_id,
  event_timestamp,
  event_type,
  environment,
  model_name,
  model_version,
  alias,
  previous_version,
  actor,
  reason,
  sequence,
  details
FROM ${events}
UNION ALL
SELECT
  CONCAT('registered-', environment, '-', model_name, '-', model_version),
  upload_timestamp,
  'registered',
  environment,
  model_name,
  model_version,
  CAST(NULL AS STRING),
  CAST(NULL AS STRING),
  COALESCE(uploader, creator),
  NULLIF(description, ''),
  CAST(NULL AS INT64),
  PARSE_JSON(TO_JSON_STRING(STRUCT(gcs_uri, manifest_sha256, promoted_from)))
FROM ${models}

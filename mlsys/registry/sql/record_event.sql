-- One more event. Nothing in this statement keeps two of them apart: in BigQuery an INSERT never conflicts with another,
-- nor does a MERGE that only inserts. The id of its job does (see mlsys/registry/aliases.py).
-- @after is the time of the alias's last move: the next one is later, whatever the clocks say.
INSERT INTO ${events} (
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
) VALUES (
  @event_id,
  COALESCE(GREATEST(CURRENT_TIMESTAMP(), TIMESTAMP_ADD(@after, INTERVAL 1 MICROSECOND)), CURRENT_TIMESTAMP()),
  @event_type,
  @environment,
  @model_name,
  @model_version,
  @alias,
  @previous_version,
  @actor,
  @reason,
  @sequence,
  PARSE_JSON(@details)
)

-- One row per environment, model and version. Events repeat and arrive in any order, so the outcome must not depend
-- on that: the first manifest that was written (the lowest generation) is the one that counts.
-- PARSE_JSON refuses a number that does not survive its own reading and writing (67.174118 is one), so metrics and
-- signature come a second time with their numbers as text, which JSON_VALUE returns like the others.
MERGE ${models} AS target
USING (
  SELECT
    @environment AS environment,
    @model_name AS model_name,
    @model_version AS model_version,
    @upload_timestamp AS upload_timestamp,
    @file_size AS file_size,
    @uploader AS uploader,
    @gcs_uri AS gcs_uri,
    @manifest_generation AS manifest_generation,
    @manifest_sha256 AS manifest_sha256,
    @artifacts AS artifacts,
    @created_timestamp AS created_timestamp,
    @creator AS creator,
    @description AS description,
    @git_commit AS git_commit,
    @task AS task,
    COALESCE(SAFE.PARSE_JSON(@metrics), PARSE_JSON(@metrics_as_text)) AS metrics,
    COALESCE(SAFE.PARSE_JSON(@signature), PARSE_JSON(@signature_as_text)) AS signature,
    @training_query AS training_query,
    @training_rows AS training_rows,
    @python_version AS python_version,
    PARSE_JSON(@packages) AS packages
) AS source
ON target.environment = source.environment
  AND target.model_name = source.model_name
  AND target.model_version = source.model_version
WHEN MATCHED AND source.manifest_generation < target.manifest_generation THEN UPDATE SET
  upload_timestamp = source.upload_timestamp,
  file_size = source.file_size,
  uploader = source.uploader,
  gcs_uri = source.gcs_uri,
  manifest_generation = source.manifest_generation,
  manifest_sha256 = source.manifest_sha256,
  artifacts = source.artifacts,
  created_timestamp = source.created_timestamp,
  creator = source.creator,
  description = source.description,
  git_commit = source.git_commit,
  task = source.task,
  metrics = source.metrics,
  signature = source.signature,
  training_query = source.training_query,
  training_rows = source.training_rows,
  python_version = source.python_version,
  packages = source.packages
WHEN NOT MATCHED THEN INSERT (
  environment,
  model_name,
  model_version,
  upload_timestamp,
  file_size,
  uploader,
  gcs_uri,
  manifest_generation,
  manifest_sha256,
  artifacts,
  created_timestamp,
  creator,
  description,
  git_commit,
  task,
  metrics,
  signature,
  training_query,
  training_rows,
  python_version,
  packages
) VALUES (
  source.environment,
  source.model_name,
  source.model_version,
  source.upload_timestamp,
  source.file_size,
  source.uploader,
  source.gcs_uri,
  source.manifest_generation,
  source.manifest_sha256,
  source.artifacts,
  source.created_timestamp,
  source.creator,
  source.description,
  source.git_commit,
  source.task,
  source.metrics,
  source.signature,
  source.training_query,
  source.training_rows,
  source.python_version,
  source.packages
)

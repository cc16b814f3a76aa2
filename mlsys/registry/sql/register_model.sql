-- One row per environment, model and version. Events repeat and arrive in any order, so the outcome must not depend
-- on that: the first manifest that was written (the lowest generation) is the one that counts.
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
    PARSE_JSON(@metrics) AS metrics,
    PARSE_JSON(@signature) AS signature,
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
WHEN NOT MATCHED THEN INSERT ROW

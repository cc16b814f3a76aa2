-- Where the predictions came from, one row per slice of an output table (output_table, model_name, as_of): the run that
-- published it last, the version that scored it, and the query and commit that trained that version. Rows of the output
-- table carry the same run_id.
WITH published AS (
  SELECT *
  FROM ${runs}
  WHERE status = 'succeeded'
  QUALIFY ROW_NUMBER() OVER (PARTITION BY run_id ORDER BY prediction_timestamp DESC, started_timestamp DESC) = 1
)
SELECT
  run.environment,
  run.output_table,
  run.model_name,
  run.as_of,
  run.run_id,
  run.execution,
  run.prediction_timestamp,
  run.finished_timestamp,
  run.source,
  run.input_rows,
  run.scored_rows,
  run.rejected_rows,
  run.image,
  run.git_commit AS run_git_commit,
  run.model_version,
  run.model_sha256,
  version.manifest_sha256,
  version.gcs_uri,
  version.promoted_from,
  version.created_timestamp AS trained_timestamp,
  version.creator AS trained_by,
  version.training_query,
  version.training_rows,
  version.git_commit AS training_git_commit
FROM published AS run
LEFT JOIN ${models} AS version
ON run.environment = version.environment AND run.model_name = version.model_name AND run.model_version = version.model_version

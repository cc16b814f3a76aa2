# Two accounts per model, each in reach of what it needs and no more: {model}-dag-sa-{env} scores and publishes,
# {model}-api-sa-{env} answers HTTP requests, from anybody in dev and staging, so it can write nothing.

module "job_accounts" {
  source   = "./modules/model_service_account"
  for_each = local.models

  environment      = var.environment
  inputs           = coalesce(each.value.inputs, [each.value.source])
  model_bucket     = google_storage_bucket.models.name
  model_name       = each.key
  output_dataset   = regex("^(.+)[.][^.]+$", each.value.output_table)[0]
  project_id       = var.project_id
  purpose          = "dag"
  registry_dataset = local.registry_dataset

  depends_on = [google_bigquery_table.registry, google_bigquery_table.registry_views]
}

module "api_accounts" {
  source   = "./modules/model_service_account"
  for_each = local.models

  environment      = var.environment
  model_bucket     = google_storage_bucket.models.name
  model_name       = each.key
  project_id       = var.project_id
  purpose          = "api"
  registry_dataset = local.registry_dataset

  depends_on = [google_bigquery_table.registry, google_bigquery_table.registry_views]
}

# Composer's account starts the jobs, and its DAGs look at the ledger to see what became of a run. The account is not ours:
# it gets the roles below and keeps what it has.

locals {
  composer_members = var.composer_service_account == null ? [] : ["serviceAccount:${var.composer_service_account}"]

  # An operation that is waited for belongs to the region, not to a job: the job alone is too narrow for run.viewer.
  composer_project_roles = {
    for pair in setproduct(local.composer_members, ["roles/bigquery.jobUser", "roles/run.viewer"]) : pair[1] => pair[0]
  }
  composer_tables = { for pair in setproduct(local.composer_members, ["run_states", "runs"]) : pair[1] => pair[0] }
}

resource "google_cloud_run_v2_job_iam_member" "composer" {
  # run.invoker would not do: the DAG passes the run's moment and version as overrides.
  for_each = length(local.composer_members) == 0 ? {} : google_cloud_run_v2_job.predict

  location = each.value.location
  name     = each.value.name
  role     = "roles/run.jobsExecutorWithOverrides"
  member   = local.composer_members[0]
}

resource "google_project_iam_member" "composer" {
  for_each = local.composer_project_roles

  project = var.project_id
  role    = each.key
  member  = each.value
}

resource "google_bigquery_table_iam_member" "composer" {
  for_each = local.composer_tables

  project    = var.project_id
  dataset_id = local.registry_dataset
  table_id   = each.key
  role       = "roles/bigquery.dataViewer"
  member     = each.value

  depends_on = [google_bigquery_table.registry, google_bigquery_table.registry_views]
}

locals {
  # From arguments, not from the computed email: so a plan shows who gets what before the account is there.
  email  = "${google_service_account.this.account_id}@${google_service_account.this.project}.iam.gserviceaccount.com"
  member = "serviceAccount:${local.email}"

  publishes = var.output_dataset != null

  # Objects of the bucket: what may be done under which prefix. Listing asks about the bucket itself, so its prefix is
  # an attribute of the request; without it a task could not see which parts of its run's plan are there.
  bucket_roles = merge(
    { "model viewer" = { role = "roles/storage.objectViewer", prefix = "${var.model_name}/" } },
    local.publishes ? {
      "runs viewer"  = { role = "roles/storage.objectViewer", prefix = "_runs/" }
      "runs creator" = { role = "roles/storage.objectCreator", prefix = "_runs/" }
    } : {},
  )

  # A query job and a read session belong to the project that pays for them: no narrower resource has these roles.
  project_roles = ["roles/bigquery.jobUser", "roles/bigquery.readSessionUser"]

  # What finds a version (aliases and versions are views on events and models) and, for a job, the ledger of its runs.
  registry_roles = merge(
    { for table in ["aliases", "events", "models", "versions"] : table => "roles/bigquery.dataViewer" },
    local.publishes ? { runs = "roles/bigquery.dataEditor" } : {},
  )

  # project.dataset.table or project.dataset, taken apart from the end: old project ids have dots too.
  paths = { for path in var.inputs : path => regex("^(?P<project>(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]+)[.](?P<dataset>[A-Za-z0-9_]+)(?:[.](?P<table>[A-Za-z0-9_-]+))?$", path) }

  input_tables   = { for path, parts in local.paths : path => parts if parts.table != null }
  input_datasets = { for path, parts in local.paths : path => parts if parts.table == null }
  output         = local.publishes ? regex("^(?P<project>.+)[.](?P<dataset>[A-Za-z0-9_]+)$", var.output_dataset) : null
}

resource "google_service_account" "this" {
  project      = var.project_id
  account_id   = local.account_id
  display_name = "${var.model_name} ${var.purpose} ${var.environment}"
  description  = var.purpose == "dag" ? "Scores rows with ${var.model_name} in ${var.environment}" : "Answers HTTP predictions of ${var.model_name} in ${var.environment}"
}

resource "google_storage_bucket_iam_member" "objects" {
  for_each = local.bucket_roles

  bucket = var.model_bucket
  role   = each.value.role
  member = local.member

  condition {
    title       = each.key
    description = "Only objects under ${each.value.prefix}"
    expression = join(" || ", [
      "resource.name.startsWith(\"projects/_/buckets/${var.model_bucket}/objects/${each.value.prefix}\")",
      "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\").startsWith(\"${each.value.prefix}\")",
    ])
  }
}

resource "google_project_iam_member" "project" {
  for_each = toset(local.project_roles)

  project = var.project_id
  role    = each.key
  member  = local.member
}

resource "google_bigquery_table_iam_member" "registry" {
  for_each = local.registry_roles

  project    = var.project_id
  dataset_id = var.registry_dataset
  table_id   = each.key
  role       = each.value
  member     = local.member
}

resource "google_bigquery_table_iam_member" "inputs" {
  for_each = local.input_tables

  project    = each.value.project
  dataset_id = each.value.dataset
  table_id   = each.value.table
  role       = "roles/bigquery.dataViewer"
  member     = local.member
}

resource "google_bigquery_dataset_iam_member" "inputs" {
  for_each = local.input_datasets

  project    = each.value.project
  dataset_id = each.value.dataset
  role       = "roles/bigquery.dataViewer"
  member     = local.member
}

# On the dataset, not on the table: a run makes its staging tables beside the output, and the output when it is missing.
resource "google_bigquery_dataset_iam_member" "output" {
  count = local.publishes ? 1 : 0

  project    = local.output.project
  dataset_id = local.output.dataset
  role       = "roles/bigquery.dataEditor"
  member     = local.member
}

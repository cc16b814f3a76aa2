locals {
  # The environment that this one's models and images are promoted from. Dev is where they begin.
  promoted_from = lookup({ staging = "dev", prod = "staging" }, var.environment, null)

  # Anyone may call the HTTP service in dev and staging; in prod only who is named in service_invokers.
  is_public = var.environment != "prod"

  # An accident must not delete what schedules and callers rely on. In dev and staging a model can be taken off the list
  # in one step.
  deletion_protection = var.environment == "prod"

  # The models of this environment, each entry with what it says about this environment on top.
  models = {
    for name, model in var.models : name => merge(model, model.environments[var.environment])
    if contains(keys(model.environments), var.environment)
  }

  services = [
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "eventarc.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
  ]
}

# Applying dev's variables to prod's state would replace everything in it. The state remembers whose it is, and refuses.
resource "terraform_data" "environment" {
  input            = var.environment
  triggers_replace = var.environment

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_project_service" "apis" {
  for_each = toset(local.services)

  service            = each.key
  disable_on_destroy = false # the other environments share the project
}

check "somebody_starts_the_jobs" {
  assert {
    condition     = var.composer_service_account != null
    error_message = "composer_service_account is not set: no DAG can start the jobs of ${var.environment}."
  }
}

check "somebody_hears_the_alerts" {
  assert {
    condition     = length(var.alert_emails) > 0
    error_message = "alert_emails is empty: alerts of ${var.environment} are seen in the console only."
  }
}

# The account of a job may change all tables of its output's dataset (it makes its staging tables there).
check "no_job_may_change_what_it_reads" {
  assert {
    condition = alltrue([
      for model in values(local.models) : alltrue([
        for path in coalesce(model.inputs, [model.source]) : !startswith("${path}.", "${regex("^(.+)[.][^.]+$", model.output_table)[0]}.")
      ])
    ])
    error_message = "A model's output table is in a dataset that it reads from: its job could overwrite its own input."
  }
}

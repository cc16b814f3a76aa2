# The registry function: an object appears in the model bucket, Cloud Storage publishes it, Eventarc delivers it, and the
# function writes the version's row (scripts/model_registry). Three accounts, one for each step.

locals {
  function_name = "model-registry-${var.environment}"

  # As in modules/model_service_account: known at the plan.
  function_member = "serviceAccount:${google_service_account.function.account_id}@${google_service_account.function.project}.iam.gserviceaccount.com"
  trigger_member  = "serviceAccount:${google_service_account.trigger.account_id}@${google_service_account.trigger.project}.iam.gserviceaccount.com"
}

data "google_storage_project_service_account" "agent" {}

resource "google_service_account" "function" {
  project      = var.project_id
  account_id   = "model-registry-sa-${var.environment}"
  display_name = "Model registry ${var.environment}"
  description  = "Runs the registry function: reads manifests, writes ml_registry.models"
}

resource "google_service_account" "trigger" {
  project      = var.project_id
  account_id   = "model-registry-trigger-${var.environment}"
  display_name = "Model registry trigger ${var.environment}"
  description  = "Delivers upload events to the registry function"
}

# Cloud Storage's own agent publishes the events. It is one account for the whole project, so the role is in one state: an
# environment that is destroyed must not silence the others.
resource "google_project_iam_member" "storage_agent" {
  count = local.owns_registry ? 1 : 0

  project = var.project_id
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.agent.member
}

resource "google_project_iam_member" "trigger" {
  project = var.project_id
  role    = "roles/eventarc.eventReceiver"
  member  = local.trigger_member
}

resource "google_cloud_run_v2_service_iam_member" "trigger" {
  location = google_cloudfunctions2_function.registry.location
  name     = google_cloudfunctions2_function.registry.name # the function's Cloud Run service has the same one
  role     = "roles/run.invoker"
  member   = local.trigger_member
}

resource "google_project_iam_member" "function" {
  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = local.function_member
}

resource "google_storage_bucket_iam_member" "function" {
  bucket = google_storage_bucket.models.name
  role   = "roles/storage.objectViewer"
  member = local.function_member
}

resource "google_bigquery_table_iam_member" "function" {
  project    = var.project_id
  dataset_id = local.registry_dataset
  table_id   = "models"
  role       = "roles/bigquery.dataEditor"
  member     = local.function_member

  depends_on = [google_bigquery_table.registry]
}

resource "google_storage_bucket_object" "function_source" {
  bucket = google_storage_bucket.sources.name
  name   = "model-registry-${filesha256(var.function_archive)}.zip" # another content, another name: so the function is built anew
  source = var.function_archive
}

resource "google_cloudfunctions2_function" "registry" {
  name        = local.function_name
  location    = var.region
  description = "Registers the model version that an upload to ${google_storage_bucket.models.name} completes"

  build_config {
    runtime           = "python312"
    entry_point       = "register_model"
    docker_repository = google_artifact_registry_repository.functions.id
    service_account   = google_service_account.build.id

    source {
      storage_source {
        bucket = google_storage_bucket_object.function_source.bucket
        object = google_storage_bucket_object.function_source.name
      }
    }
  }

  service_config {
    service_account_email = trimprefix(local.function_member, "serviceAccount:")
    available_memory      = "512Mi"
    timeout_seconds       = 120
    max_instance_count    = 5
    ingress_settings      = "ALLOW_INTERNAL_ONLY" # Eventarc is internal

    environment_variables = {
      "GCP_PROJECT_ID"                              = var.project_id
      "GCS_BUCKET_MODELS_${upper(var.environment)}" = google_storage_bucket.models.name
      "MLSYS_ENV"                                   = var.environment
    }
  }

  event_trigger {
    trigger_region        = var.region
    event_type            = "google.cloud.storage.object.v1.finalized"
    retry_policy          = "RETRY_POLICY_RETRY" # for 24 hours; what can never succeed the function acknowledges itself
    service_account_email = trimprefix(local.trigger_member, "serviceAccount:")

    event_filters {
      attribute = "bucket"
      value     = google_storage_bucket.models.name
    }
  }

  # Whoever is to act must be allowed to before the first event, and the build account before the build.
  depends_on = [
    google_artifact_registry_repository_iam_member.build,
    google_bigquery_table.registry,
    google_bigquery_table_iam_member.function,
    google_project_iam_member.build,
    google_project_iam_member.build_sources,
    google_project_iam_member.function,
    google_project_iam_member.storage_agent,
    google_project_iam_member.trigger,
    google_service_account_iam_member.deploy_acts_as,
    google_storage_bucket_iam_member.build,
    google_storage_bucket_iam_member.function,
  ]
}

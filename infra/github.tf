# Who builds and who deploys, and how GitHub's workflows become them without a key. Neither account is one that anything
# runs as. What the deploy account needs to apply all of this (it makes accounts and grants roles) an administrator grants by
# hand, README.md step 8: an account must not widen its own reach through the state that it applies.

locals {
  build_member  = "serviceAccount:${google_service_account.build.account_id}@${google_service_account.build.project}.iam.gserviceaccount.com"
  deploy_member = "serviceAccount:${google_service_account.deploy.account_id}@${google_service_account.deploy.project}.iam.gserviceaccount.com"

  # Prod takes the main branch alone: what was not reviewed cannot reach it, whoever starts the workflow.
  github_condition = var.github_repository == null ? "" : join(" && ", concat(
    ["assertion.repository == \"${var.github_repository}\""],
    var.environment == "prod" ? ["assertion.ref == \"refs/heads/main\""] : [],
  ))
  github_member = var.github_repository == null ? "" : join("/", [
    "principalSet://iam.googleapis.com/projects/${data.google_project.this.number}/locations/global/workloadIdentityPools",
    google_iam_workload_identity_pool.github[0].workload_identity_pool_id,
    "attribute.repository",
    var.github_repository,
  ])
}

data "google_project" "this" {}

resource "google_iam_workload_identity_pool" "github" {
  count = var.github_repository == null ? 0 : 1

  workload_identity_pool_id = "github-${var.environment}"
  display_name              = "GitHub ${var.environment}"
  description               = "Workflows of ${var.github_repository} that deploy to ${var.environment}"

  depends_on = [google_project_service.apis]
}

resource "google_iam_workload_identity_pool_provider" "github" {
  count = var.github_repository == null ? 0 : 1

  workload_identity_pool_id          = google_iam_workload_identity_pool.github[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "github"
  display_name                       = "GitHub Actions"

  # Every repository on GitHub has tokens of this issuer: the condition is what tells ours from the rest.
  attribute_condition = local.github_condition
  attribute_mapping = {
    "google.subject"       = "assertion.sub"
    "attribute.ref"        = "assertion.ref"
    "attribute.repository" = "assertion.repository"
  }

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

# Builds: pushes the prediction image from a workflow, and the registry function's from Cloud Build.

resource "google_service_account" "build" {
  project      = var.project_id
  account_id   = "mlsys-build-${var.environment}"
  display_name = "mlsys build ${var.environment}"
  description  = "Pushes images of ${var.environment}; runs nothing"
}

resource "google_artifact_registry_repository_iam_member" "build" {
  for_each = {
    functions = google_artifact_registry_repository.functions
    images    = google_artifact_registry_repository.images
  }

  location   = each.value.location
  repository = each.value.repository_id
  role       = "roles/artifactregistry.writer"
  member     = local.build_member
}

# Promotion copies the image that was tested, by its digest.
resource "google_artifact_registry_repository_iam_member" "build_promotes" {
  count = local.promoted_from == null ? 0 : 1

  location   = var.region
  repository = "mlsys-${local.promoted_from}"
  role       = "roles/artifactregistry.reader"
  member     = local.build_member
}

resource "google_project_iam_member" "build" {
  project = var.project_id
  role    = "roles/logging.logWriter" # Cloud Build's log of the function's build
  member  = local.build_member
}

# Cloud Functions hands the source to the build in a bucket that it makes itself, at the first deployment.
resource "google_project_iam_member" "build_sources" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = local.build_member

  condition {
    title      = "function sources"
    expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}\")"
  }
}

resource "google_storage_bucket_iam_member" "build" {
  bucket = google_storage_bucket.sources.name
  role   = "roles/storage.objectViewer"
  member = local.build_member
}

# Deploys: applies this folder, syncs DAGs, promotes models.

resource "google_service_account" "deploy" {
  project      = var.project_id
  account_id   = "mlsys-deploy-${var.environment}"
  display_name = "mlsys deploy ${var.environment}"
  description  = "Applies Terraform, deploys DAGs and promotes models in ${var.environment}"
}

resource "google_artifact_registry_repository_iam_member" "deploy" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.repository_id
  role       = "roles/artifactregistry.reader" # which digest a tag names
  member     = local.deploy_member
}

# Deploying something that runs as an account takes this role on that very account.
resource "google_service_account_iam_member" "deploy_acts_as" {
  for_each = merge(
    { for name in keys(local.models) : "${name} job" => module.job_accounts[name].email },
    { for name in keys(local.models) : "${name} service" => module.api_accounts[name].email },
    {
      "function build"   = trimprefix(local.build_member, "serviceAccount:")
      "function runtime" = trimprefix(local.function_member, "serviceAccount:")
      "function trigger" = trimprefix(local.trigger_member, "serviceAccount:")
    },
  )

  service_account_id = "projects/${var.project_id}/serviceAccounts/${each.value}"
  role               = "roles/iam.serviceAccountUser"
  member             = local.deploy_member
}

resource "google_storage_bucket_iam_member" "deploy_dags" {
  count = var.composer_bucket == null ? 0 : 1

  bucket = var.composer_bucket
  role   = "roles/storage.objectUser"
  member = local.deploy_member

  condition {
    title = "dags"
    expression = join(" || ", [
      "resource.name.startsWith(\"projects/_/buckets/${var.composer_bucket}/objects/dags/\")",
      "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\").startsWith(\"dags/\")",
    ])
  }
}

# `mlsys promote` reads a version in the environment before, creates it in this one, and notes that in the registry.

resource "google_storage_bucket_iam_member" "deploy_models" {
  for_each = merge(
    {
      "creates here" = { bucket = google_storage_bucket.models.name, role = "roles/storage.objectCreator" }
      "reads here"   = { bucket = google_storage_bucket.models.name, role = "roles/storage.objectViewer" }
    },
    local.promoted_from == null ? {} : {
      "reads before" = { bucket = var.model_buckets[local.promoted_from], role = "roles/storage.objectViewer" }
    },
  )

  bucket = each.value.bucket
  role   = each.value.role
  member = local.deploy_member
}

resource "google_project_iam_member" "deploy" {
  for_each = toset(["roles/bigquery.jobUser", "roles/bigquery.readSessionUser"])

  project = var.project_id
  role    = each.key
  member  = local.deploy_member
}

resource "google_bigquery_table_iam_member" "deploy" {
  for_each = {
    aliases  = "roles/bigquery.dataViewer"
    events   = "roles/bigquery.dataEditor"
    models   = "roles/bigquery.dataViewer"
    versions = "roles/bigquery.dataViewer"
  }

  project    = var.project_id
  dataset_id = local.registry_dataset
  table_id   = each.key
  role       = each.value
  member     = local.deploy_member

  depends_on = [google_bigquery_table.registry, google_bigquery_table.registry_views]
}

resource "google_service_account_iam_member" "github" {
  for_each = var.github_repository == null ? {} : {
    build  = local.build_member
    deploy = local.deploy_member
  }

  service_account_id = "projects/${var.project_id}/serviceAccounts/${trimprefix(each.value, "serviceAccount:")}"
  role               = "roles/iam.workloadIdentityUser"
  member             = local.github_member
}

# What is granted in an environment that has one model, a Composer and a repository on GitHub: one line per role, "member: role
# on resource", and nothing else. The three environments' tests add what is theirs alone. Written by hand, to be read by
# whoever reviews access: a role that is not here fails the tests.

variable "environment" {
  description = "Environment whose grants are listed."
  type        = string
}

locals {
  env     = var.environment
  project = "shoufianesys"
  at      = "@shoufianesys.iam.gserviceaccount.com"
  short   = var.environment == "staging" ? "stg" : var.environment

  meant = {
    # The job: reads its model and its input, writes its output and its line in the ledger.
    "serviceAccount:titanic-survival-dag-sa-${local.short}${local.at}" = [
      "roles/bigquery.dataEditor on dataset ${local.project}.titanic_${local.env}",
      "roles/bigquery.dataEditor on table ${local.project}.ml_registry.runs",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.aliases",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.events",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.models",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.versions",
      "roles/bigquery.dataViewer on table ${local.project}.titanic.passengers",
      "roles/bigquery.jobUser on project ${local.project}",
      "roles/bigquery.readSessionUser on project ${local.project}",
      "roles/storage.objectCreator on bucket ml-models-${local.env}/_runs/",
      "roles/storage.objectViewer on bucket ml-models-${local.env}/_runs/",
      "roles/storage.objectViewer on bucket ml-models-${local.env}/titanic-survival/",
    ]

    # The HTTP service: reads its model, writes nothing.
    "serviceAccount:titanic-survival-api-sa-${local.short}${local.at}" = [
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.aliases",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.events",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.models",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.versions",
      "roles/bigquery.jobUser on project ${local.project}",
      "roles/bigquery.readSessionUser on project ${local.project}",
      "roles/storage.objectViewer on bucket ml-models-${local.env}/titanic-survival/",
    ]

    # The DAG: starts the job, waits for it, reads the ledger.
    "serviceAccount:composer-${local.env}${local.at}" = [
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.run_states",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.runs",
      "roles/bigquery.jobUser on project ${local.project}",
      "roles/run.jobsExecutorWithOverrides on job titanic-survival-${local.env}",
      "roles/run.viewer on project ${local.project}",
    ]

    # The registry function, and who starts it.
    "serviceAccount:model-registry-sa-${local.env}${local.at}" = [
      "roles/bigquery.dataEditor on table ${local.project}.ml_registry.models",
      "roles/bigquery.jobUser on project ${local.project}",
      "roles/storage.objectViewer on bucket ml-models-${local.env}",
    ]
    "serviceAccount:model-registry-trigger-${local.env}${local.at}" = [
      "roles/eventarc.eventReceiver on project ${local.project}",
      "roles/run.invoker on service model-registry-${local.env}",
    ]

    # Building and deploying.
    "serviceAccount:mlsys-build-${local.env}${local.at}" = [
      "roles/artifactregistry.writer on repository mlsys-${local.env}",
      "roles/artifactregistry.writer on repository mlsys-functions-${local.env}",
      "roles/logging.logWriter on project ${local.project}",
      "roles/storage.objectViewer on bucket ${local.project}-mlsys-sources-${local.env}",
      "roles/storage.objectViewer on project ${local.project} if function sources",
    ]
    "serviceAccount:mlsys-deploy-${local.env}${local.at}" = [
      "roles/artifactregistry.reader on repository mlsys-${local.env}",
      "roles/bigquery.dataEditor on table ${local.project}.ml_registry.events",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.aliases",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.models",
      "roles/bigquery.dataViewer on table ${local.project}.ml_registry.versions",
      "roles/bigquery.jobUser on project ${local.project}",
      "roles/bigquery.readSessionUser on project ${local.project}",
      "roles/iam.serviceAccountUser on account mlsys-build-${local.env}${local.at}",
      "roles/iam.serviceAccountUser on account model-registry-sa-${local.env}${local.at}",
      "roles/iam.serviceAccountUser on account model-registry-trigger-${local.env}${local.at}",
      "roles/iam.serviceAccountUser on account titanic-survival-api-sa-${local.short}${local.at}",
      "roles/iam.serviceAccountUser on account titanic-survival-dag-sa-${local.short}${local.at}",
      "roles/storage.objectCreator on bucket ml-models-${local.env}",
      "roles/storage.objectUser on bucket composer-${local.env} if dags",
      "roles/storage.objectViewer on bucket ml-models-${local.env}",
    ]
    "principalSet://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/github-${local.env}/attribute.repository/example/mlsys" = [
      "roles/iam.workloadIdentityUser on account mlsys-build-${local.env}${local.at}",
      "roles/iam.workloadIdentityUser on account mlsys-deploy-${local.env}${local.at}",
    ]
  }
}

output "grants" {
  description = "Lines such as serviceAccount:…: roles/… on …"
  value       = sort(flatten([for member, lines in local.meant : [for line in lines : "${member}: ${line}"]]))
}

output "build_account" {
  description = "Account that pushes images: what the build workflow logs in as."
  value       = trimprefix(local.build_member, "serviceAccount:")
}

output "deploy_account" {
  description = "Account that applies Terraform, deploys DAGs and promotes models: what the deploy workflows log in as."
  value       = trimprefix(local.deploy_member, "serviceAccount:")
}

output "github_provider" {
  description = "Workload Identity provider for google-github-actions/auth; null without github_repository."
  value       = one(google_iam_workload_identity_pool_provider.github[*].name)
}

output "grants" {
  description = "Every role that this state grants, by member: role on resource. A test holds it to what is meant."
  value       = { for member, lines in local.grants : member => sort(lines) }
}

output "image" {
  description = "Image that jobs and services run: what the next plan keeps when it is given no other."
  value       = var.image
}

output "image_repository" {
  description = "Where images of this environment are pushed to; the image is named mlsys."
  value       = "${google_artifact_registry_repository.images.location}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}

output "job_names" {
  description = "Cloud Run job of each model, named like its DAG."
  value       = { for name, job in google_cloud_run_v2_job.predict : name => job.name }
}

output "model_bucket" {
  description = "Bucket of this environment's models."
  value       = google_storage_bucket.models.name
}

output "service_urls" {
  description = "Address of each model's HTTP service."
  value       = { for name, service in google_cloud_run_v2_service.predict : name => service.uri }
}

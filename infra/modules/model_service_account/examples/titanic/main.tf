module "titanic_survival_job" {
  source = "../.."

  environment    = "staging"
  inputs         = ["shoufianesys.titanic.passengers"]
  model_bucket   = "ml-models-staging"
  model_name     = "titanic-survival"
  output_dataset = "shoufianesys.titanic_staging"
  project_id     = "shoufianesys"
}

output "account_id" {
  description = "titanic-survival-dag-sa-staging would have 31 characters, one more than Google allows."
  value       = module.titanic_survival_job.account_id
}

output "grants" {
  description = "Everything that the account may do."
  value       = module.titanic_survival_job.grants
}

output "object_conditions" {
  description = "The IAM condition of each role on the bucket, by its title."
  value       = module.titanic_survival_job.object_conditions
}

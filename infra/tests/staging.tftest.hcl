# What staging must be: public, promoted from dev, and no owner of anything shared.

# Google, as far as the plan asks it. Everything else of a resource is what infra/ says, or unknown.
mock_provider "google" {
  mock_data "google_bigquery_dataset" {
    defaults = { dataset_id = "ml_registry", location = "us-central1" }
  }

  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }

  mock_data "google_storage_project_service_account" {
    defaults = { member = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com" }
  }
}

variables {
  alert_emails             = ["mlops@example.com"]
  composer_bucket          = "composer-staging"
  composer_service_account = "composer-staging@shoufianesys.iam.gserviceaccount.com"
  environment              = "staging"
  function_archive         = "tests/staging.tftest.hcl" # any file: only its digest counts
  github_repository        = "example/mlsys"
  image                    = "us-central1-docker.pkg.dev/shoufianesys/mlsys-staging/mlsys:v0.1.0"
  registry_dir             = "tests/registry"
}

run "meant" {
  command = plan

  module {
    source = "./tests/meant"
  }
}

run "names" {
  command = plan

  assert {
    condition     = google_storage_bucket.models.name == "ml-models-staging" && output.model_bucket == "ml-models-staging"
    error_message = "The model bucket must be ml-models-staging, not ${google_storage_bucket.models.name}."
  }

  assert {
    condition     = google_cloud_run_v2_job.predict["titanic-survival"].name == "titanic-survival-staging"
    error_message = "The job must be named like the DAG."
  }

  assert {
    condition     = google_cloud_run_v2_service.predict["titanic-survival"].name == "titanic-survival-staging"
    error_message = "The HTTP service must be named like the job."
  }

  assert {
    condition     = google_cloudfunctions2_function.registry.name == "model-registry-staging"
    error_message = "The registry function must be model-registry-staging."
  }

  assert {
    condition = [module.job_accounts["titanic-survival"].account_id, module.api_accounts["titanic-survival"].account_id] == [
      "titanic-survival-dag-sa-stg", "titanic-survival-api-sa-stg",
    ]
    error_message = "The model's accounts must be titanic-survival-dag-sa-stg and titanic-survival-api-sa-stg."
  }

  assert {
    condition = alltrue([
      for id in [
        google_service_account.build.account_id,
        google_service_account.deploy.account_id,
        google_service_account.function.account_id,
        google_service_account.trigger.account_id,
        module.api_accounts["titanic-survival"].account_id,
        module.job_accounts["titanic-survival"].account_id,
      ] : length(id) >= 6 && length(id) <= 30
    ])
    error_message = "Google takes account ids of 6 to 30 characters."
  }

  assert {
    condition     = output.image_repository == "us-central1-docker.pkg.dev/shoufianesys/mlsys-staging" && startswith(var.image, output.image_repository)
    error_message = "Images of staging belong into mlsys-staging."
  }
}

run "access" {
  command = plan

  assert {
    condition     = google_cloud_run_v2_service_iam_member.public["titanic-survival"].member == "allUsers"
    error_message = "The HTTP service of staging must be public."
  }

  assert {
    condition     = google_cloud_run_v2_service.predict["titanic-survival"].invoker_iam_disabled == false
    error_message = "IAM must say who may call the service: invoker_iam_disabled would let everybody in."
  }

  assert {
    condition = toset(flatten([for member, lines in output.grants : [for line in lines : "${member}: ${line}"]])) == setunion(run.meant.grants, [
      "allUsers: roles/run.invoker on service titanic-survival-staging",
      "serviceAccount:mlsys-build-staging@shoufianesys.iam.gserviceaccount.com: roles/artifactregistry.reader on repository mlsys-dev", # promotes
      "serviceAccount:mlsys-deploy-staging@shoufianesys.iam.gserviceaccount.com: roles/storage.objectViewer on bucket ml-models-dev",   # promotes
    ])
    error_message = <<-EOT
      What is granted is not what is meant (tests/meant, and this file).
      Not meant: ${join("\n", setsubtract(flatten([for member, lines in output.grants : [for line in lines : "${member}: ${line}"]]), run.meant.grants))}
      Not granted: ${join("\n", setsubtract(run.meant.grants, flatten([for member, lines in output.grants : [for line in lines : "${member}: ${line}"]])))}
    EOT
  }

  assert {
    condition = alltrue(flatten([
      for lines in values(output.grants) : [
        for line in lines : !can(regex("^roles/(owner|editor|viewer|.*[aA]dmin|iam[.]serviceAccountTokenCreator) ", line))
      ]
    ]))
    error_message = "No basic role, no administrator, nobody who can sign for others."
  }

  # What runs as an account must not be able to push what will run.
  assert {
    condition = !contains(
      [module.job_accounts["titanic-survival"].email, module.api_accounts["titanic-survival"].email, google_cloudfunctions2_function.registry.service_config[0].service_account_email],
      output.build_account,
    ) && output.build_account != output.deploy_account
    error_message = "The build account must not be one that anything runs as."
  }

  assert {
    condition = alltrue([
      for title, expression in module.job_accounts["titanic-survival"].object_conditions :
      strcontains(expression, "startsWith(\"projects/_/buckets/ml-models-staging/objects/${title == "model viewer" ? "titanic-survival" : "_runs"}/\")")
    ])
    error_message = "A role on the bucket must hold under one prefix only."
  }

  assert {
    condition = (
      one(google_project_iam_member.build_sources.condition).expression == "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-us-central1\")"
      && startswith(one(google_storage_bucket_iam_member.deploy_dags[0].condition).expression, "resource.name.startsWith(\"projects/_/buckets/composer-staging/objects/dags/\") || ")
    )
    error_message = "The build account must read no bucket but the functions' sources, and the deploy account must write in Composer's dags/ alone."
  }

  # Any repository on GitHub can ask for a token of the same issuer.
  assert {
    condition     = google_iam_workload_identity_pool_provider.github[0].attribute_condition == "assertion.repository == \"example/mlsys\""
    error_message = "The provider must refuse other repositories."
  }
}

run "model_bucket" {
  command = plan

  assert {
    condition     = google_storage_bucket.models.versioning[0].enabled
    error_message = "The registry function reads overwritten manifests by their generation: the bucket must keep versions."
  }

  assert {
    condition     = google_storage_bucket.models.uniform_bucket_level_access && google_storage_bucket.models.public_access_prevention == "enforced"
    error_message = "The model bucket must be closed to the public and leave access to IAM."
  }

  assert {
    condition     = google_storage_bucket.sources.uniform_bucket_level_access && google_storage_bucket.sources.public_access_prevention == "enforced"
    error_message = "The bucket of the function's source must be closed to the public and leave access to IAM."
  }

  assert {
    condition     = google_storage_bucket.models.soft_delete_policy[0].retention_duration_seconds >= 604800 && !google_storage_bucket.models.force_destroy
    error_message = "Deleted models must be recoverable for a week at least."
  }

  assert {
    condition = length([
      for rule in google_storage_bucket.models.lifecycle_rule : rule
      if one(rule.action).type == "Delete" && one(rule.condition).age == 30 && one(rule.condition).matches_prefix == tolist(["_runs/"])
    ]) == 1
    error_message = "Runs' agreements must be deleted after 30 days, and only they."
  }

  # Everything that deletes is about _runs/ or about versions that are no longer current.
  assert {
    condition = alltrue([
      for rule in google_storage_bucket.models.lifecycle_rule :
      one(rule.condition).matches_prefix == tolist(["_runs/"]) || try(one(rule.condition).days_since_noncurrent_time >= 30, false)
      if one(rule.action).type == "Delete"
    ])
    error_message = "No rule may delete a model's current files."
  }

  assert {
    condition     = google_storage_bucket.models.location == google_cloudfunctions2_function.registry.event_trigger[0].trigger_region
    error_message = "The event trigger must be in the bucket's region."
  }
}

run "registry" {
  command = plan

  assert {
    condition     = length(google_bigquery_dataset.registry) + length(google_bigquery_table.registry) + length(google_bigquery_table.registry_views) == 0
    error_message = "The registry must be in the state of prod alone."
  }

  assert {
    condition     = alltrue([for sql in values(local.registry_views) : !strcontains(sql, "$${") && strcontains(sql, "`shoufianesys.ml_registry.")])
    error_message = "A view's SQL must name tables in full, with no placeholder left."
  }

  assert {
    condition     = local.registry_view_descriptions.aliases == "Stand-in for mlsys/registry/views/aliases.sql: what each alias points to now, in two lines of comment."
    error_message = "A view's description is the comment that its SQL starts with, and no more."
  }

  assert {
    condition = (
      google_cloudfunctions2_function.registry.event_trigger[0].event_type == "google.cloud.storage.object.v1.finalized"
      && google_cloudfunctions2_function.registry.event_trigger[0].retry_policy == "RETRY_POLICY_RETRY"
      && one(google_cloudfunctions2_function.registry.event_trigger[0].event_filters).value == "ml-models-staging"
      && google_cloudfunctions2_function.registry.event_trigger[0].service_account_email == "model-registry-trigger-staging@shoufianesys.iam.gserviceaccount.com"
    )
    error_message = "Uploads to ml-models-staging must start the function, again when it fails, as the trigger account."
  }

  assert {
    condition = google_cloudfunctions2_function.registry.service_config[0].environment_variables == tomap({
      GCP_PROJECT_ID            = "shoufianesys"
      GCS_BUCKET_MODELS_STAGING = "ml-models-staging"
      MLSYS_ENV                 = "staging"
    })
    error_message = "The function must know its environment, project and bucket."
  }
}

run "runs" {
  command = plan

  assert {
    condition = { for env in google_cloud_run_v2_job.predict["titanic-survival"].template[0].template[0].containers[0].env : env.name => env.value } == {
      GCP_PROJECT_ID            = "shoufianesys"
      GCP_REGION                = "us-central1"
      GCS_BUCKET_MODELS_STAGING = "ml-models-staging"
      ID_COLUMNS                = "passenger_id"
      MAX_REJECTS               = "0"
      MLSYS_ENV                 = "staging"
      MLSYS_IMAGE               = var.image
      MODEL_NAME                = "titanic-survival"
      MODEL_VERSION             = "champion"
      OUTPUT_TABLE              = "shoufianesys.titanic_staging.predictions"
      SOURCE                    = "shoufianesys.titanic.passengers"
    }
    error_message = "The job must get the model's entry and its own environment, and nothing of another's."
  }

  assert {
    condition = alltrue([
      for container in [
        google_cloud_run_v2_job.predict["titanic-survival"].template[0].template[0].containers[0],
        google_cloud_run_v2_service.predict["titanic-survival"].template[0].containers[0],
      ] : container.image == var.image
    ])
    error_message = "Job and service must run the one image that was built."
  }

  assert {
    condition = (
      google_cloud_run_v2_job.predict["titanic-survival"].template[0].template[0].service_account == module.job_accounts["titanic-survival"].email
      && google_cloud_run_v2_service.predict["titanic-survival"].template[0].service_account == module.api_accounts["titanic-survival"].email
    )
    error_message = "The job must run as its own account, and the service, which may be public, as the one that can write nothing."
  }

  assert {
    condition     = google_cloud_run_v2_job.predict["titanic-survival"].deletion_protection == false
    error_message = "Jobs must be protected from deletion in prod, and nowhere else."
  }
}

run "alerts" {
  command = plan

  assert {
    condition = alltrue([
      for part in ["resource.type = \"cloud_run_job\"", "job_name = \"titanic-survival-staging\"", "job/completed_execution_count", "result = \"failed\""] :
      strcontains(google_monitoring_alert_policy.failed_run["titanic-survival"].conditions[0].condition_threshold[0].filter, part)
    ])
    error_message = "There must be an alert on failed executions of titanic-survival-staging."
  }

  assert {
    condition = (
      google_monitoring_alert_policy.missing_run["titanic-survival"].conditions[0].condition_prometheus_query_language[0].query
      == "absent_over_time(run_googleapis_com:job_completed_execution_count{monitored_resource=\"cloud_run_job\",job_name=\"titanic-survival-staging\",result=\"succeeded\"}[26h])"
    )
    error_message = "There must be an alert when no run of titanic-survival-staging succeeded for 26 hours."
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.registration.conditions[0].condition_matched_log[0].filter, "service_name=\"model-registry-staging\"")
    error_message = "There must be an alert on models that could not be registered."
  }

  assert {
    condition     = [for channel in google_monitoring_notification_channel.email : channel.labels.email_address] == ["mlops@example.com"]
    error_message = "Alerts must reach the addresses of alert_emails."
  }
}

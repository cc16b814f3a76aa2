# The module by itself: the call that its README opens with, and what it refuses.

mock_provider "google" {}

run "the_call_in_the_readme" {
  command = plan

  module {
    source = "./modules/model_service_account/examples/titanic"
  }

  assert {
    condition     = output.account_id == "titanic-survival-dag-sa-stg"
    error_message = "titanic-survival-dag-sa-staging has 31 characters and must be shortened."
  }

  assert {
    condition     = contains(output.grants, "roles/bigquery.dataEditor on dataset shoufianesys.titanic_staging")
    error_message = "The account must be able to write into its output dataset."
  }

  assert {
    condition = output.object_conditions["runs viewer"] == join(" || ", [
      "resource.name.startsWith(\"projects/_/buckets/ml-models-staging/objects/_runs/\")",
      "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\").startsWith(\"_runs/\")",
    ])
    error_message = "Tasks must be able to read and to list under _runs/, and nowhere else."
  }
}

run "an_account_that_only_reads" {
  command = plan

  module {
    source = "./modules/model_service_account"
  }

  variables {
    environment  = "dev"
    model_bucket = "ml-models-dev"
    model_name   = "titanic-survival"
    project_id   = "shoufianesys"
    purpose      = "api"
  }

  assert {
    condition     = !anytrue([for line in output.grants : strcontains(line, "Editor") || strcontains(line, "Creator") || strcontains(line, "_runs/")])
    error_message = "Without an output dataset the account must write nothing."
  }
}

run "names_and_paths_that_are_none" {
  command = plan

  module {
    source = "./modules/model_service_account"
  }

  variables {
    environment    = "production"
    inputs         = ["passengers"]
    model_bucket   = "ml-models-dev"
    model_name     = "Titanic_Survival"
    output_dataset = "titanic"
    project_id     = "shoufianesys"
    purpose        = "notebook"
  }

  expect_failures = [var.environment, var.inputs, var.model_name, var.output_dataset, var.purpose]
}

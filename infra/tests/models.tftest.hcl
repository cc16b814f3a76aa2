# What the list of models may say: a second model is one entry, and what Google would refuse late is refused here.

mock_provider "google" {
  mock_data "google_bigquery_dataset" {
    defaults = { dataset_id = "ml_registry", location = "us-central1" }
  }

  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}

variables {
  alert_emails             = ["mlops@example.com"]
  composer_service_account = "composer-staging@shoufianesys.iam.gserviceaccount.com"
  environment              = "staging"
  function_archive         = "tests/models.tftest.hcl" # any file: only its digest counts
  image                    = "us-central1-docker.pkg.dev/shoufianesys/mlsys-staging/mlsys@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  registry_dir             = "tests/registry"
}

run "a_second_model_is_one_entry" {
  command = plan

  variables {
    models = {
      titanic-survival = {
        id_columns   = ["passenger_id"]
        environments = { staging = { source = "shoufianesys.titanic.passengers", output_table = "shoufianesys.titanic_staging.predictions" } }
      }
      customer-lifetime-value = {
        cpu              = "4"
        id_columns       = ["customer_id", "market"]
        max_bytes_billed = 50000000000
        max_rejects      = 0.01
        max_retries      = 3
        memory           = "8Gi"
        model_packages   = ["xgboost", "acme_features"]
        service          = { max_instances = 10 }
        task_count       = 4
        timeout_s        = 7200
        environments = {
          staging = {
            inputs       = ["acme-shop.crm", "acme-shop.web.visits"]
            output_table = "acme-shop.clv_staging.predictions"
            source       = "SELECT * FROM `acme-shop.crm.customers` JOIN `acme-shop.web.visits` USING (customer_id) WHERE day = DATE(@as_of)"
            version      = "champion"
          }
        }
      }
      not-here-yet = {
        id_columns   = ["id"]
        environments = { dev = { source = "acme-shop.crm.customers", output_table = "acme-shop.clv_dev.predictions" } }
      }
    }
  }

  assert {
    condition     = output.job_names == { titanic-survival = "titanic-survival-staging", customer-lifetime-value = "customer-lifetime-value-staging" }
    error_message = "Each model must have a job in every environment that its entry names, and in no other."
  }

  assert {
    condition     = module.job_accounts["customer-lifetime-value"].account_id == "customer-lifet-b0dd-dag-sa-stg"
    error_message = "A long model name must be shortened with its hash, as mlsys/names.py does."
  }

  assert {
    condition = toset(module.job_accounts["customer-lifetime-value"].grants) == toset([
      "roles/bigquery.dataEditor on dataset acme-shop.clv_staging",
      "roles/bigquery.dataEditor on table shoufianesys.ml_registry.runs",
      "roles/bigquery.dataViewer on dataset acme-shop.crm",
      "roles/bigquery.dataViewer on table acme-shop.web.visits",
      "roles/bigquery.dataViewer on table shoufianesys.ml_registry.aliases",
      "roles/bigquery.dataViewer on table shoufianesys.ml_registry.events",
      "roles/bigquery.dataViewer on table shoufianesys.ml_registry.models",
      "roles/bigquery.dataViewer on table shoufianesys.ml_registry.versions",
      "roles/bigquery.jobUser on project shoufianesys",
      "roles/bigquery.readSessionUser on project shoufianesys",
      "roles/storage.objectCreator on bucket ml-models-staging/_runs/",
      "roles/storage.objectViewer on bucket ml-models-staging/_runs/",
      "roles/storage.objectViewer on bucket ml-models-staging/customer-lifetime-value/",
    ])
    error_message = "A model must reach its own inputs, output and artifacts, and no other model's."
  }

  assert {
    condition = alltrue([
      for name, value in {
        ID_COLUMNS           = "customer_id,market"
        MAX_BYTES_BILLED     = "50000000000"
        MAX_REJECTS          = "0.01"
        MLSYS_MODEL_PACKAGES = "xgboost,acme_features"
        MODEL_NAME           = "customer-lifetime-value"
        MODEL_VERSION        = "champion"
      } : local.job_env["customer-lifetime-value"][name] == value
    ])
    error_message = "The job must get what its entry says."
  }

  assert {
    condition = (
      google_cloud_run_v2_job.predict["customer-lifetime-value"].template[0].task_count == 4
      && google_cloud_run_v2_job.predict["customer-lifetime-value"].template[0].template[0].max_retries == 3
      && google_cloud_run_v2_job.predict["customer-lifetime-value"].template[0].template[0].timeout == "7200s"
      && google_cloud_run_v2_job.predict["customer-lifetime-value"].template[0].template[0].containers[0].resources[0].limits == tomap({ cpu = "4", memory = "8Gi" })
      && google_cloud_run_v2_service.predict["customer-lifetime-value"].template[0].scaling[0].max_instance_count == 10
    )
    error_message = "Job and service must have the size that the entry says."
  }

  assert {
    condition     = output.github_provider == null && length(google_service_account_iam_member.github) == 0
    error_message = "Without github_repository nobody outside may act as the accounts."
  }
}

run "a_model_may_not_overwrite_its_input" {
  command = plan

  variables {
    models = { m = {
      id_columns   = ["id"]
      environments = { staging = { source = "acme.crm.customers", output_table = "acme.crm.predictions" } }
    } }
  }

  expect_failures = [check.no_job_may_change_what_it_reads]
}

run "a_query_says_what_it_reads" {
  command = plan

  variables {
    models = { m = {
      id_columns   = ["id"]
      environments = { staging = { source = "SELECT * FROM t", output_table = "acme.out.predictions" } }
    } }
  }

  expect_failures = [var.models]
}

run "a_name_that_cloud_run_refuses" {
  command = plan

  variables {
    models = { a-model-with-a-name-that-has-42-characters = {
      id_columns   = ["id"]
      environments = { staging = { source = "acme.crm.customers", output_table = "acme.out.predictions" } }
    } }
  }

  expect_failures = [var.models]
}

run "an_environment_that_there_is_not" {
  command = plan

  variables {
    models = { m = {
      id_columns   = ["id"]
      environments = { production = { source = "acme.crm.customers", output_table = "acme.out.predictions" } }
    } }
  }

  expect_failures = [var.models]
}

run "a_fraction_above_one" {
  command = plan

  variables {
    models = { m = {
      id_columns   = ["id"]
      max_rejects  = 5
      environments = { staging = { source = "acme.crm.customers", output_table = "acme.out.predictions" } }
    } }
  }

  expect_failures = [var.models]
}

run "a_tag_that_moves" {
  command = plan

  variables {
    image = "us-central1-docker.pkg.dev/shoufianesys/mlsys-staging/mlsys:latest"
  }

  expect_failures = [var.image]
}

run "a_commit_outside_of_dev" {
  command = plan

  variables {
    image = "us-central1-docker.pkg.dev/shoufianesys/mlsys-staging/mlsys:0123abc"
  }

  expect_failures = [var.image]
}

run "everybody_by_the_back_door" {
  command = plan

  variables {
    service_invokers = ["allAuthenticatedUsers"]
  }

  expect_failures = [var.service_invokers]
}

run "nobody_listens" {
  command = plan

  variables {
    alert_emails             = []
    composer_service_account = null
  }

  expect_failures = [check.somebody_hears_the_alerts, check.somebody_starts_the_jobs]
}

run "a_registry_elsewhere" {
  command = plan

  variables {
    region = "europe-west1"
  }

  expect_failures = [data.google_bigquery_dataset.registry]
}

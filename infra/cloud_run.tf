# One job per model, which the model's DAG starts, and one HTTP service. Both are named like the DAG (mlsys/names.py::dag_id)
# and run the same image; the image's entry point is the job's program.

locals {
  # What mlsys.settings reads. A model's bucket and project never come from the image.
  settings = {
    for name, model in local.models : name => merge(
      {
        "GCP_PROJECT_ID"                              = var.project_id
        "GCP_REGION"                                  = var.region
        "GCS_BUCKET_MODELS_${upper(var.environment)}" = google_storage_bucket.models.name
        "MLSYS_ENV"                                   = var.environment
        "MLSYS_IMAGE"                                 = var.image
      },
      length(model.model_packages) == 0 ? {} : { "MLSYS_MODEL_PACKAGES" = join(",", model.model_packages) },
    )
  }

  # What `mlsys predict` reads (scripts/README.md); the DAG overrides MODEL_VERSION and AS_OF. What is null is left out:
  # the command has its own defaults.
  job_env = {
    for name, model in local.models : name => merge(local.settings[name], {
      for key, value in {
        ID_COLUMNS       = join(",", model.id_columns)
        MAX_BYTES_BILLED = model.max_bytes_billed
        MAX_REJECTS      = model.max_rejects
        MODEL_NAME       = name
        MODEL_VERSION    = model.version
        OUTPUT_TABLE     = model.output_table
        PART_ROWS        = model.part_rows
        SOURCE           = model.source
      } : key => tostring(value) if value != null
    })
  }

  service_env = {
    for name, model in local.models : name => merge(local.settings[name], {
      MODEL_NAME    = name
      MODEL_VERSION = model.version
    })
  }
}

resource "google_cloud_run_v2_job" "predict" {
  for_each = local.models

  name                = "${each.key}-${var.environment}"
  location            = var.region
  deletion_protection = local.deletion_protection
  labels              = { model = each.key }

  template {
    task_count = each.value.task_count

    template {
      max_retries     = each.value.max_retries # of a task; it goes on after what it has loaded
      timeout         = "${each.value.timeout_s}s"
      service_account = module.job_accounts[each.key].email

      containers {
        image = var.image

        resources {
          limits = { cpu = each.value.cpu, memory = each.value.memory }
        }

        dynamic "env" {
          for_each = local.job_env[each.key]

          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }

  # A workflow that adds a model must be allowed to run something as its account before it does.
  depends_on = [google_project_service.apis, google_service_account_iam_member.deploy_acts_as]
}

resource "google_cloud_run_v2_service" "predict" {
  for_each = local.models

  name                = "${each.key}-${var.environment}"
  location            = var.region
  deletion_protection = local.deletion_protection
  description         = "HTTP predictions of ${each.key} in ${var.environment}"
  labels              = { model = each.key }

  # Who may call is a matter of IAM alone (below). Internal traffic only would shut out callers with a token as well.
  ingress              = "INGRESS_TRAFFIC_ALL"
  invoker_iam_disabled = false

  template {
    service_account = module.api_accounts[each.key].email
    timeout         = "60s"

    max_instance_request_concurrency = 8 # scoring takes a CPU; what is more waits better in front of another instance

    scaling {
      min_instance_count = 0 # nothing is paid for while nobody asks
      max_instance_count = each.value.service.max_instances
    }

    containers {
      image = var.image
      # It must listen before its model is there: in a new environment nobody has saved one yet, and Cloud Run takes a
      # service that does not listen for a failed deployment.
      command = ["python", "-m", "scripts.serve"]

      resources {
        limits            = { cpu = each.value.service.cpu, memory = each.value.service.memory }
        cpu_idle          = true
        startup_cpu_boost = true # importing scikit-learn is most of a cold start
      }

      dynamic "env" {
        for_each = local.service_env[each.key]

        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }

  depends_on = [google_project_service.apis, google_service_account_iam_member.deploy_acts_as]
}

# Dev and staging are open, for tests; an organization that forbids allUsers (iam.allowedPolicyMemberDomains) refuses this.
resource "google_cloud_run_v2_service_iam_member" "public" {
  for_each = local.is_public ? google_cloud_run_v2_service.predict : {}

  location = each.value.location
  name     = each.value.name
  role     = "roles/run.invoker"
  member   = "allUsers"
}

resource "google_cloud_run_v2_service_iam_member" "invokers" {
  for_each = {
    for pair in setproduct(keys(local.models), var.service_invokers) : "${pair[0]} ${pair[1]}" => {
      service = google_cloud_run_v2_service.predict[pair[0]]
      member  = pair[1]
    }
  }

  location = each.value.service.location
  name     = each.value.service.name
  role     = "roles/run.invoker"
  member   = each.value.member
}

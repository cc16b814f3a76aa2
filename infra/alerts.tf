# A run that failed, a run that did not come, and a model that could not be registered.

locals {
  # Two policies per model, not one with two conditions: Monitoring takes a PromQL condition only on its own.
  watched_for_absence = { for name, model in local.models : name => model.max_hours_between_runs if model.max_hours_between_runs != null }

  channels = [for channel in google_monitoring_notification_channel.email : channel.id]
}

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  display_name = "mlsys ${var.environment}: ${each.key}"
  type         = "email"
  labels       = { email_address = each.key }

  depends_on = [google_project_service.apis]
}

resource "google_monitoring_alert_policy" "failed_run" {
  for_each = local.models

  display_name          = "${google_cloud_run_v2_job.predict[each.key].name}: a run failed"
  combiner              = "OR"
  severity              = local.is_public ? "WARNING" : "ERROR"
  notification_channels = local.channels
  user_labels           = { env = var.environment, model = each.key }

  conditions {
    display_name = "An execution of the job failed"

    condition_threshold {
      filter          = "resource.type = \"cloud_run_job\" AND resource.labels.job_name = \"${google_cloud_run_v2_job.predict[each.key].name}\" AND metric.type = \"run.googleapis.com/job/completed_execution_count\" AND metric.labels.result = \"failed\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_DELTA"
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      No row of the failed run is visible: predictions are published all together or not at all. Airflow tries again by itself.

      Why it failed: `mlsys runs ${each.key}`, or the column `reason` of `${var.project_id}.ml_registry.run_states`. Exit codes are
      explained in `scripts/README.md`.
    EOT
  }
}

resource "google_monitoring_alert_policy" "missing_run" {
  for_each = local.watched_for_absence

  display_name          = "${google_cloud_run_v2_job.predict[each.key].name}: no run succeeded for ${each.value} hours"
  combiner              = "OR"
  severity              = local.is_public ? "WARNING" : "CRITICAL"
  notification_channels = local.channels
  user_labels           = { env = var.environment, model = each.key }

  conditions {
    display_name = "No execution of the job succeeded"

    # PromQL, because a metric-absence condition looks back 23.5 hours at most, which a daily run does not fit into, and
    # never fires for a job that never ran.
    condition_prometheus_query_language {
      query               = "absent_over_time(run_googleapis_com:job_completed_execution_count{monitored_resource=\"cloud_run_job\",job_name=\"${google_cloud_run_v2_job.predict[each.key].name}\",result=\"succeeded\"}[${each.value}h])"
      duration            = "0s"
      evaluation_interval = "300s"

      disable_metric_validation = true # in a new project the metric has no data yet
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      No run has succeeded for ${each.value} hours, and none may have failed: the DAG `${google_cloud_run_v2_job.predict[each.key].name}`
      may be paused, missing or waiting. Look there first, then at `mlsys runs ${each.key}`.
    EOT
  }
}

resource "google_monitoring_alert_policy" "registration" {
  display_name          = "${local.function_name}: an upload was not registered"
  combiner              = "OR"
  severity              = local.is_public ? "WARNING" : "ERROR"
  notification_channels = local.channels
  user_labels           = { env = var.environment }

  conditions {
    display_name = "The registry function logged an error"

    # Cloud Run gives lines on stderr no severity of their own; the function's lines start with theirs.
    condition_matched_log {
      filter = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${google_cloudfunctions2_function.registry.name}\" AND (severity>=ERROR OR textPayload=~\"^ERROR \")"
    }
  }

  alert_strategy {
    auto_close = "86400s"

    notification_rate_limit {
      period = "3600s" # a failing event is delivered again and again
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "A manifest was refused, or the function failed. Until its version is in `ml_registry.models`, nobody can load it. The function's log says why; see `scripts/model_registry/README.md`."
  }
}

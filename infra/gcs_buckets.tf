# The models of this environment. Versions and soft delete undo an overwritten or a deleted file; the registry function
# relies on versions too: an overwritten manifest stays readable for its late event.
resource "google_storage_bucket" "models" {
  name     = var.model_buckets[var.environment]
  location = var.region # the event trigger must be in the same one

  force_destroy               = false
  public_access_prevention    = "enforced"
  uniform_bucket_level_access = true # IAM conditions on prefixes need it

  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = 2592000 # 30 days
  }

  # What the tasks of a run agree on. Nobody asks for it when the run is over.
  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      age            = 30
      matches_prefix = ["_runs/"]
      with_state     = "ANY" # the live object, and then the noncurrent version that this leaves
    }
  }

  # Versions of a file that were overwritten or deleted. Model versions (v1, v2) are folders, and stay.
  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      days_since_noncurrent_time = 90
      with_state                 = "ARCHIVED"
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }

    condition {
      age = 7
    }
  }

  lifecycle {
    prevent_destroy = true # models cannot be made again
  }

  depends_on = [google_project_service.apis]
}

# The source of the registry function, an archive for each content that it had.
resource "google_storage_bucket" "sources" {
  name     = "${var.project_id}-mlsys-sources-${var.environment}"
  location = var.region

  public_access_prevention    = "enforced"
  uniform_bucket_level_access = true
  force_destroy               = true # git has it all

  depends_on = [google_project_service.apis]
}

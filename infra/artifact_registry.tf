# The prediction image, built in dev and promoted by digest: staging and prod hold a copy of their own.
resource "google_artifact_registry_repository" "images" {
  repository_id = "mlsys-${var.environment}"
  location      = var.region
  format        = "DOCKER"
  description   = "Prediction images of ${var.environment}"

  docker_config {
    immutable_tags = true # a tag says for good what was tested under it
  }

  # What no tag names after a month nobody will deploy. Tags are never removed: prod may run an old one.
  cleanup_policies {
    id     = "untagged"
    action = "DELETE"

    condition {
      tag_state  = "UNTAGGED"
      older_than = "2592000s" # 30 days
    }
  }

  depends_on = [google_project_service.apis]
}

# The registry function's images. They have a repository of their own because building a function moves its tags.
resource "google_artifact_registry_repository" "functions" {
  repository_id = "mlsys-functions-${var.environment}"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the registry function of ${var.environment}, made by Cloud Build"

  depends_on = [google_project_service.apis]
}

terraform {
  required_version = "~> 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.45"
    }
  }
}

provider "google" {
  project = var.project_id
  region  = var.region

  # The same two labels that mlsys puts on its BigQuery jobs (mlsys/names.py): one filter finds what an environment costs.
  default_labels = {
    env        = var.environment
    managed_by = "mlsys"
  }
}

variable "environment" {
  description = "Environment that the account works in: dev, staging or prod."
  type        = string

  validation {
    condition     = contains(["dev", "staging", "prod"], var.environment)
    error_message = "environment must be dev, staging or prod."
  }
}

variable "inputs" {
  description = "Tables (project.dataset.table) or datasets (project.dataset) that the account may read. A view counts, but so do the tables that it reads."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for path in var.inputs : can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]+[.][A-Za-z0-9_]+([.][A-Za-z0-9_-]+)?$", path))])
    error_message = "inputs must be project.dataset.table or project.dataset."
  }
}

variable "model_bucket" {
  description = "Bucket that holds the environment's models."
  type        = string
}

variable "model_name" {
  description = "Model that the account works for, such as titanic-survival."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$", var.model_name))
    error_message = "model_name must be lower-case letters, digits and hyphens, start with a letter, and have at most 50 characters."
  }
}

variable "output_dataset" {
  description = "Dataset (project.dataset) that the account publishes predictions in. Null: it publishes none, and keeps no run ledger."
  type        = string
  default     = null

  validation {
    condition     = var.output_dataset == null || can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]+[.][A-Za-z0-9_]+$", var.output_dataset))
    error_message = "output_dataset must be project.dataset."
  }
}

variable "project_id" {
  description = "Project of the account, of its BigQuery jobs and of the registry."
  type        = string
}

variable "purpose" {
  description = "What the account is for, as its name says: dag (the job that the DAG starts) or api (the HTTP service)."
  type        = string
  default     = "dag"

  validation {
    condition     = contains(["dag", "api"], var.purpose)
    error_message = "purpose must be dag or api."
  }
}

variable "registry_dataset" {
  description = "Name of the registry's dataset."
  type        = string
  default     = "ml_registry"
}

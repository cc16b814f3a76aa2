variable "alert_emails" {
  description = "Addresses that alerts are sent to. Empty: alerts are seen in the console only."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:]]+$", email))])
    error_message = "alert_emails must be addresses like mlops@example.com."
  }
}

variable "composer_bucket" {
  description = "Bucket of this environment's Composer, with uniform bucket-level access; DAGs are deployed to its dags/. Null: there is none yet."
  type        = string
  default     = null

  validation {
    condition     = var.composer_bucket == null || can(regex("^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$", var.composer_bucket))
    error_message = "composer_bucket must be the bucket's name alone, without gs:// and /dags."
  }
}

variable "composer_service_account" {
  description = "Address of the service account that this environment's Composer runs as. Null: nobody starts the jobs."
  type        = string
  default     = null

  validation {
    condition     = var.composer_service_account == null || can(regex("^[^@:]+@[^@]+[.]gserviceaccount[.]com$", var.composer_service_account))
    error_message = "composer_service_account must be the address of a service account, without a prefix such as serviceAccount:."
  }
}

variable "environment" {
  description = "Environment that is applied: dev, staging or prod. It must be the one whose backend file was given to init."
  type        = string

  validation {
    condition     = contains(["dev", "staging", "prod"], var.environment)
    error_message = "environment must be dev, staging or prod."
  }
}

variable "function_archive" {
  description = "Zip file with the source of the registry function, from this folder; package_function.py makes it."
  type        = string
  default     = "build/model_registry.zip"

  validation {
    condition     = fileexists(var.function_archive)
    error_message = "function_archive is not there: run python3 package_function.py in infra/ first."
  }
}

variable "github_repository" {
  description = "Repository whose workflows may act as the build and deploy accounts without a key, as owner/name. Null: none."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository must be owner/name."
  }
}

variable "image" {
  description = "Image that jobs and services run, by digest (…/mlsys@sha256:…) or by a tag that never moves (…/mlsys:v0.1.0)."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+-docker[.]pkg[.]dev(/[a-z0-9._-]+){3}(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})$", var.image))
    error_message = "image must be {region}-docker.pkg.dev/{project}/{repository}/{image} with a tag or @sha256: and 64 hexadecimal digits."
  }

  validation {
    condition     = !endswith(var.image, ":latest")
    error_message = "image must not be :latest: nobody could say what ran."
  }

  validation {
    condition     = var.environment == "dev" || can(regex("(@sha256:[0-9a-f]{64}|:v[0-9][A-Za-z0-9._-]*)$", var.image))
    error_message = "image must be given by digest or by a version tag such as :v0.1.0 in staging and prod; commits are deployed to dev."
  }
}

variable "model_buckets" {
  description = "Model bucket of each environment: the settings GCS_BUCKET_MODELS_*. Names are global, so yours may have to differ."
  type        = object({ dev = string, staging = string, prod = string })
  default = {
    dev     = "ml-models-dev"
    staging = "ml-models-staging"
    prod    = "ml-models-prod"
  }

  validation {
    condition     = alltrue([for name in values(var.model_buckets) : can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", name))])
    error_message = "model_buckets must be names of 3 to 63 lower-case letters, digits, hyphens and underscores."
  }

  validation {
    condition     = length(distinct(values(var.model_buckets))) == 3
    error_message = "model_buckets must be three different names."
  }
}

variable "models" {
  description = <<-EOT
    Models by name. Each has a job, an HTTP service and two service accounts in every environment that it names.
      id_columns        columns that identify a row
      environments      what differs, by environment; a model is not deployed to one that is left out:
        source                  full path of the table to score, or a query
        output_table            full path of the table of predictions; its dataset must be there
        inputs                  tables (project.dataset.table) or datasets (project.dataset) that a query reads
        version                 v1, v2, …, latest or an alias such as champion
        max_hours_between_runs  alert when no run succeeded for so long; null: no such alert
      cpu, memory, task_count, timeout_s, max_retries   of a task of the job, and how many share a run
      max_rejects, max_bytes_billed, part_rows          as scripts/README.md says
      model_packages                                    packages besides scikit-learn whose classes the model is made of
      service                                           cpu, memory and max_instances of the HTTP service
  EOT
  type = map(object({
    cpu = optional(string, "2")
    environments = map(object({
      inputs                 = optional(list(string))
      max_hours_between_runs = optional(number)
      output_table           = string
      source                 = string
      version                = optional(string, "latest")
    }))
    id_columns       = list(string)
    max_bytes_billed = optional(number)
    max_rejects      = optional(number, 0)
    max_retries      = optional(number, 1)
    memory           = optional(string, "4Gi")
    model_packages   = optional(list(string), [])
    part_rows        = optional(number)
    service = optional(object({
      cpu           = optional(string, "1")
      max_instances = optional(number, 3)
      memory        = optional(string, "2Gi")
    }), {})
    task_count = optional(number, 1)
    timeout_s  = optional(number, 3600)
  }))

  validation {
    # 41: Cloud Run takes 49 characters for a service, and -staging has 8.
    condition     = alltrue([for name in keys(var.models) : can(regex("^[a-z]([a-z0-9-]{0,39}[a-z0-9])?$", name))])
    error_message = "models must be named by at most 41 lower-case letters, digits and hyphens, starting with a letter."
  }

  validation {
    condition     = alltrue([for model in values(var.models) : length(setsubtract(keys(model.environments), ["dev", "staging", "prod"])) == 0])
    error_message = "models: environments must be dev, staging or prod."
  }

  validation {
    condition     = alltrue([for model in values(var.models) : length(model.id_columns) > 0 && alltrue([for column in model.id_columns : can(regex("^[^,[:space:]]+$", column))])])
    error_message = "models: id_columns must name at least one column, none with a comma or a space."
  }

  validation {
    condition = alltrue(flatten([
      for model in values(var.models) : [
        for entry in values(model.environments) : can(regex("^[a-z0-9.:-]+[.][A-Za-z0-9_]+[.][A-Za-z0-9_-]+$", entry.output_table))
      ]
    ]))
    error_message = "models: output_table must be project.dataset.table."
  }

  validation {
    condition = alltrue(flatten([
      for model in values(var.models) : [
        for entry in values(model.environments) : entry.inputs != null || can(regex("^[a-z0-9.:-]+[.][A-Za-z0-9_]+[.][A-Za-z0-9_-]+$", entry.source))
      ]
    ]))
    error_message = "models: source must be project.dataset.table, or a query with inputs that say what it reads."
  }

  validation {
    condition     = alltrue([for model in values(var.models) : contains(["1", "2", "4", "6", "8"], model.cpu) && can(regex("^[1-9][0-9]*(Mi|Gi)$", model.memory))])
    error_message = "models: cpu must be 1, 2, 4, 6 or 8, and memory like 512Mi or 4Gi."
  }

  validation {
    condition     = alltrue([for model in values(var.models) : model.max_rejects >= 0 && model.max_rejects <= 1])
    error_message = "models: max_rejects is a fraction, from 0 to 1."
  }

  validation {
    condition = alltrue([
      for model in values(var.models) :
      model.max_retries >= 0 && model.max_retries <= 10 && model.task_count >= 1 && model.task_count <= 10000
      && model.timeout_s >= 1 && model.timeout_s <= 604800
    ])
    error_message = "models: Cloud Run takes 0 to 10 retries, 1 to 10000 tasks, and 1 to 604800 seconds for a task."
  }
}

variable "project_id" {
  description = "Google Cloud project of all environments."
  type        = string
  default     = "shoufianesys"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be a project's id (not its number or name), and not one of a domain (example.com:…)."
  }
}

variable "region" {
  description = "Region of everything: an event trigger must be where its bucket is, and tables where the jobs are."
  type        = string
  default     = "us-central1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a single region such as us-central1, not a multi-region: Cloud Run has none."
  }
}

variable "registry_dir" {
  description = "Folder with the registry's schemas/ and views/, from this folder. Only tests, which see no other folder, have their own."
  type        = string
  default     = "../mlsys/registry"

  validation {
    condition     = fileexists("${var.registry_dir}/schemas/models.json")
    error_message = "registry_dir has no schemas/models.json: run Terraform in the infra/ folder of a whole checkout."
  }
}

variable "registry_owner" {
  description = "The one environment whose state has what exists once for all: dataset ml_registry, and the storage agent's role."
  type        = string
  default     = "prod"

  validation {
    condition     = contains(["dev", "staging", "prod"], var.registry_owner)
    error_message = "registry_owner must be dev, staging or prod."
  }
}

variable "service_invokers" {
  description = "Who may call the HTTP services besides everybody in dev and staging: members such as group:apps@example.com."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.service_invokers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):", member))])
    error_message = "service_invokers must be members like group:apps@example.com; allUsers and allAuthenticatedUsers cannot be among them."
  }
}

# The model registry, one for all environments: dataset ml_registry, in the state of registry_owner alone. The others find it
# there, and stop at the plan when it is missing.

locals {
  owns_registry    = var.environment == var.registry_owner
  registry_dataset = local.owns_registry ? one(google_bigquery_dataset.registry[*].dataset_id) : one(data.google_bigquery_dataset.registry[*].dataset_id)
}

resource "google_bigquery_dataset" "registry" {
  count = local.owns_registry ? 1 : 0

  dataset_id                 = "ml_registry"
  location                   = var.region
  description                = "Models and runs of every environment"
  delete_contents_on_destroy = false

  depends_on = [google_project_service.apis]
}

data "google_bigquery_dataset" "registry" {
  count = local.owns_registry ? 0 : 1

  dataset_id = "ml_registry"

  lifecycle {
    postcondition {
      condition     = self.location == var.region
      error_message = "ml_registry is in ${self.location}, not in ${var.region}: BigQuery joins nothing across locations."
    }
  }
}

# A new column is applied here before the function that fills it is deployed: hence the function's depends_on.
resource "google_bigquery_table" "registry" {
  for_each = { for table, schema in local.registry_schemas : table => schema if local.owns_registry }

  dataset_id          = google_bigquery_dataset.registry[0].dataset_id
  table_id            = each.key
  schema              = each.value
  deletion_protection = true # what the history is made from
}

resource "google_bigquery_table" "registry_views" {
  for_each = { for view, sql in local.registry_views : view => sql if local.owns_registry }

  dataset_id          = google_bigquery_dataset.registry[0].dataset_id
  table_id            = each.key
  description         = local.registry_view_descriptions[each.key]
  deletion_protection = false # a view holds nothing

  view {
    query          = each.value
    use_legacy_sql = false
  }

  depends_on = [google_bigquery_table.registry] # a view of tables that are not there is refused
}

# The registry's tables and views, from the very files that Python and the offline twin read (mlsys/registry/files.py).
# tests/test_infra_names.py compares what comes out here with what comes out there.
locals {
  registry_schemas = {
    for file in fileset("${var.registry_dir}/schemas", "*.json") :
    trimsuffix(file, ".json") => file("${var.registry_dir}/schemas/${file}")
  }

  # ${models} in a view's SQL becomes the full name of that table. templatefile, not replace: a name that is no table stops
  # the plan here instead of the query in BigQuery.
  registry_names = { for table in keys(local.registry_schemas) : table => "`${var.project_id}.ml_registry.${table}`" }
  registry_views = {
    for file in fileset("${var.registry_dir}/views", "*.sql") :
    trimsuffix(file, ".sql") => templatefile("${var.registry_dir}/views/${file}", local.registry_names)
  }

  # The comment that a view's SQL starts with is its description.
  registry_view_descriptions = {
    for view, sql in local.registry_views :
    view => join(" ", [for line in split("\n", regex("^(?:-- .*\n)*", sql)) : trimprefix(line, "-- ") if line != ""])
  }
}

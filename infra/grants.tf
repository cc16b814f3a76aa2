# Every role that this folder grants, in one place to read and to test (the output `grants`). It is made from the resources
# themselves; tests/test_infra_names.py fails when one of them is missing here.
locals {
  grants_on_project = [
    for g in concat(
      [google_project_iam_member.build, google_project_iam_member.build_sources],
      [google_project_iam_member.function, google_project_iam_member.trigger],
      google_project_iam_member.storage_agent,
      values(google_project_iam_member.composer),
      values(google_project_iam_member.deploy),
    ) : { member = g.member, role = g.role, on = "project ${g.project}", condition = g.condition }
  ]

  grants_on_buckets = [
    for g in concat(
      [google_storage_bucket_iam_member.build, google_storage_bucket_iam_member.function],
      google_storage_bucket_iam_member.deploy_dags,
      values(google_storage_bucket_iam_member.deploy_models),
    ) : { member = g.member, role = g.role, on = "bucket ${g.bucket}", condition = g.condition }
  ]

  grants_on_tables = [
    for g in concat(
      [google_bigquery_table_iam_member.function],
      values(google_bigquery_table_iam_member.composer),
      values(google_bigquery_table_iam_member.deploy),
    ) : { member = g.member, role = g.role, on = "table ${g.project}.${g.dataset_id}.${g.table_id}", condition = g.condition }
  ]

  grants_on_run = concat(
    [
      for g in values(google_cloud_run_v2_job_iam_member.composer) :
      { member = g.member, role = g.role, on = "job ${g.name}", condition = g.condition }
    ],
    [
      for g in concat(
        [google_cloud_run_v2_service_iam_member.trigger],
        values(google_cloud_run_v2_service_iam_member.invokers),
        values(google_cloud_run_v2_service_iam_member.public),
      ) : { member = g.member, role = g.role, on = "service ${g.name}", condition = g.condition }
    ],
  )

  grants_on_repositories = [
    for g in concat(
      [google_artifact_registry_repository_iam_member.deploy],
      google_artifact_registry_repository_iam_member.build_promotes,
      values(google_artifact_registry_repository_iam_member.build),
    ) : { member = g.member, role = g.role, on = "repository ${g.repository}", condition = g.condition }
  ]

  grants_on_accounts = [
    for g in concat(
      values(google_service_account_iam_member.deploy_acts_as),
      values(google_service_account_iam_member.github),
    ) : { member = g.member, role = g.role, on = "account ${basename(g.service_account_id)}", condition = g.condition }
  ]

  grants_of_models = [
    for account in concat(values(module.api_accounts), values(module.job_accounts)) :
    [for line in account.grants : { member = account.member, line = line }]
  ]

  grants = {
    for grant in concat(
      flatten(local.grants_of_models),
      [
        for g in concat(
          local.grants_on_project,
          local.grants_on_buckets,
          local.grants_on_tables,
          local.grants_on_run,
          local.grants_on_repositories,
          local.grants_on_accounts,
        ) : { member = g.member, line = join(" if ", concat(["${g.role} on ${g.on}"], g.condition[*].title)) }
      ],
    ) : grant.member => grant.line...
  }
}

output "account_id" {
  description = "The part of the address before the @: at most 30 characters."
  value       = google_service_account.this.account_id
}

output "email" {
  description = "Address of the account, to run something as."
  value       = local.email
}

output "grants" {
  description = "Everything that the account may do, one line for each role: role on resource."
  value = sort(concat(
    [for g in google_project_iam_member.project : "${g.role} on project ${g.project}"],
    [for key, g in google_storage_bucket_iam_member.objects : "${g.role} on bucket ${g.bucket}/${local.bucket_roles[key].prefix}"],
    [for g in google_bigquery_table_iam_member.registry : "${g.role} on table ${g.project}.${g.dataset_id}.${g.table_id}"],
    [for g in google_bigquery_table_iam_member.inputs : "${g.role} on table ${g.project}.${g.dataset_id}.${g.table_id}"],
    [for g in google_bigquery_dataset_iam_member.inputs : "${g.role} on dataset ${g.project}.${g.dataset_id}"],
    [for g in google_bigquery_dataset_iam_member.output : "${g.role} on dataset ${g.project}.${g.dataset_id}"],
  ))
}

output "member" {
  description = "The account as IAM names it."
  value       = local.member
}

output "object_conditions" {
  description = "The IAM condition of each role on the bucket, by its title."
  value       = { for title, g in google_storage_bucket_iam_member.objects : title => one(g.condition).expression }
}
